"""Around the work: machine checks, sharing, tracking, measuring."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
