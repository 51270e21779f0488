"""The tables of a run that say something of single latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.core import NotThereError

FILES = {
    "latents": "interpret/latents.parquet",
    "top": "interpret/top_examples.parquet",
    "deciles": "interpret/decile_examples.parquet",
    "logits": "lens/latents.parquet",
    "explanations": "explain/explanations.parquet",
}
OPTIONAL = {
    "deciles": "examples of each decile (interpret)",
    "logits": "tokens spoken for and against (lens)",
    "explanations": "explanations (explain)",
}
"""Tables that a run need not have: what they hold, and the stage that makes them."""


class Tables:
    """Rows by latent of one SAE; a table that the run does not have gives none.

    Raises:
        NotThereError: one that the interpret stage always makes is missing.
    """

    def __init__(self, run: Path, member: str) -> None:
        self.tables: dict[str, tuple[pa.Table, np.ndarray]] = {}
        for name, file in FILES.items():
            if (run / file).is_file():
                self.tables[name] = _sorted(pq.read_table(run / file), member)
            elif name not in OPTIONAL:
                raise NotThereError(f"Expected {run / file}, found none; run thoughtlens interpret again")

    def rows(self, name: str, latent: int) -> list[dict[str, Any]]:
        """A table's rows of one latent."""
        if name not in self.tables:
            return []
        table, latents = self.tables[name]
        low, high = np.searchsorted(latents, [latent, latent + 1])
        return table.slice(low, high - low).to_pylist()


def _sorted(table: pa.Table, member: str) -> tuple[pa.Table, np.ndarray]:
    own = [name == member for name in table["member"].to_pylist()]
    table = table.filter(pa.array(own, pa.bool_()))
    latents = table["latent"].to_numpy()
    order = np.argsort(latents, kind="stable")
    return table.take(pa.array(order)), latents[order]
