"""Models that reason in fed-back vectors: one interface, one file per family."""
