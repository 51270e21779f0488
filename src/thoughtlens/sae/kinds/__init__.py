"""Sparse autoencoders: one file per architecture."""
