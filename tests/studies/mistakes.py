"""Studies done wrong and done right, and what is said of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tests.acts import small
from tests.evals.reconstruction import planted as texts
from tests.planted import D, planted_sae, thought_store
from thoughtlens import sae as saes
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.core import ThoughtlensError, load_config, validate_config
from thoughtlens.evals.classify.config import ClassifyConfig
from thoughtlens.evals.classify.stage import classify
from thoughtlens.evals.reconstruction.stage import validate
from thoughtlens.interventions.intervene.config import InterveneConfig
from thoughtlens.interventions.intervene.stage import intervene
from thoughtlens.latents.geometry.config import GeometryConfig
from thoughtlens.latents.geometry.stage import geometry
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret
from thoughtlens.problems.tasks import arithmetic
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train

Study = Callable[[Path, bool], object]


class Case(NamedTuple):
    """A study and what is to be said of it where it is done wrong."""

    mistake: str
    says: str
    study: Study


def told(case: Case, root: Path, wrong: bool) -> list[str]:
    """The refusal, or the warnings of what came out."""
    try:
        found = case.study(root, wrong)
    except ThoughtlensError as error:
        if not wrong:
            raise
        return [str(error)]
    lines = found["warnings"] if isinstance(found, Mapping) else found
    assert isinstance(lines, list | type(None))
    return lines or []


def rows_of(n: int = 70) -> dict[str, torch.Tensor]:
    return small.acts(small.meta(), n)


def stored(root: Path, x: dict[str, torch.Tensor], dtype: str = "float32", **problems: list) -> None:
    n = len(next(iter(x.values())))
    writer = StoreWriter(root, small.meta(dtype=dtype))
    writer.append(x, small.columns("thoughts", 0, n))
    table = small.problems(n)
    for name, values in problems.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    writer.finish(table)


N = 1000


def judged(root: Path, acts: Path, sae: Path, **changes):
    return validate(texts.config(acts, sae, baseline_rows=500, **changes), root / "validate")


def text(root: Path, *, scale: float = 1.0, offset: float = 0.0, n: int = N, **options) -> Path:
    x = texts.codes(n) @ texts.atoms() * scale + offset
    x = x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return texts.write(root / "acts", {texts.HOOKS[0]: x}, **options)


def trained(root: Path, acts: Path, **changes):
    options = {
        "sae": saes.TopKConfig(d_sae=24, k=2),
        "batch_size": 64,
        "epochs": 2.0,
        "evaluations": 2,
        "validation_split": "test",
    }
    return train(TrainConfig(acts=acts, **options | changes), root / "trained")


FAST = {"folds": 3, "inner_folds": 2, "c_grid": (0.01, 1.0), "per_cell": False}


ONE = {"arms": ("sae", "raw"), "poolings": ("mean_all",), "primary_pooling": "mean_all"}


def thoughts_of(root: Path, *, n: int = 90, name: str = "acts", **changes) -> np.ndarray:
    """Latent 3 writes one of three labels into thought 2."""
    rng = np.random.default_rng(0)
    strengths = np.where(rng.random((n, 3, 2, D)) < 0.2, rng.random((n, 3, 2, D)), 0)
    y = np.arange(n) % 3
    strengths[:, 2, 1, 3] = 2 * y
    operation = np.array(["add", "mul", "sub"])[y].tolist()
    questions = [f"problem {words(i)}" for i in range(n)]
    given = {"labels": {"operation": operation}, "questions": questions, **changes}
    thought_store(root / name, strengths, **given)
    return y


def words(i: int) -> str:
    """Different words for every number, so that no two questions are near copies."""
    return " ".join("abcdefghij"[int(c)] * 3 for c in f"{i:03}")


def probed(root: Path, **changes):
    if not (root / "sae").exists():
        planted_sae(root / "sae")
    table = {"acts": root / "acts", "sae": root / "sae", "target": "operation", **FAST, **ONE}
    return classify(ClassifyConfig(**table | changes), root / "classify")


def claims(sae: Path, **provenance) -> None:
    loaded = saes.load(sae)
    loaded.provenance |= provenance
    saes.save(loaded, sae)


def claims_of_store(acts: Path, **meta) -> None:
    file = acts / "meta.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | meta))


OPERATIONS = ["add", "mul", "sub"] * 30


def interpreted(root: Path, target: str = "operation"):
    planted_sae(root / "sae")
    cfg = InterpretConfig(acts=root / "acts", sae=root / "sae", n_permutations=20, labels=(target,))
    return interpret(cfg, root / "interpret")


def compared(root: Path, **changes):
    table = {"sae": root / "sae", "n_permutations": 20, "split": "test"}
    return geometry(GeometryConfig(**table | changes), root / "geometry")


def changed(root: Path, kind: str, **options):
    own = {
        name: options.pop(name)
        for name in ("doses", "directions", "latents", "scale", "column", "twins")
        if name in options
    }
    table = {"n": 30, "scope": ("cell",), "thoughts": (3,), "edit": {"kind": kind, **own}} | options
    return intervene(load_config(InterveneConfig, table), root / "out")


def directions(root: Path, width: int, length: float = 1.0) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / "directions.npy", np.full((1, width), length, np.float32))
    return root / "directions.npy"


def generated(n: int) -> pa.Table:
    return arithmetic.problems(n, seed=0, split="test")


def thought_about(root: Path, table: pa.Table, **options):
    root.mkdir(parents=True)
    pq.write_table(table, root / "problems.parquet")
    settings = {
        "model": {"name": "codi-tiny", "dtype": "float32"},
        "problems": {"kind": "problems", "source": str(root / "problems.parquet")},
        "hook_names": ["layers.1:out"],
    }
    return extract(validate_config(ExtractConfig, settings | options), root / "acts")


def into(cases: list[Case]) -> Callable[[str, str], Callable[[Study], Study]]:
    """A decorator that adds a study to these, with its mistake and what is to be said of it."""

    def planted(mistake: str, says: str) -> Callable[[Study], Study]:
        def add(study: Study) -> Study:
            cases.append(Case(mistake, says, study))
            return study

        return add

    return planted


def assert_told(case: Case, root: Path) -> None:
    """The study done wrong is named in one line, and its sound twin is not."""
    wrong, sound = (told(case, root / name, name == "wrong") for name in ("wrong", "sound"))
    hits = [line for line in wrong if re.search(case.says, line)]
    assert hits and all("\n" not in line for line in hits), wrong
    assert not [line for line in sound if re.search(case.says, line)], sound
