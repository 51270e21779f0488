"""A run as an object, and what its pages share."""
