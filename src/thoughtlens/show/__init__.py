"""What people look at: figures, report, explorer, live pages."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
