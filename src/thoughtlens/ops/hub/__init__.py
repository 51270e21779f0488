"""Sharing of SAEs and runs."""
