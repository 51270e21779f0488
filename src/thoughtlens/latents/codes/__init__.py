"""Sparse codes of an SAE on disk, and the statistics of its latents: associations, examples, preferences."""
