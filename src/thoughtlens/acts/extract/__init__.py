"""The extract stage: run a model and store its activations."""
