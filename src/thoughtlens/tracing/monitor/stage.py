"""The monitor stage: two scores of a problem's thoughts, their thresholds, and what simpler scores are worth.

Neither score is shown what there is to notice. Thresholds come from the clean problems of one split, areas
and recalls from another; beside them stand the answer's own sureness, the question's words, and the state
before any thought, each with the difference on the same problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from thoughtlens.acts import ActivationStore, StoreSize, thought_model
from thoughtlens.core import Plan, Result, run_stage, warn, write_rows
from thoughtlens.latents import of_thoughts
from thoughtlens.models import ThoughtModel
from thoughtlens.numerics import proportion
from thoughtlens.tracing.monitor.config import MonitorConfig
from thoughtlens.tracing.monitor.records import MonitorOutcome, Truth, WatchedRow
from thoughtlens.tracing.monitor.splits import Split, Who, require_label, rows_of, watched
from thoughtlens.tracing.monitor.truths import BEYOND, CONTRADICTS, MARGIN, headline_of, surplus, truth_of
from thoughtlens.tracing.read.rules import rule_for
from thoughtlens.tracing.read.subject import problems_of

DEFINITIONS = {
    CONTRADICTS: "-log p of the chain that the thoughts say, nats: each operation as it is read, each value "
    "as what follows from the one before, the last of them as the answer, and 20.7 for a step that is asked "
    "for and not said; where a question does not say how many steps, and where the source does not say what "
    "one is, the log of how much likelier the answer's word is in other problems' thoughts, at the thought "
    "where that is least, and 20.7 more where the answer does not follow from the steps",
    BEYOND: "mean over thought_in and thought_out of every thought of log(Mahalanobis distance squared) from "
    "where the words of the answer's chain put it (ridge regression), each of a typical problem's; fitted on "
    "the clean problems of another split",
    MARGIN: "minus the log-odds of the answer's first token against the next likeliest, nats",
    "entropy": "of the answer's first token, nats",
    "auroc": "chance that a problem with something to notice has a higher score than a clean one; ties half",
    "recall": "share of problems with something to notice whose score is above the threshold",
    "false_alarms": "share of clean problems of the scored split above it",
    "threshold": "the floor(rate (k + 1))-th largest score of k clean problems of the split that sets it",
    "difference": "AUROC of the score less that of the rival, on the same problems",
    "verdict": "better, worse: p_holm is at most 0.05 and the interval does not hold 0; equivalent: two "
    "one-sided tests against 0.03, adjusted too; no information: no side, and neither area lies above one "
    "half; else inconclusive. p_holm is over all differences of one truth (Holm 1979)",
    "interval": "95 %, bootstrap over groups of problems, widened for the number of groups of the rarer kind "
    "(AUROC); Wilson at the number of independent rows (shares)",
}


def monitor(cfg: MonitorConfig, out: str | Path) -> Result:
    """Score the problems of a store's split; `problems.parquet` holds every one, in every run.

    Raises:
        MismatchError: other weights than those that made the store.
        StoreError: a store of texts.
        ConfigError: a label that is not there, that is constant, or whose values are not named.
        DataError: no problems in a split, none with a question, or nothing of what was asked for to notice.
    """
    return run_stage("monitor", cfg, out, lambda tmp: _work(cfg, tmp), inputs={"acts": Path(cfg.acts)})


def plan(cfg: MonitorConfig) -> Plan:
    """Runs of the model, memory and time; zeros where the store does not exist yet."""
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    runs = (2 * cfg.n + cfg.n_fit) * (2 if "broken" in cfg.wanted else 1)
    memory = 1e9 + runs * max(store.d_in.values()) * 200.0
    return Plan(rows=runs, memory_bytes=memory, disk_bytes=runs * 80.0, seconds=8 + runs * 0.003)


def _work(cfg: MonitorConfig, tmp: Path) -> MonitorOutcome:
    store = ActivationStore.open(cfg.acts)
    tables = _problems(cfg, store)
    require_label(cfg, store.problems)
    who, notes = who_is(cfg, thought_model(store), tables), []
    splits = watched(who, tables) if who.model.spec.n_thoughts else {}
    truths, rows = weighed(cfg, splits, notes)
    write_rows(tmp / "problems.parquet", WatchedRow, rows)
    notes = [*_about(who), *notes]
    for note in notes:
        warn(note)
    headline, told = headline_of(truths)
    answered = splits[cfg.split].right[splits[cfg.split].own] if splits else []
    right = np.array([one for one in answered if one is not None], float)
    return MonitorOutcome(
        split=cfg.split,
        model=store.meta.model,
        model_digest=store.meta.model_digest,
        n=len(tables[cfg.split]),
        rule=None if who.rule is None else type(who.rule).__name__,
        accuracy=proportion(right).number(cfg.split) if len(right) else None,
        truths=truths,
        headline=headline,
        definitions=DEFINITIONS | told,
        warnings=notes,
    )


def who_is(cfg: MonitorConfig, model: ThoughtModel, tables: Mapping[str, pa.Table]) -> Who:
    """The model with what reads it."""
    asked = [
        table.select([name for name in ("question", "answer") if name in table.column_names])
        for table in tables.values()
    ]
    return Who(cfg, model, of_thoughts(model), rule_for(model, pa.concat_tables(asked)))


def weighed(
    cfg: MonitorConfig, splits: Mapping[str, Split], notes: list[str]
) -> tuple[list[Truth], list[WatchedRow]]:
    """Every truth that there is, and every problem's scores."""
    if not splits:
        return [], []
    beyond = surplus(cfg, splits)
    found = [truth_of(kind, cfg, splits, beyond, notes) for kind in cfg.wanted]
    rows = [row for name, split in splits.items() for row in rows_of(split, beyond[name])]
    return [one for one in found if one is not None], rows


def _problems(cfg: MonitorConfig, store: ActivationStore) -> dict[str, pa.Table]:
    """By split, the problems that are asked, in this order: fitted on, thresholds, scored."""
    sizes = {"fit_split": cfg.n_fit, "threshold_split": cfg.n, "split": cfg.n}
    return {
        name: problems_of(store, name, n, cfg.seed, f"monitor.{field}")
        for field, n in sizes.items()
        if (name := getattr(cfg, field))
    }


def _about(who: Who) -> list[str]:
    """What is to be known of the model before any number."""
    spec, notes = who.model.spec, []
    if spec.n_thoughts == 0:
        return ["nothing to watch: this model has no thoughts"]
    if not spec.feeds_back:
        notes.append("this model feeds nothing back: what is watched are pause positions, not thoughts")
    if who.rule is None:
        notes.append(
            "what a step is, these problems do not say: no chain is held against the answer, only whether "
            "the answer is read in a thought"
        )
    return notes
