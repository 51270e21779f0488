"""The grid stage: one SAE per hook and thought."""
