"""The orbits stage: how far a state moves from thought to thought, and whether it comes to rest."""
