"""Kernels, metrics and statistics: numbers in, numbers out."""
