"""What the ranks of test_parallel.py do to extract, one store after another: `python -m ... FOLDER NAME...`.

Apart from `rank_worker`, which needs no language model.
"""

from __future__ import annotations

import sys
from pathlib import Path

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import load_config

if __name__ == "__main__":
    for name in sys.argv[2:]:
        root = Path(sys.argv[1])
        extract(load_config(ExtractConfig, root / f"{name}.toml"), root / f"{name}.two")
