"""Texts and labelled sets."""
