"""Edits of thoughts while the model thinks."""
