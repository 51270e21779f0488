"""One flipped byte: `verify` finds it wherever it is, and no stage reads past it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.core.protocol.small import OF_PILOT, pilot, planted, run
from thoughtlens.core import LIST, StoreError, ThoughtlensError, read_result, verify
from thoughtlens.latents import open_codes
from thoughtlens.sae import load
from thoughtlens.show.pages.run import read_table


@contextmanager
def flipped(file: Path, at: float, by: int = 1) -> Iterator[None]:
    """The file with one byte changed, at this share of its length."""
    sound = file.read_bytes()
    damaged = bytearray(sound)
    damaged[int(at * len(sound))] ^= by
    file.write_bytes(bytes(damaged))
    try:
        yield
    finally:
        file.write_bytes(sound)


def files(root: Path) -> list[Path]:
    return sorted(f for f in root.rglob("*") if f.is_file() and f.stat().st_size)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store, an SAE, and a finished interpret stage."""
    root = planted(tmp_path_factory.mktemp("flips"))
    run(root, "interpret", root / "interpret")
    return root


def test_verify_finds_one_byte_in_every_file_of_a_stage_and_an_sae(made):
    rng = random.Random(0)
    for folder in ("interpret", "sae"):
        assert verify(made / folder).unlisted == []
        for file in files(made / folder):
            with flipped(file, rng.random(), 1 << rng.randrange(8)), pytest.raises(StoreError):
                verify(made / folder)
    assert verify(made).files > 12


def test_a_stage_does_not_read_past_a_flipped_byte(made, tmp_path):
    sound = [f for f in files(made / "acts") + files(made / "sae") if f.name != LIST]
    for i, file in enumerate(sound):
        if file.name == "meta.json":
            continue  # of a store that no stage has made, which nothing lists
        with flipped(file, 0.9), pytest.raises(ThoughtlensError):
            run(made, "interpret", tmp_path / str(i))


def test_what_a_stage_measured_is_not_read_past_a_flipped_byte(made):
    """Digits, which leave a table or a JSON file whole; and any byte."""
    folder = made / "interpret"
    readers = {
        "result.json": lambda: read_result(folder),
        "latents.parquet": lambda: read_table(folder / "latents.parquet", "interpret"),
        "codes/0/meta.json": lambda: open_codes(folder),
        "codes/0/csr.safetensors": lambda: open_codes(folder)["pooled"].row(0),
    }
    for name, read in readers.items():
        read()
        digit = next(i for i, byte in enumerate((folder / name).read_bytes()) if chr(byte) in "2345678")
        for at in ((digit + 0.5) / (folder / name).stat().st_size, 0.5):
            with flipped(folder / name, at), pytest.raises(StoreError):
                read()
        read()


def test_missing_empty_and_foreign_pieces_are_noticed(made):
    table = made / "interpret" / "latents.parquet"
    sound = table.read_bytes()
    run(made, "interpret", made / "interpret")  # it is done already
    for other in (None, b"", sound[:-1], (made / "interpret" / "counts.parquet").read_bytes()):
        table.unlink() if other is None else table.write_bytes(other)
        with pytest.raises(StoreError, match=r"1 of \d+ files are not .*latents\.parquet"):
            run(made, "interpret", made / "interpret")
        table.write_bytes(sound)
    run(made, "interpret", made / "interpret")


def test_what_is_not_compared_says_so(made, tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_UNCHECKED", "1")
    with flipped(made / "sae" / "sae.safetensors", 0.9):
        run(made, "interpret", tmp_path / "out")
    warnings = read_result(tmp_path / "out")["warnings"]
    assert any("were not compared with their digests" in line for line in warnings)


def test_stages_of_earlier_versions_are_compared_as_a_whole(made, tmp_path):
    old = shutil.copytree(made / "interpret", tmp_path / "old")
    (old / LIST).unlink()
    found = verify(old)
    assert (found.by_digest, found.unlisted) == (["."], ["config.toml", "result.json"])
    with flipped(old / "counts.parquet", 0.5), pytest.raises(StoreError, match="another digest than"):
        verify(old)


def test_a_list_that_was_touched_is_found(tmp_path):
    planted(tmp_path)
    file = tmp_path / "sae" / LIST
    file.write_text(file.read_text().replace('{\n  "schema"', '{\n\n "schema"'))
    with pytest.raises(StoreError, match="not as it was written"):
        load(tmp_path / "sae")


@pytest.mark.long
def test_every_stage_and_every_byte_of_a_run(tmp_path):
    """500 tries with consumers: refused, or done without what was flipped. 1,000 with verify."""
    rng, root = random.Random(0), pilot(tmp_path / "run")
    digests = {}
    for stage in OF_PILOT:
        run(root, stage, tmp_path / "out")
        digests[stage] = read_result(tmp_path / "out")["digest"]
        shutil.rmtree(tmp_path / "out")
    every = [f for f in files(root) if "explorer" not in f.parts and "report" not in f.parts]
    for i in range(1000):
        with flipped(rng.choice(every), rng.random(), 1 << rng.randrange(8)), pytest.raises(StoreError):
            verify(root)
        if i % 2:
            continue
        stage, file = rng.choice(OF_PILOT[1:]), rng.choice(every)
        with flipped(file, rng.random(), 1 << rng.randrange(8)):
            try:
                run(root, stage, tmp_path / "out")
            except ThoughtlensError:
                shutil.rmtree(tmp_path / "out.tmp", ignore_errors=True)
                continue
        assert read_result(tmp_path / "out")["digest"] == digests[stage], f"{stage} read {file}"
        shutil.rmtree(tmp_path / "out")
