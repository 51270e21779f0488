"""Texts, problems and labelled sets: what a model is asked."""
