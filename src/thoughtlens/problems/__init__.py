"""Texts, problems and labelled sets: what a model is asked."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
