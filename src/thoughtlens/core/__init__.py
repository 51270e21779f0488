"""What everything stands on: errors, configs, stages, progress, devices, ranks."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
