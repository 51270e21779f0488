"""Kernels, metrics and statistics: numbers in, numbers out."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
