"""How far two ways of labelling agree, and what that leaves for a classifier to reach."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from thoughtlens.core import ConfigError, DataError, Record, column
from thoughtlens.numerics import wilson
from thoughtlens.problems.tasks.gsm8k import ANNOTATION, CLASSES

FIRST, CHECKED = "label_regex", "label_annotation"
DEFINITIONS = {
    "disagreement": "share of the annotated problems whose two labels differ; Wilson interval",
    "ceiling_all": "the same over all problems, those without a usable annotation counted as wrong",
    "ceiling": "1 - disagreement: what a classifier that knows the annotated operation reaches where the "
    "other label is taken for the truth",
    "reachable": "accuracy on the other labels of classifiers that are right this often on the annotated "
    "ones, errors independent and spread evenly",
    "precision": "of the problems given this class by expression, the share that the annotations give it too",
}


@dataclass(frozen=True, kw_only=True)
class Share(Record):
    """A share with its Wilson interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class OfClass(Record):
    """What the problems of one class by expression are by annotation."""

    name: str = column("class by expression", key="class")
    n: int
    by_annotation: dict[str, int]
    unlabelled: int = column("no annotation")
    precision: float | None = column(null=True)
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Disagreement(Record):
    """A problem whose two labels differ."""

    problem_id: str = column("problem")
    label_regex: str = column("by expression")
    label_annotation: str = column("by annotation")
    annotations: list[str]


@dataclass(frozen=True, kw_only=True)
class Audit(Record):
    """Two ways of labelling compared; `DEFINITIONS` says how the numbers are meant."""

    n: int
    n_compared: int
    unlabelled: int
    """Problems without a label by annotation."""
    n_differ: int
    disagreement: Share
    ceiling: Share
    ceiling_all: float
    reachable: dict[str, float]
    per_class: list[OfClass]
    disagreements: list[Disagreement] | None = None
    definitions: dict[str, str]


def audit(table: pa.Table) -> Audit:
    """Compare GSM8K's labels by expression with those by annotation.

    Raises:
        ConfigError: a column that is not there.
        DataError: no problem has both labels.
    """
    names = ("problem_id", "cot", FIRST, CHECKED)
    for name in names:
        if name not in table.column_names:
            raise ConfigError(f"Expected a column {name!r}, found {', '.join(table.column_names)}")
    rows = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    both = [row for row in rows if row[2] is not None and row[3] is not None]
    if not both:
        raise DataError(f"No problem has a label in both {FIRST} and {CHECKED}; nothing can be compared")
    differ = [row for row in both if row[2] != row[3]]
    noise = wilson(len(differ), len(both))
    return Audit(
        n=len(rows),
        n_compared=len(both),
        unlabelled=len(rows) - len(both),
        n_differ=len(differ),
        disagreement=Share(value=noise.estimate, low=noise.low, high=noise.high),
        ceiling=Share(value=1 - noise.estimate, low=1 - noise.high, high=1 - noise.low),
        ceiling_all=1 - (len(differ) + len(rows) - len(both)) / len(rows),
        reachable={f"{a:.0%}": reachable(a, noise.estimate, len(CLASSES)) for a in (0.8, 0.9, 1.0)},
        per_class=_per_class(rows),
        disagreements=[
            Disagreement(problem_id=name, label_regex=a, label_annotation=b, annotations=_annotations(cot))
            for name, cot, a, b in differ
        ],
        definitions=DEFINITIONS,
    )


def reachable(accuracy: float, disagreement: float, n_classes: int) -> float:
    """Accuracy on noisy labels of a classifier that is right with probability `accuracy` on the true ones.

    Errors of labels and classifier independent, wrong labels spread evenly over the other classes:
    a (1 - e) + (1 - a) e / (c - 1). At a = 1 that is the ceiling 1 - e.
    """
    for name, value in (("accuracy", accuracy), ("disagreement", disagreement)):
        if not 0 <= value <= 1:
            raise ConfigError(f"Expected {name} between 0 and 1, got {value}")
    if n_classes < 2:
        raise ConfigError(f"Expected at least 2 classes, got {n_classes}")
    return accuracy * (1 - disagreement) + (1 - accuracy) * disagreement / (n_classes - 1)


def markdown(found: Audit) -> str:
    """The audit as a Markdown page: the numbers, then every disagreement."""
    noise, ceiling = found.disagreement, found.ceiling
    lines = [
        "# Label audit",
        "",
        f"{found.n_differ} of {found.n_compared} problems with both labels differ "
        f"({noise.value:.1%}, 95 % interval {noise.low:.1%} to {noise.high:.1%}); {found.unlabelled} "
        f"of {found.n} have no usable annotation. A classifier that knows the annotated operation reaches "
        f"{ceiling.value:.1%} on the other labels (95 % interval {ceiling.low:.1%} to {ceiling.high:.1%}).",
        "",
        f"| class by expression | n | {' | '.join(CLASSES)} | no annotation | precision |",
        f"| :-- | {'--: | ' * (len(CLASSES) + 3)}",
    ]
    for row in found.per_class:
        counts = " | ".join(str(row.by_annotation[name]) for name in CLASSES)
        share = "" if row.precision is None else f"{row.precision:.1%}"
        lines.append(f"| {row.name} | {row.n} | {counts} | {row.unlabelled} | {share} |")
    shares = ", ".join(f"{a} becomes {b:.1%}" for a, b in found.reachable.items())
    lines += [
        "",
        f"Accuracy on the annotated labels, as it shows on the others: {shares}. With problems that have no "
        f"annotation counted as wrong the ceiling is {found.ceiling_all:.1%}.",
    ]
    lines += ["", f"| {' | '.join(Disagreement.heads())} |", "| :-- | :-- | :-- | :-- |"]
    for row in found.disagreements or []:
        steps = "; ".join(row.annotations).replace("|", "/")
        lines.append(f"| {row.problem_id} | {row.label_regex} | {row.label_annotation} | {steps} |")
    return "\n".join(lines) + "\n"


def _per_class(rows: list[tuple]) -> list[OfClass]:
    out = []
    for name in CLASSES:
        found = Counter(checked for _, _, first, checked in rows if first == name)
        n, missing = sum(found.values()), found.get(None, 0)
        share = wilson(found[name], n - missing) if n > missing else None
        out.append(
            OfClass(
                name=name,
                n=n,
                by_annotation={other: found[other] for other in CLASSES},
                unlabelled=missing,
                precision=share and share.estimate,
                low=share and share.low,
                high=share and share.high,
            )
        )
    return out


def _annotations(cot: str) -> list[str]:
    return [f"{left.strip()}={right.strip()}" for left, right in ANNOTATION.findall(cot)]
