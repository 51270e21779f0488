"""Graphs of what makes what: their records, and the form that other tools' viewers read."""
