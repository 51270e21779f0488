"""Damaged and hostile inputs: one line each, no hang, no crash, and nothing that was not foreseen."""

from __future__ import annotations

import json
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.core.protocol.small import planted, run
from thoughtlens.acts import ActivationStore
from thoughtlens.core import LIST, ThoughtlensError, read_result, verify
from thoughtlens.latents.codes.codes import open_codes
from thoughtlens.problems import TableConfig, TextConfig, arithmetic, iter_documents, labelled, source
from thoughtlens.sae import load_members
from thoughtlens.studies import pipeline

LIMIT_S = 60
VALUES = [
    "-1", "0", "1e999", "nan", "true", "''", '""', "[]", "{}", "7" * 4301, "[" * 1500, "'x'", "1e18", "0.5",
    "null", "../../etc", "x" * 10_000, "[[1]]", "{a=1}", '["a", 1]', "1979-05-27", "0x1f", "-0.0", "é" * 300,
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store, an SAE, codes and problems, without the lists that would refuse every change at once."""
    root = planted(tmp_path_factory.mktemp("fuzz"))
    (root / "problems").mkdir()
    table = arithmetic.problems(20, seed=0)
    pq.write_table(table, root / "problems" / "table.parquet")
    lines = [{"text": f"say {i} twice", "label": "ab"[i % 2], "answer": "#### 4"} for i in range(20)]
    (root / "problems" / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = ["text,label", *(f'"say {i}, twice",{"ab"[i % 2]}' for i in range(20))]
    (root / "problems" / "texts.csv").write_text("\n".join(rows))
    (root / "problems" / "words.txt").write_text("A line of text.\n\nAnother one.\n")
    run(root, "interpret", root / "interpret")
    for file in root.rglob(LIST):
        file.unlink()
    return root


def damaged(sound: bytes, rng: random.Random) -> bytes:
    """The same bytes with some changed, cut, repeated or put in."""
    data = bytearray(sound)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) or 1)
        what = rng.randrange(5)
        if what == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            del data[at:]
        elif what == 2:
            data[at:at] = data[at : at + 40]
        elif what == 3:
            data[at : at + 8] = rng.randbytes(8)
        else:
            data[at:at] = rng.choice(VALUES).encode()
    return bytes(data)


def settings(root: Path, rng: random.Random) -> Callable[[], object]:
    """A recipe with absurd settings."""
    items = [f"{rng.choice(PATHS)}={rng.choice(VALUES)}" for _ in range(rng.choice((1, 1, 3)))]
    recipe = rng.choice(("pilot", "text-demo"))
    return lambda: pipeline.load(recipe, items)


def toml(root: Path, rng: random.Random) -> Callable[[], object]:
    """A recipe's file, damaged."""
    file = root / "recipe.toml"
    file.write_bytes(damaged(b'name = "a"\nseed = 3\n[sae]\nkind = "topk"\nk = 4\n[problems]\nn = 5\n', rng))
    return lambda: pipeline.load(file)


Prepare = Callable[[Path, random.Random], Callable[[], object]]


def in_place(pattern: str, read: Callable[[Path], object]) -> Prepare:
    """One of the files of a pattern, damaged, and what reads it; it is sound again afterwards."""

    def prepare(root: Path, rng: random.Random) -> Callable[[], object]:
        file = rng.choice(sorted(root.glob(pattern)))
        sound = file.read_bytes()
        file.write_bytes(damaged(sound, rng))

        def attempt() -> object:
            try:
                return read(root)
            finally:
                file.write_bytes(sound)

        return attempt

    return prepare


def read_store(root: Path) -> None:
    store = ActivationStore.open(root / "acts")
    store.view(split="train").read(np.zeros(1, int))
    assert store.problems is not None and store.rows is not None


def read_codes(root: Path) -> None:
    for codes in open_codes(root / "interpret").values():
        codes.csr()
        for j in range(codes.d_sae):
            vectors, _ = codes.latent(j)
            codes.rows_of(vectors)


def read_problems(root: Path) -> None:
    folder = root / "problems"
    source.problems(TableConfig(source=str(folder / "table.parquet")), 0)
    for name in ("texts.jsonl", "texts.csv"):
        labelled(str(folder / name))
    for name in ("texts.jsonl", "words.txt", "table.parquet"):
        column = "question" if name == "table.parquet" else "text"
        list(iter_documents(TextConfig(source=str(folder / name), column=column)))


PATHS = [
    "seed", "name", "stages", "sae.k", "sae.kind", "sae.d_sae", "sae", "problems", "problems.n", "train.lr",
    "train.batch_size", "train.members", "explain.n_resamples", "classify.folds", "model", "model.device",
    "model.dtype", "extract.hook_names", "interpret.labels", "lens.lenses", "report.explorer", "not.there",
]  # fmt: skip
KINDS: dict[str, Prepare] = {
    "settings": settings,
    "toml": toml,
    "store": in_place("acts/*.*", read_store),
    "sae": in_place("sae/*.*", lambda root: load_members(root / "sae")),
    "codes": in_place("interpret/codes/0/*.*", read_codes),
    "result": in_place("interpret/result.json", lambda root: read_result(root / "interpret")),
    "problems": in_place("problems/*.*", read_problems),
    "verify": in_place("interpret/*.*", lambda root: verify(root)),
}


def unforeseen(root: Path, n: int, seed: int) -> Counter[str]:
    """Errors of others than this package's own, by kind, with the innermost line of it that saw them."""
    found: Counter[str] = Counter()
    names = list(KINDS)
    signal.signal(signal.SIGALRM, _late)
    for i in range(n):
        rng = random.Random(f"{seed} {i}")
        kind = names[i % len(names)]
        attempt = KINDS[kind](root, rng)
        signal.alarm(LIMIT_S)
        try:
            attempt()
        except ThoughtlensError as error:
            assert "\n" not in str(error).strip() and len(str(error)) < 4200, kind
        except Exception as error:
            own = [f for f in traceback.extract_tb(error.__traceback__) if "thoughtlens/" in f.filename]
            at = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "outside"
            found[f"{kind}: {type(error).__name__} at {at}"] += 1
        finally:
            signal.alarm(0)
    return found


def _late(*_: object) -> None:
    raise TimeoutError("an input hangs")


def test_a_few(made):
    assert not unforeseen(made, 160, seed=0)


@pytest.mark.long
def test_ten_thousand(made):
    assert not unforeseen(made, 10_000, seed=1)
