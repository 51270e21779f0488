"""Language models and thought models: loading, capture, the loop of thoughts."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
