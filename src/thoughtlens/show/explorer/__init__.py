"""The explorer stage: static pages of the latents of a run."""
