"""Recovery: does the dictionary hold the variables, each value in a latent, and where."""
