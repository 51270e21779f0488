"""What the ranks of test_parallel.py do to extract, one store after another: `python -m ... FOLDER NAME...`.

Apart from `rank_worker`, which needs no language model.
"""

from __future__ import annotations

import sys
from pathlib import Path

from thoughtlens.config import load
from thoughtlens.extract import ExtractConfig, extract

if __name__ == "__main__":
    for name in sys.argv[2:]:
        root = Path(sys.argv[1])
        extract(load(ExtractConfig, root / f"{name}.toml"), root / f"{name}.two")
