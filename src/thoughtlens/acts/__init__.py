"""The activation store: activations on disk, from one extraction to many readers."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
