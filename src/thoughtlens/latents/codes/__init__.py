"""Sparse codes of an SAE on disk."""
