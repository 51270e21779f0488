"""The sweep stage: one SAE per setting."""
