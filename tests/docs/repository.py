"""The repository that the pages are in."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
