"""The activation store: activations on disk, from one extraction to many readers."""
