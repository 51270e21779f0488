"""What only Unix has is not needed: a small run and a push, with those modules and calls hidden."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HIDDEN = """
import asyncio, os, runpy, signal, sys
import sklearn.linear_model, torch, transformers  # they look for what they use of the system themselves
import filelock  # before the rest is gone: it opens files in a way of its own on each system

for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in {
    os: "O_NOFOLLOW fork getloadavg getuid pread pwrite sched_getaffinity sysconf uname",
    signal: "SIGHUP SIGKILL SIGUSR1",
}.items():
    for name in names.split():
        delattr(module, name)
assert not [name for name in sys.modules if name.startswith("thoughtlens")]
sys.argv = ["thoughtlens", *sys.argv[1:]]
runpy.run_module("thoughtlens", run_name="__main__")
"""
SMALL = [
    "problems.n=80", "train.n_vectors=2000", "train.batch_size=64", "train.members=pooled", "sae.d_sae=32",
    "sae.k=4", "validate.force=true", "stages=['extract','train','validate','interpret','explorer','report']",
]  # fmt: skip


def without_unix(*argv: object) -> str:
    """What a command says."""
    command = [sys.executable, "-c", HIDDEN, *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ.copy())
    assert not done.returncode, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_run_is_made_pushed_and_pulled_without_what_only_unix_has(tmp_path):
    run, there = tmp_path / "run", tmp_path / "there"
    without_unix("run", "pilot", *SMALL, "--out", run)
    assert (run / "report" / "report.html").is_file() and not list(run.glob(".*"))
    without_unix("push", run, there)
    without_unix("pull", there, tmp_path / "back")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "run", "there"]
    assert '"total": null' in without_unix("doctor", "--quick", "--json")
