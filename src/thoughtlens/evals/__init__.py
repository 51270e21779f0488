"""Evaluations: reconstruction, probing, classification, validity."""
