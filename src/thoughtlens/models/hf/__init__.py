"""Language models from the hub, directories and GGUF files."""
