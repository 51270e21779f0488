"""Tracing: what single thoughts hold, one question at a time."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
