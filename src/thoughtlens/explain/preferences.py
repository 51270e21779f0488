"""Every preference of one SAE's latents in one go: what `explain.association` counts, for a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from thoughtlens.errors import ConfigError
from thoughtlens.explain import association
from thoughtlens.explain.examples import Fires
from thoughtlens.explain.member import Member
from thoughtlens.explain.tokens import load_tokenizer, token_texts
from thoughtlens.store.tables import PROBLEM_KEYS

PROBLEM_COLUMNS = {*PROBLEM_KEYS, "question", "text", "answer", "cot"}
POSITION_EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is tested and listed; fields as in `InterpretConfig`."""

    labels: tuple[str, ...] | None
    max_levels: int
    min_units: int
    min_token_fires: int
    top_tokens: int
    n_permutations: int
    seed: int


class Preferences:
    """The association accumulators of a member: tokens and positions, or hooks, thoughts; and labels."""

    def __init__(self, member: Member, cfg: Settings) -> None:
        self.member, self.cfg, rows = member, cfg, member.rows
        d_sae, n_hooks = member.sae.d_sae, len(member.hook_names)
        options = {"n_permutations": cfg.n_permutations, "seed": cfg.seed}
        self.inside: dict[str, tuple[np.ndarray | None, list[str], association.LevelPreference]] = {}
        self.tokens: association.TokenPreference | None = None
        if member.text:
            bins = np.searchsorted(POSITION_EDGES, rows.columns["position"], side="right") - 1
            names = _position_names()[: bins.max() + 1]
            self.inside["position"] = (bins, names, association.LevelPreference(d_sae, len(names), **options))
            self.tokens = association.TokenPreference(d_sae, int(rows.columns["token_id"].max()) + 1)
        else:
            thoughts = member.thoughts or []
            codes = np.searchsorted(thoughts, rows.columns["thought_idx"])
            names = [str(t) for t in thoughts]
            self.inside["thought"] = (codes, names, association.LevelPreference(d_sae, len(names), **options))
        if n_hooks > 1:
            preference = association.LevelPreference(d_sae, n_hooks, **options)
            self.inside["hook"] = (None, list(member.hook_names), preference)
        self.labels: dict[str, tuple[list[str], association.LabelPreference]] = {}
        problems = member.store.problems
        for name in label_columns(problems, cfg.labels, cfg.max_levels):
            codes, names = encode_labels(problems[name])
            preference = association.LabelPreference(d_sae, codes[rows.problem], len(names), **options)
            self.labels[name] = (names, preference)

    def update(self, fires: Fires, low: int, high: int) -> None:
        """Add the units `low` to `high`."""
        rows, n_hooks = self.member.rows, len(self.member.hook_names)
        places = np.arange(rows.first[low], rows.first[high])
        unit, n_units = rows.unit[places] - low, high - low
        vectors = np.bincount(unit, minlength=n_units) * n_hooks
        for codes, names, preference in self.inside.values():
            if codes is None:
                level, exposure = fires.hook, np.repeat(vectors[:, None] // n_hooks, n_hooks, axis=1)
            else:
                level = codes[fires.place]
                flat = np.bincount(unit * len(names) + codes[places], minlength=n_units * len(names))
                exposure = flat.reshape(n_units, len(names)) * n_hooks
            preference.update(fires.unit, fires.latent, level, exposure)
        for _, preference in self.labels.values():
            preference.update(fires.unit, fires.latent, vectors)
        if self.tokens is not None:
            token = rows.columns["token_id"]
            every = np.repeat(token[places], n_hooks)
            self.tokens.update(fires.unit, fires.latent, token[fires.place], every, n_units)

    def compute(self) -> tuple[pa.Table, list[dict[str, Any]]]:
        """All preferences as one table, and per factor how many were tested and hold."""
        cfg, tables, tested = self.cfg, [], []
        found = {name: (levels, p.compute(cfg.min_units)) for name, (_, levels, p) in self.inside.items()}
        found |= {f"label:{n}": (levels, p.compute(cfg.min_units)) for n, (levels, p) in self.labels.items()}
        for factor, (levels, one) in found.items():
            tested.append(_tested(factor, one, len(self.member.rows.problem)))
            tables.append(_association_table(self.member.name, factor, "rate difference", levels, one))
        if self.tokens is not None:
            one = self.tokens.compute(cfg.min_token_fires, top=cfg.top_tokens)
            tested.append(_tested("token", one, len(self.member.rows.problem)))
            tables.append(_association_table(self.member.name, "token", "lift", self._token_names(one), one))
        return pa.concat_tables(tables), tested

    def _token_names(self, found: association.Associations) -> dict[int, str]:
        meta = self.member.store.meta
        return token_texts(load_tokenizer(meta.model, meta.model_revision), np.unique(found.level))


def label_columns(problems: pa.Table, names: tuple[str, ...] | None, max_levels: int) -> list[str]:
    """Label columns to test: those named, or all with 2 to `max_levels` different values."""
    own = [name for name in problems.column_names if name not in PROBLEM_COLUMNS]
    for name in names or ():
        if name not in own:
            raise ConfigError(f"labels: expected some of {', '.join(own) or 'no labels'}, got {name!r}")
    flat = [name for name in (names or own) if not pa.types.is_nested(problems.schema.field(name).type)]
    counts = {name: len(problems[name].drop_null().unique()) for name in flat}
    return [name for name, n in counts.items() if 2 <= n <= max_levels]


def encode_labels(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Codes of a label column (-1: missing) and its values as text, sorted."""
    values = sorted(column.drop_null().unique().to_pylist())
    code = {value: i for i, value in enumerate(values)}
    codes = np.array([code.get(value, -1) for value in column.to_pylist()], np.int64)
    return codes, [str(v) for v in values]


def _association_table(
    name: str,
    factor: str,
    statistic: str,
    levels: list[str] | dict[int, str],
    found: association.Associations,
) -> pa.Table:
    n = len(found)
    return pa.table(
        {
            "member": pa.array([name] * n, pa.string()),
            "latent": found.latent.astype(np.int32),
            "factor": pa.array([factor] * n, pa.string()),
            "level": pa.array([levels[i] for i in found.level.tolist()], pa.string()),
            "statistic": pa.array([statistic] * n, pa.string()),
            "estimate": found.estimate,
            "low": found.low,
            "high": found.high,
            "rate_in": found.rate_in,
            "rate_out": found.rate_out,
            "n_fires": found.n_fires,
            "n_problems": found.n_units,
            "z": found.z,
            "q_value": found.q_value,
            "p_max": found.p_max,
        }
    )


def _tested(factor: str, found: association.Associations, n_problems: int) -> dict[str, Any]:
    return {
        "factor": factor,
        "n": n_problems,
        "n_tested": len(found),
        "n_latents": len(np.unique(found.latent)),
        "n_q_below_0.05": int((found.q_value < 0.05).sum()),
        "n_p_max_below_0.05": None if factor == "token" else int((found.p_max < 0.05).sum()),
    }


def _position_names() -> list[str]:
    ends = [*(e - 1 for e in POSITION_EDGES[1:]), None]
    return [
        f"{a}+" if b is None else str(a) if a == b else f"{a}-{b}"
        for a, b in zip(POSITION_EDGES, ends, strict=True)
    ]
