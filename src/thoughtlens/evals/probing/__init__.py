"""Probes: learners, folds, features and comparisons on the same units."""
