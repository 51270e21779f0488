"""The train stage: an activation store in, one SAE or one per member out."""
