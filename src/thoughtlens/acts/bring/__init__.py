"""The import stage: activations that somebody has already, as a store like any other."""
