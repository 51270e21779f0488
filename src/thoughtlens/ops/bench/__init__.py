"""What `thoughtlens bench` measures: medians of repeated runs, as one JSON-able dict each."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
