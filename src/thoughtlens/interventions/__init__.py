"""Edits of thoughts while the model thinks."""

from thoughtlens.core import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
