"""The interpret stage: what each latent responds to."""
