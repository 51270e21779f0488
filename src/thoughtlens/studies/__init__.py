"""Recipes and what runs many stages: the pipeline, sweeps."""
