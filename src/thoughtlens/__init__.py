"""thoughtlens: see what a language model is thinking.

Public names are loaded lazily, so that importing the package costs neither torch nor time.
"""

from __future__ import annotations

import os

from thoughtlens.core import face

__version__ = "0.1.0"

# Read when torch loads. Its threads spin while they wait for work: not at all slows a model's many short
# operations by a tenth, for long takes the cores from the kernels' own threads and from other programs.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__getattr__, __dir__, __all__ = face(__name__, __file__)
