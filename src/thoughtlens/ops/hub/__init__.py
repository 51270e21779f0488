"""Sharing of SAEs and runs."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
