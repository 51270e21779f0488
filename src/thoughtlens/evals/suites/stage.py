"""Evaluation suites of others, offline on any model, with this project's statistics beside theirs."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq

from thoughtlens.core import (
    ConfigError,
    DataError,
    MismatchError,
    Parts,
    Plan,
    Record,
    Result,
    progress,
    run_stage,
    to_table,
    warn,
)
from thoughtlens.evals.suites import ours, summary, theirs
from thoughtlens.evals.suites.config import SuiteConfig
from thoughtlens.evals.suites.ours import LabelledSet
from thoughtlens.evals.suites.reading import last_tokens, latents, load_sae
from thoughtlens.evals.suites.records import (
    AUCDifference,
    ComparisonRow,
    OurRow,
    SetLine,
    SetResult,
    SuiteOutcome,
    TheirRow,
)
from thoughtlens.models import LanguageModel, load
from thoughtlens.problems import PREFIX, binary_sets, labelled
from thoughtlens.sae import SAE

R = TypeVar("R", bound=Record)
TEXTS, TOKENS = 3000, 60
"""Texts of a set, and tokens of a text, as most sets have them."""
SECONDS = 110.0
"""For one set on one core: reading with a model of 135 million parameters, and all fits."""


def suite(cfg: SuiteConfig, out: str | Path) -> Result:
    """Run a suite; an interrupted call continues with the set it was at.

    Returns:
        The stage's result: means over the sets under the suite's own protocol and under this project's,
        differences between latents and raw activations with verdicts, and one line for each set.

    Raises:
        NotThereError: the suite's package, the model or the SAE is not there.
        ConfigError: an unknown set, or several SAEs and none chosen.
        MismatchError: the SAE has another width than the model's hook.
    """
    return run_stage("suite", cfg, out, lambda tmp: _work(cfg, tmp), inputs={"sae": Path(cfg.sae)})


def plan(cfg: SuiteConfig) -> Plan:
    """Rows, memory, disk and time of the stage, of sets as they usually are."""
    n = len(cfg.datasets or binary_sets())
    return Plan(rows=n * TEXTS, memory_bytes=1.5e9, disk_bytes=3e4 * n, seconds=SECONDS * n)


def _work(cfg: SuiteConfig, tmp: Path) -> SuiteOutcome:
    names, parts = _names(cfg), Parts(tmp)
    sae, hook = load_sae(Path(cfg.sae), cfg.member, cfg.hook_name)
    lm = functools.cache(lambda: load(**cfg.model.model_dump()))
    missing = list(parts.todo(names))
    with progress("suite " + cfg.suite, len(names), "sets", start=len(names) - len(missing)) as bar:
        for name in missing:
            parts.finish(name, _one(cfg, name, lm, sae, hook))
            bar.advance(1, name)
    return _collect(cfg, tmp, parts.summaries(names, SetResult), hook)


def _names(cfg: SuiteConfig) -> list[str]:
    known = binary_sets()
    if cfg.datasets is None:
        return known
    for name in cfg.datasets:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; for example {', '.join(known[:3])}"
            raise ConfigError(f"datasets: sae-probes has no set of two classes {name!r}{hint}")
    return list(dict.fromkeys(cfg.datasets))


def _one(cfg: SuiteConfig, name: str, lm: Callable[[], LanguageModel], sae: SAE, hook: str) -> SetResult:
    """Both protocols on one set."""
    table = labelled(PREFIX + name)
    texts, labels = table["text"].to_pylist(), np.array(table["label"].to_pylist(), object)
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) != 2:
        raise DataError(f"{name}: expected two classes, got {', '.join(classes[:5])}")
    groups = np.unique(np.array(table["group"].to_pylist(), object), return_inverse=True)[1]
    x = last_tokens(lm(), hook, texts, cfg)
    if x.shape[1] != sae.d_in:
        raise MismatchError(
            f"The SAE in {cfg.sae} takes activations of width {sae.d_in}, {cfg.model.name} has "
            f"{x.shape[1]} at {hook}; give the model and the hook that it was trained on"
        )
    data = LabelledSet(x.numpy(), latents(sae, hook, x), texts, y, groups, classes.tolist())
    return SetResult(
        dataset=name,
        n=len(y),
        n_texts=int(groups.max()) + 1,
        classes=data.classes,
        model_digest=lm().digest,
        theirs=theirs.theirs(data.x, data.acts, y, groups, cfg),
        ours=ours.ours(data, cfg) if cfg.own else None,
    )


def _collect(cfg: SuiteConfig, tmp: Path, sets: list[SetResult], hook: str) -> SuiteOutcome:
    """Tables on disk, and the stage's result."""
    compared = summary.comparison_rows(sets)
    their = [TheirRow(dataset=s.dataset, **vars(row)) for s in sets for row in s.theirs.table]
    own = [OurRow(dataset=s.dataset, **vars(row)) for s in sets if s.ours for row in s.ours.table]
    _write(tmp, "sae_probes", TheirRow, their)
    _write(tmp, "comparisons", ComparisonRow, compared)
    if own:
        _write(tmp, "table", OurRow, own)
    warnings = _warnings(sets)
    for text in warnings:
        warn(text)
    over, own_over = summary.over_sets(sets, compared, cfg), summary.own_over_sets(sets, compared, cfg)
    return SuiteOutcome(
        suite=cfg.suite,
        model=cfg.model.name,
        model_digest=sets[0].model_digest,
        hook_name=hook,
        n=len(sets),
        split="last tokens of the suite's texts",
        datasets=[_line(s, d) for s, d in zip(sets, summary.over_all(sets, cfg.delta), strict=True)],
        sae_probes=over,
        thoughtlens=own_over,
        headline=summary.headline(over, own_over),
        definitions=summary.definitions(),
        warnings=warnings,
    )


def _write(tmp: Path, name: str, cls: type[R], rows: Sequence[R]) -> None:
    pq.write_table(to_table(cls, rows), tmp / f"{name}.parquet", compression="zstd")


def _line(one: SetResult, difference: AUCDifference) -> SetLine:
    their = one.theirs
    return SetLine(
        dataset=one.dataset,
        n=one.n,
        n_texts=one.n_texts,
        classes=one.classes,
        best_k=their.best_k,
        latents=their.latents[: their.best_k][:10],
        n_leaked=their.table[0].n_leaked,
        auc_sae_minus_raw=difference,
    )


def _warnings(sets: Sequence[SetResult]) -> list[str]:
    out = []
    if leaky := [s.dataset for s in sets if s.theirs.table[0].n_leaked]:
        out.append(
            f"{len(leaky)} of {len(sets)} sets have test rows whose text sae-probes' split also trains on "
            f"({', '.join(leaky[:3])}{', ...' if len(leaky) > 3 else ''}): n_leaked counts them; this "
            f"project's folds keep copies together"
        )
    converged = [row.converged for s in sets for row in s.theirs.table]
    if late := converged.count(False):
        out.append(
            f"{late} of {len(converged)} of sae-probes' fits end at its limit of steps; it takes them as "
            f"they are"
        )
    return out
