"""Stages: settings, resuming, the registry of all of them, what earlier versions wrote."""
