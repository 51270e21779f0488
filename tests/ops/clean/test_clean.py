"""What runs can make again is found, said with its size, and nothing else is touched."""

from __future__ import annotations

import pytest
from filelock import FileLock

from tests.acts import small
from tests.show.runs.made import stage
from thoughtlens.acts import ActivationStore
from thoughtlens.core import ConfigError, NotThereError, OccupiedError, seal, verify
from thoughtlens.core.records.files import lock_of
from thoughtlens.ops import delete, pieces_of


@pytest.fixture
def run(tmp_path):
    """A run with activations, codes, pages, and files of somebody else."""
    root = tmp_path / "run"
    interpret = stage(root, "interpret", "interpret", "", {})
    (interpret / "codes" / "0").mkdir(parents=True)
    (interpret / "codes" / "0" / "csr.safetensors").write_bytes(b"1234")
    seal(interpret)
    (interpret / "codes" / "0" / "mine.txt").write_text("a note of mine")
    stage(root, "report", "report", "", {})
    small.write(root / "acts", small.meta(), 70, shard_rows=100)
    (root / "acts" / "result.json").write_text('{"stage": "extract"}')
    (root / "acts" / "shards" / "mine.safetensors").write_text("foreign")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "shards").mkdir()
    (tmp_path / "other" / "shards" / "0.safetensors").write_text("foreign")
    return root


def test_shards_and_codes_go_and_all_else_stays(run, tmp_path):
    found = pieces_of(tmp_path)
    assert [(one.kind, one.files) for one in found.pieces] == [("shards", 1), ("codes", 1)]
    assert found.bytes == sum(one.bytes for one in found.pieces) and not found.deleted
    assert "thoughtlens interpret" in found.text()
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert delete(found).deleted
    gone = before - {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.relative_to(run).as_posix() for path in gone} == {
        "acts/shards/00000.safetensors", "interpret/codes/0/csr.safetensors",
    }  # fmt: skip
    assert len(verify(run).removed) == 2
    assert pieces_of(tmp_path).pieces == [] and "nothing" in pieces_of(tmp_path).text()


def test_a_store_without_its_shards_opens_and_says_what_makes_them_again(run):
    delete(pieces_of(run))
    store = ActivationStore.open(run / "acts")
    assert store.n_rows == 70
    with pytest.raises(NotThereError, match=r"deleted on purpose .* make them again: thoughtlens extract"):
        store.read(store.hook_names[0], [0, 1])


@pytest.mark.parametrize("file", ["config.toml", "interpret/result.json"])
def test_what_a_damaged_file_could_not_make_again_stays(run, file):
    (run / "config.toml").write_text("seed = 0")
    seal(run)
    assert "codes" in [one.kind for one in pieces_of(run).pieces]
    with (run / file).open("a") as damaged:
        damaged.write(" ")
    assert "codes" not in [one.kind for one in pieces_of(run).pieces]


def test_pages_go_only_where_they_are_asked_for(run):
    delete(pieces_of(run, ["report"]))
    assert not (run / "report").exists() and (run / "acts" / "shards" / "00000.safetensors").is_file()
    with pytest.raises(ConfigError, match="expected some of shards, codes"):
        pieces_of(run, ["results"])


def test_imported_and_linked_activations_are_kept(run, tmp_path):
    (run / "acts" / "result.json").write_text('{"stage": "import"}')
    assert [one.kind for one in pieces_of(run).pieces] == ["codes"]
    other = stage(tmp_path / "linked", "report", "report", "", {}).parent
    (other / "acts").symlink_to(run / "acts")
    with pytest.raises(NotThereError):
        pieces_of(tmp_path / "other")
    assert pieces_of(other).pieces == []


def test_a_stage_that_is_being_written_is_left(run):
    found = pieces_of(run, ["codes"])
    with FileLock(lock_of(run / "interpret.tmp")), pytest.raises(OccupiedError):
        delete(found)
    assert (run / "interpret" / "codes" / "0" / "csr.safetensors").is_file()
