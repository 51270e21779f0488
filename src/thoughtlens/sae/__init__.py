"""Sparse autoencoders: one file per architecture, all on `SAE`; names are loaded on first use."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
