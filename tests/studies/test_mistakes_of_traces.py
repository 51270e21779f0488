"""Mistakes in traces, directions and comparisons: each is named, its sound twin is not."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.sae.stores import write_store
from tests.show.runs.made import run_of
from tests.studies.mistakes import Case, assert_told, generated, into, thought_about
from thoughtlens import sae as saes
from thoughtlens.core import Config, seal, validate_config
from thoughtlens.latents.directions.config import DirectionsConfig
from thoughtlens.latents.directions.stage import directions
from thoughtlens.problems.tasks import arithmetic
from thoughtlens.show import compare_runs, expand
from thoughtlens.tracing.attention.config import AttentionConfig
from thoughtlens.tracing.attention.stage import attention
from thoughtlens.tracing.circuit.config import CircuitConfig
from thoughtlens.tracing.circuit.stage import circuit
from thoughtlens.tracing.latent_graph.config import GraphConfig
from thoughtlens.tracing.latent_graph.stage import graph
from thoughtlens.tracing.monitor.config import MonitorConfig
from thoughtlens.tracing.monitor.stage import monitor
from thoughtlens.tracing.program.config import ProgramConfig
from thoughtlens.tracing.program.stage import program

CASES: list[Case] = []
planted = into(CASES)
WITHOUT = {"name": "codi-tiny/no_cot", "dtype": "float32"}


# ---------------------------------------------------------------------- directions
def vectors(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(240, 8))).float()


def colours(x: torch.Tensor, n: int) -> tuple[torch.Tensor, list[str]]:
    """Every second problem is red, which adds to a coordinate."""
    per = len(x) // n
    red = np.arange(n) % 2 == 0
    x[np.repeat(red, per), 2] += 6
    return x, np.where(red, "red", "blue").tolist()


def states(root: Path, *, splits: tuple[str, ...] = (), label: list[str] | None = None) -> Path:
    """Of 80 problems with three thoughts each."""
    x, own = colours(vectors(), 80)
    labels = {"colour": label or own} | (
        {"split": [splits[i % len(splits)] for i in range(80)]} if splits else {}
    )
    return write_store(root / "acts", {"layers.0:out": x + 1, "layers.1:out": x}, thoughts=3, labels=labels)


def directed(root: Path, acts: Path, name: str = "directions", **settings):
    table = {"acts": str(acts), "hook": "layers.1:out", **settings}
    return directions(validate_config(DirectionsConfig, table), root / name)


@planted(
    "a probe's direction was read at another hook", r"directions are of layers\.0:out, .* at layers\.1:out"
)
def of_another_hook(root, wrong):
    acts = states(root)
    directed(
        root, acts, "first", made="probe", label="colour", hook="layers.0:out" if wrong else "layers.1:out"
    )
    return directed(root, acts, file=str(root / "first" / "directions.safetensors"))


@planted("a direction of one thought was read at another", r"directions are of thought 1, .* read at 2")
def of_another_thought(root, wrong):
    acts = states(root)
    directed(root, acts, "first", made="diffmean", label="colour", thoughts=[1])
    file = root / "first" / "directions.safetensors"
    return directed(root, acts, file=str(file), thoughts=[2] if wrong else [1])


@planted("directions were fitted on the problems of the test", r"no split train: .* nothing is held out")
def fitted_on_the_test(root, wrong):
    acts = states(root, splits=("test",) if wrong else ("train", "train", "test"))
    return directed(root, acts, made="diffmean", label="colour")


@planted("a direction along which nothing varies", r"flat: hardly varies over these rows")
def nothing_varies(root, wrong):
    x, _ = colours(vectors(), 80)
    x[:, 5] = 3.0 if wrong else x[:, 5]
    acts = write_store(root / "acts", {"layers.1:out": x}, thoughts=3)
    np.save(root / "flat.npy", np.eye(8)[[5]])
    return directed(root, acts, file=str(root / "flat.npy"), names=["flat"])


@planted("directions of another model's width", r"directions of width 16, layers\.1:out .* has 8")
def of_another_width(root, wrong):
    acts = states(root)
    np.save(root / "v.npy", np.eye(16 if wrong else 8)[:2])
    return directed(root, acts, file=str(root / "v.npy"))


@planted("names were given in the order of a longer list", r"holds 2 directions; the names .* are 3")
def too_many_names(root, wrong):
    acts = states(root)
    np.save(root / "v.npy", np.eye(8)[:2])
    return directed(root, acts, file=str(root / "v.npy"), names=["a", "b", "c"][: 3 if wrong else 2])


@planted("a probe of a label with one value", r"'colour': fewer than 2 of 192 rows of split train")
def one_value(root, wrong):
    return directed(root, states(root, label=["red"] * 80 if wrong else None), made="probe", label="colour")


@planted("a class that no problem has", r"colour has no value 'Red'; it has blue, red")
def misspelt_class(root, wrong):
    return directed(root, states(root), made="diffmean", label="colour", classes=["Red" if wrong else "red"])


@planted("one direction of a file is all zeros", r"direction 'direction_1' is all zeros")
def zeros(root, wrong):
    acts = states(root)
    np.save(root / "v.npy", np.eye(8)[:2] * [[1], [not wrong]])
    return directed(root, acts, file=str(root / "v.npy"))


# ---------------------------------------------------------------------- traces of thoughts
def thinking(root: Path, table: pa.Table, **options) -> Path:
    thought_about(root, table, **options)
    return root / "acts"


def learned(n: int = 80) -> pa.Table:
    """Problems, a half of them for the test."""
    first = arithmetic.problems(n, seed=0, split="train")
    return pa.concat_tables([first, generated(n)]).combine_chunks()


def done(stage, cls: type[Config], root: Path, acts: Path, **settings):
    return stage(validate_config(cls, {"acts": str(acts), **settings}), root / "out")


FEW = {"n": 4, "n_steps": 2}


@cache
def sound(stage, cls: type[Config], *settings: tuple[str, int]) -> list[str]:
    """What is said of problems and a model that are as they should be, found once."""
    with TemporaryDirectory() as root:
        acts = thinking(Path(root) / "run", learned())
        return done(stage, cls, Path(root), acts, **dict(settings))["warnings"]


def sound_circuit() -> list[str]:
    return sound(circuit, CircuitConfig, *FEW.items())


SHORT = {"n": 4, "n_fit": 12, "n_twins": 4, "repeats": 1}


@planted(
    "a program of a model that has no thoughts", r"program: this model has no thoughts that could run one"
)
def program_of_none(root, wrong):
    if not wrong:
        return sound(program, ProgramConfig, *SHORT.items())
    return done(program, ProgramConfig, root, thinking(root, learned(), model=WITHOUT), **SHORT)


@planted("a circuit of a model that has no thoughts", r"circuit: this model has no thoughts")
def circuit_of_none(root, wrong):
    if not wrong:
        return sound_circuit()
    return done(circuit, CircuitConfig, root, thinking(root, learned(), model=WITHOUT), **FEW)


@planted(
    "a program of more steps than any problem has", r"problems of 7 steps in split train .*, got 0 and 0"
)
def program_of_many_steps(root, wrong):
    if not wrong:
        return sound(program, ProgramConfig, *SHORT.items())
    return done(program, ProgramConfig, root, thinking(root, learned()), **SHORT, n_steps=7)


@planted("a circuit of more steps than any problem has", r"problems of 7 steps in .*, got 0 of 0")
def circuit_of_many_steps(root, wrong):
    if not wrong:
        return sound_circuit()
    return done(circuit, CircuitConfig, root, thinking(root, learned()), n=6, n_steps=7)


@planted("a circuit was graded by shuffled answers", r"only \d+% of answers are right with nothing cut")
def shuffled_answers(root, wrong):
    if not wrong:
        return sound_circuit()
    table = generated(80)
    answers = np.random.default_rng(0).permutation(table["answer"].to_pylist())
    table = table.set_column(table.column_names.index("answer"), "answer", pa.array(answers))
    return done(circuit, CircuitConfig, root, thinking(root, table), **FEW)


@planted("a circuit of a split that is empty", r"2 or more problems of split 'test' .*, got 0; it has train")
def no_test(root, wrong):
    if not wrong:
        return sound_circuit()
    return done(
        circuit, CircuitConfig, root, thinking(root, arithmetic.problems(80, seed=0, split="train")), **FEW
    )


@planted("a circuit of as many steps as no problem has", r"got 0 of 0; split 'test' has problems of .*steps")
def no_such_steps(root, wrong):
    if not wrong:
        return sound_circuit()
    return done(circuit, CircuitConfig, root, thinking(root, generated(80)), n=4, n_steps=7)


def dictionary(root: Path, **provenance) -> Path:
    sae = saes.create(saes.TopKConfig(d_sae=192, k=4, normalization="none"), 96, seed=0)
    sae.hook_names, sae.provenance = ["layers.1:out"], {"split": "train", "thoughts": None, **provenance}
    saes.save(sae, root / "sae")
    return root / "sae"


SMALL = {"budget": 10, "n_random": 2, "n_others": 4, "n_donors": 1}


@planted("a graph through the SAE of another model", r"another model|model with digest")
def graph_of_another(root, wrong):
    acts = thinking(root, generated(60))
    sae = dictionary(root, **({"model": "codi-tiny", "model_digest": "b" * 64} if wrong else {}))
    asked = pq.read_table(acts / "problems.parquet")["problem_id"][0].as_py()
    return done(graph, GraphConfig, root, acts, sae=str(sae), problem=asked, **SMALL)


@planted("a graph of a problem of another store", r"expected a problem_id of .* got 'p9999'")
def graph_of_no_problem(root, wrong):
    acts = thinking(root, generated(60))
    asked = "p9999" if wrong else pq.read_table(acts / "problems.parquet")["problem_id"][0].as_py()
    return done(graph, GraphConfig, root, acts, sae=str(dictionary(root)), problem=asked, **SMALL)


@planted("attention of a split whose name is misspelt", r"problems of split 'tests' .*; it has test")
def attention_of_no_split(root, wrong):
    acts = thinking(root, generated(60))
    return done(attention, AttentionConfig, root, acts, n=4, split="tests" if wrong else "test")


@planted("a monitor of a label that every problem has", r"is true in every problem")
def watched_for_nothing(root, wrong):
    parts = [arithmetic.problems(40, seed=i, split=s) for i, s in enumerate(("train", "validation", "test"))]
    table = pa.concat_tables(parts).combine_chunks()
    armed = [wrong or i % 2 == 0 for i in range(len(table))]
    ids = [f"p{i}" for i in range(len(table))]
    for name, values in (("problem_id", ids), ("group_id", ids)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    acts = thinking(root, table.append_column("armed", pa.array(armed)))
    settings = {"label": "armed", "truths": ["label"], "n": 40, "n_fit": 40, "n_resamples": 100}
    return done(monitor, MonitorConfig, root, acts, **settings)


# ---------------------------------------------------------------------- runs side by side
def side_by_side(a: Path, b: Path) -> list[str]:
    return compare_runs([a, b]).notes


def with_column(run: Path, name: str, values: list) -> Path:
    file = run / "acts" / "problems.parquet"
    pq.write_table(pq.read_table(file).append_column(name, pa.array(values)), file)
    seal(run / "acts")
    return run


@planted(
    "a run was trained on what the other one tests on", r"50 problems that one of a and b tests on, the other"
)
def leaking_splits(root, wrong):
    first = ["train"] * 50 + ["test"] * 50
    runs = [run_of(root / name, [i % 3 > 0 for i in range(100)]) for name in ("a", "b")]
    other = ["train"] * 25 + ["test"] * 50 + ["train"] * 25 if wrong else first
    return side_by_side(with_column(runs[0], "split", first), with_column(runs[1], "split", other))


@planted("runs on other problems of the same names", r"the ids are the same and the problems are not")
def same_names(root, wrong):
    a, b = root / "a", root / "b"
    right = [i % 2 == 0 for i in range(40)]
    return side_by_side(run_of(a, right), run_of(b, right, says="other: " if wrong else ""))


@planted("a run was compared with itself", r"is named twice; a run is compared with other ones")
def with_itself(root, wrong):
    a, b = (run_of(root / name, [True, False] * 20) for name in ("a", "b"))
    return [str(path) for path in expand([a, a if wrong else b])]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.mistake for case in CASES])
def test_a_mistake_is_named_and_its_sound_twin_is_not(case: Case, tmp_path: Path) -> None:
    assert_told(case, tmp_path)
