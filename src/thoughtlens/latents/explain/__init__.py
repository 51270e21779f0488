"""The explain stage: explanations of latents, scored on held-out examples."""
