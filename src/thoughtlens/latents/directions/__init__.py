"""Directions that are no SAE's: read like latents, one at each end."""
