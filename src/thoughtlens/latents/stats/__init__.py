"""Statistics of latents: associations, examples, preferences."""
