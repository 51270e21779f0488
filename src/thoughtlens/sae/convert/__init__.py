"""Other libraries' SAEs: recognised, read, written, and proved to compute the same (docs/converting.md)."""

from __future__ import annotations

from thoughtlens.sae.convert.formats import FORMATS, Format, recognise
from thoughtlens.sae.convert.plain import Plain
from thoughtlens.sae.convert.run import ConvertConfig, convert

__all__ = ["FORMATS", "ConvertConfig", "Format", "Plain", "convert", "recognise"]
