"""Recovery: where states hold the variables of problems, and whether a latent speaks for each value."""
