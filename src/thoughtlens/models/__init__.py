"""Language models and thought models: loading, capture, the loop of thoughts."""
