"""Baselines with the interface of an SAE."""
