"""The gates stage: whether it is the thoughts that reason."""
