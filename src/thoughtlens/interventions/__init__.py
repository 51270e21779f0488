"""Edits of thoughts while the model thinks."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
