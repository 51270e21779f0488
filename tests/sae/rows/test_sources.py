"""Pairs of hooks, aligned sites and labels, from a store to a trained SAE."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.sae.stores import write_store
from thoughtlens import sae as saes
from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.core import (
    ConfigError,
    DataError,
    HookError,
    MismatchError,
    ThoughtlensError,
    validate_config,
)
from thoughtlens.sae.fit.members import Selection
from thoughtlens.sae.fit.sources import open_source, resolve
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import plan, train

N, THOUGHTS = 480, 3


def acts() -> dict[str, torch.Tensor]:
    """Row r, column c of a hook holds 1000 r + c, with the hook's own sign and width."""
    base = (1000 * torch.arange(N)[:, None] + torch.arange(6)).float()
    return {"a:in": base, "a:out": -base, "b:out": base[:, :4] + 0.5}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ActivationStore:
    root = tmp_path_factory.mktemp("stores") / "thoughts"
    return ActivationStore.open(write_store(root, acts(), thoughts=THOUGHTS))


def opened(store, cfg, hooks, thoughts=None, split="train"):
    member = Selection("pooled", hooks, thoughts)
    return open_source(resolve(cfg, store, member, "train"), store, member, split, True)


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """Row numbers that a hook's values say."""
    return (x[..., 0].abs() // 1000).long()


def test_pairs_stay_together(store):
    cfg = saes.TranscoderConfig(hook_in="a:in", hook_out="b:out")
    source = opened(store, cfg, ("a:in",))
    assert (source.d_in, source.d_out, source.n) == (6, 4, 384)
    batch = next(source.batches(64, seed=0))
    assert torch.equal(batch.y, batch.x[:, :4] + 0.5)
    again = next(source.batches(32, seed=0, start=32))
    assert torch.equal(again.y, batch.y[32:])


def test_layers_are_stacked_row_by_row(store):
    source = opened(store, saes.CrosscoderConfig(), ("a:out", "a:in"))
    batch = next(source.batches(64, seed=0))
    assert batch.x.shape == (64, 2, 6) and source.n == 384
    assert torch.equal(batch.x[:, 0], -batch.x[:, 1])
    assert resolve(
        saes.CrosscoderConfig(), store, Selection("pooled", ("a:out", "a:in"), None), "train"
    ).sites == (
        "a:out",
        "a:in",
    )


def test_thoughts_of_one_problem_are_stacked_in_order(store):
    cfg = saes.CrosscoderConfig(over="thoughts")
    source = opened(store, cfg, ("a:in",), thoughts=(2, 0, 1))
    batch = source.sample(50, seed=3)
    rows = rows_of(batch.x)
    assert source.n == 128 and rows.shape == (50, 3)
    assert torch.equal(rows % THOUGHTS, torch.tensor([[2, 0, 1]]).expand(50, 3))
    assert torch.equal(rows // THOUGHTS, (rows // THOUGHTS)[:, :1].expand(50, 3))
    assert len(rows.unique()) == 150


def shuffled_store(root, drop=()) -> ActivationStore:
    """Thoughts of 40 problems written in a random order, some left out."""
    order = np.random.default_rng(0).permutation(120)
    order = order[~np.isin(order, drop)]
    meta = StoreMeta(
        kind="thoughts", model="planted", hook_names=["a:in"], d_in={"a:in": 2}, dtype="float32",
        thought_convention="test",
    )  # fmt: skip
    writer = StoreWriter(root, meta)
    names = [f"p{i}" for i in range(40)]
    x = torch.from_numpy(order).float()[:, None].repeat(1, 2)
    writer.append(
        {"a:in": x},
        {"problem_id": [names[i // 3] for i in order], "thought_idx": (order % 3).astype(np.int32)},
    )
    writer.finish(
        pa.table({"problem_id": names, "group_id": names, "split": ["train"] * 40, "op": ["+", "-"] * 20})
    )
    return ActivationStore.open(root)


def test_thoughts_are_aligned_whatever_the_order_of_rows(tmp_path):
    source = opened(shuffled_store(tmp_path / "a"), saes.CrosscoderConfig(over="thoughts"), ("a:in",))
    x = source.sample(40, seed=0).x[..., 0].long()
    assert torch.equal(x % 3, torch.arange(3).expand(40, 3))
    assert torch.equal(x // 3, (x // 3)[:, :1].expand(40, 3))
    assert len(x.unique()) == 120


def test_a_missing_thought_is_refused(tmp_path):
    with pytest.raises(DataError, match="40, 39, 40 rows"):
        opened(shuffled_store(tmp_path / "a", drop=[31]), saes.CrosscoderConfig(over="thoughts"), ("a:in",))


def test_labels_follow_their_problem(tmp_path):
    store = shuffled_store(tmp_path / "a")
    cfg = saes.SupervisedConfig(label_columns=("op",))
    member = Selection("pooled", ("a:in",), None)
    assert resolve(cfg, store, member, "train").label_classes == (("+", "-"),)
    batch = next(opened(store, cfg, ("a:in",)).batches(120, seed=0))
    problem = batch.x[:, 0].long() // 3
    assert torch.equal(batch.labels, (problem % 2)[:, None])


BAD = [
    ({"kind": "transcoder"}, {}, ConfigError, "hook_in and sae.hook_out, got None"),
    ({"kind": "transcoder", "hook_in": "a:in", "hook_out": "c:out"}, {}, HookError, "c:out"),
    ({"kind": "transcoder", "hook_in": "a:in", "hook_out": "a:out"}, {"hook_names": ["a:in"]}, ConfigError,
     "leave hook_names out"),
    ({"kind": "crosscoder"}, {}, MismatchError, "one width.*'b:out': 4"),
    ({"kind": "crosscoder"}, {"hook_names": ["a:in"]}, ConfigError, "at least 2 different sites.*a:in"),
    ({"kind": "crosscoder", "over": "thoughts"}, {"hook_names": ["a:in", "a:out"]}, ConfigError, "one hook"),
    ({"kind": "supervised", "label_columns": ["op"]}, {"hook_names": ["a:in"]}, ConfigError, "got 'op'"),
    ({"kind": "supervised", "label_columns": ["split"]}, {"hook_names": ["a:in"]}, ConfigError, "constant"),
    ({"kind": "supervised"}, {"hook_names": ["a:in"]}, ConfigError, "at least one label column"),
    ({"kind": "crosscoder", "over": "thoughts"}, {"hook_names": ["a:in"], "thoughts": [1, 1]}, DataError,
     "each thought once, got 1, 1"),
    ({"kind": "jumprelu", "target_l0": 500}, {"hook_names": ["a:in"]}, ConfigError, "d_sae = 48.*got 500"),
]  # fmt: skip


@pytest.mark.parametrize(("sae", "rest", "kind", "message"), BAD)
def test_refused_before_anything_is_computed(store, tmp_path, sae, rest, kind, message):
    cfg = validate_config(TrainConfig, {"acts": store.root, "sae": sae, "batch_size": 64, **rest})
    with pytest.raises(kind, match=message) as caught:
        train(cfg, tmp_path / "sae")
    assert isinstance(caught.value, ThoughtlensError) and not list(tmp_path.iterdir())


TRAINED = [
    ({"kind": "transcoder", "hook_in": "a:in", "hook_out": "b:out", "k": 2, "skip": True}, {}, (6, 4)),
    ({"kind": "crosscoder", "k": 2}, {"hook_names": ["a:in", "a:out"]}, (2, 6)),
    (
        {"kind": "crosscoder", "k": 2, "over": "thoughts"},
        {"hook_names": ["a:in"], "thoughts": [1, 2]},
        (2, 6),
    ),
    ({"kind": "supervised", "k": 2, "label_columns": ["group_id"]}, {"hook_names": ["a:in"]}, (6, 6)),
    ({"kind": "batchtopk", "k": 2}, {"members": "per_layer", "hook_names": ["a:in", "b:out"]}, None),
]


@pytest.mark.parametrize(
    ("sae", "rest", "shape"), TRAINED, ids=lambda v: v.get("kind") if isinstance(v, dict) else ""
)
def test_trained_saved_and_loaded(tmp_path, sae, rest, shape):
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.randn(N, x.shape[1], generator=generator) for name, x in acts().items()}
    root = write_store(tmp_path / "acts", found, thoughts=THOUGHTS)
    if sae["kind"] == "supervised":
        root = shuffled_store(tmp_path / "labelled").root
        sae = sae | {"label_columns": ["op"]}
        rest = rest | {"validation_split": "none"}
    table = {
        "acts": root,
        "sae": sae,
        "batch_size": 32,
        "epochs": 3,
        "evaluations": 2,
        "checkpoint_every_s": 0,
    }
    cfg = validate_config(TrainConfig, table | rest)
    assert plan(cfg).rows > 0
    result = train(cfg, tmp_path / "sae")
    assert all(np.isfinite(m["fvu_train"]) for m in result["members"])
    for loaded in saes.load_members(tmp_path / "sae", joined=True).values():
        assert loaded.kind == sae["kind"] and loaded.hook_names
        if shape and sae["kind"] == "crosscoder":
            assert (loaded.n_sites, loaded.d_in) == shape
        elif sae["kind"] == "transcoder":
            assert (loaded.d_in, loaded.d_out) == shape
        elif sae["kind"] == "supervised":
            assert loaded.cfg.label_classes == (("+", "-"),)
