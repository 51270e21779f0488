"""Chains: what the thoughts of a problem computed, found without its labels, and tested by changing them."""
