"""Latents: their codes, statistics, explanations, lenses and geometry."""
