"""An SAE on held-out rows: what it reconstructs, how it fires, what the model loses when it is spliced in."""
