"""The classify stage: labels from latents, raw activations and baselines."""
