"""The tables of one member, each computed from its codes and written once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa

from thoughtlens.core import Parts, column_table, progress, read_json, write_json
from thoughtlens.latents.codes.coded import Coded
from thoughtlens.latents.codes.examples import Examples, decile_examples, top_examples
from thoughtlens.latents.codes.statistics import coactive, common_tokens, latent_stats, level_counts
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.preferences import factors, labels_of
from thoughtlens.latents.interpret.records import CoactiveRow, CountRow, LatentRow, Tested
from thoughtlens.latents.interpret.shown import examples_table

MARKS = {"outlier": "outlier_norm", "first": "first_position"}
"""Kinds of rows on which a latent says little, and the reason that is given; the last that holds counts."""
TABLES = ("latents", "top_examples", "decile_examples", "associations", "counts", "coactivation")
BLOCK = 1024
"""Latents whose examples are shown at a time."""


class Tables:
    """Statistics of one member's latents, and the tables that they are shown in."""

    def __init__(self, cfg: InterpretConfig, coded: Coded) -> None:
        self.cfg, self.coded = cfg, coded
        columns = coded.rows.columns
        self.marks = {n: own.astype(bool) for n in MARKS if len(own := getattr(columns, n))}
        self.stats = latent_stats(coded.fires, self.marks)
        self.top = top_examples(coded.fires, coded.rows.row, coded.group, cfg.top_k)

    def write(self, parts: Parts, part: object) -> None:
        """Write all tables as those of a part of the stage; what is there is not done again."""
        makers: dict[str, Callable[[], pa.Table | Iterable[pa.Table]]] = {
            "latents": self._latents,
            "top_examples": lambda: self._shown(self.top),
            "decile_examples": lambda: self._shown(self._deciles[1]),
            "associations": lambda: self._associations(parts, part),
            "counts": self._counts,
            "coactivation": self._coactivation,
        }
        with progress(f"interpret {self.coded.name}", len(makers), "tables") as bar:
            for name, make in makers.items():
                if not parts.has_table(part, name):
                    parts.write_table(part, name, make())
                bar.advance(1)

    @cached_property
    def marked(self) -> dict[str, np.ndarray]:
        """For each kind of rows, the share of each latent's activation and of its top examples on them."""
        d_sae, place = self.coded.fires.d_sae, self.top.vector // self.coded.fires.n_hooks
        found = {}
        for name, why in MARKS.items():
            share = examples = np.zeros(d_sae)
            if name in self.marks:
                share = self.stats.marked_share(list(self.marks).index(name))
                n = np.bincount(self.top.latent, minlength=d_sae)
                on = np.bincount(self.top.latent, self.marks[name][place], minlength=d_sae)
                examples = on / np.maximum(n, 1)
            found |= {f"{why}_share": share, f"{why}_examples": examples}
        return found

    @cached_property
    def dense(self) -> np.ndarray:
        """Why each latent fires everywhere, on first tokens or on outlier norms; None: it does not."""
        reason = np.full(self.coded.fires.d_sae, None, object)
        for why in MARKS.values():
            most = np.maximum(self.marked[f"{why}_share"], self.marked[f"{why}_examples"])
            reason[(most > 0.5) & (self.stats.units >= self.cfg.min_units)] = why
        reason[self.stats.density > self.cfg.everywhere_density] = "dense"
        return reason

    @cached_property
    def _deciles(self) -> tuple[np.ndarray, Examples]:
        return decile_examples(self.coded.fires, self.coded.group, self.cfg.per_decile, self.cfg.seed)

    def _latents(self) -> pa.Table:
        stats = self.stats
        columns = {
            "latent": np.arange(self.coded.fires.d_sae), "n_vectors": stats.n_vectors, "n_fires": stats.fires,
            "density": stats.density, "n_problems": stats.units, "mean_active": stats.mean_active,
            "max_active": stats.max, "min_active": stats.min,
            "everywhere": [why is not None for why in self.dense], "everywhere_reason": self.dense,
            "histogram": stats.histogram, "deciles": self._deciles[0],
        }  # fmt: skip
        return column_table(LatentRow, {"member": self.coded.name} | columns | self.marked)

    def _shown(self, found: Examples) -> Iterator[pa.Table]:
        """The table of examples, a block of latents at a time; an empty one has its columns too."""
        for low in range(0, self.coded.fires.d_sae, BLOCK):
            own = slice(*np.searchsorted(found.latent, [low, low + BLOCK]))
            yield examples_table(self.cfg, self.coded, found.take(own))

    def _associations(self, parts: Parts, part: object) -> pa.Table:
        """All preferences; how many were tested is written beside the table, before it."""
        tables, tested = [], []
        for factor in factors(self.coded, self.cfg):
            tables.append(factor.table(self.coded.name))
            tested.append(factor.tested(self.coded.fires.n_units).to_json())
        write_json(parts.path(part, "tested.json"), {"preferences": tested})
        return pa.concat_tables(tables)

    def _counts(self) -> Iterator[pa.Table]:
        """Firings of each latent by thought, position, hook, label and on its most frequent tokens."""
        coded, fires, rows = self.coded, self.coded.fires, self.coded.rows
        levels = coded.inside()
        if len(levels) == 2 and not coded.text:
            (thought, thoughts), (hook, hooks) = levels["thought"], levels["hook"]
            names = [f"{h} thought {t}" for h in hooks for t in thoughts]
            levels["cell"] = hook * len(thoughts) + thought, names
        for label in labels_of(coded.problems, self.cfg):
            if 0 < len(label.levels) <= self.cfg.max_levels:
                codes = label.codes[rows.problem][rows.unit]
                levels[f"label:{label.name}"] = np.repeat(codes, fires.n_hooks), label.levels
        for by, (level, names) in levels.items():
            found, n = level_counts(fires, level, len(names))
            latent, at = np.nonzero(found)
            level_names = pa.array(names, pa.string()).take(pa.array(at))
            yield self._table(CountRow, latent, by=by, level=level_names, n_fires=found[latent, at], n=n[at])
        if coded.text:
            token = rows.columns.token_id
            found, n_fires = common_tokens(fires, token, self.cfg.top_tokens)
            latent, at = np.nonzero(found >= 0)
            known, which = np.unique(found[latent, at], return_inverse=True)
            names = coded.token_names(known.tolist())
            texts = pa.array([names[t] for t in known.tolist()], pa.string()).take(pa.array(which))
            n = (np.bincount(token, minlength=1) * fires.n_hooks)[found[latent, at]]
            yield self._table(CountRow, latent, by="token", level=texts, n_fires=n_fires[latent, at], n=n)

    def _coactivation(self) -> pa.Table:
        other, both, jaccard = coactive(self.coded.fires, self.coded.codes.by_vector, self.cfg.coactive)
        at = latent, rank = np.nonzero(other >= 0)
        return self._table(
            CoactiveRow, latent, rank=rank, other=other[at], n_both=both[at], jaccard=jaccard[at]
        )

    def _table(self, cls: type[CountRow | CoactiveRow], latent: np.ndarray, **columns: object) -> pa.Table:
        return column_table(cls, {"member": self.coded.name, "latent": latent, **columns})


def tested_of(parts: Parts, part: object) -> list[Tested]:
    """What `Tables.write` tested."""
    return [Tested.from_json(one) for one in read_json(parts.path(part, "tested.json"))["preferences"]]
