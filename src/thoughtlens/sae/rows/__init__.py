"""Which rows of a store an SAE is trained on, and what is joined to them."""
