"""Every metric, under its own name; loaded on first use. Formulas in `docs/metrics.md`."""

from thoughtlens import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
