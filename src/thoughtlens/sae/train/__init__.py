"""The train stage: an activation store in, SAEs out."""
