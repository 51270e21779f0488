"""What was deleted on purpose is known as that, and is made again by its stage alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.core.counting import Count
from thoughtlens.core import StoreError, remove, removed, verify
from thoughtlens.core.records.manifest import REMOVED
from thoughtlens.core.stages import stage

TEXT = "as it was"


def run(out: Path, text: str = TEXT) -> dict:
    def work(tmp: Path) -> dict:
        (tmp / "codes" / "0").mkdir(parents=True, exist_ok=True)
        (tmp / "codes" / "0" / "large.bin").write_text(text)
        (tmp / "small.txt").write_text("kept")
        return {"count": 1}

    return stage.run_stage("count", Count(), out, work)


def test_deleted_pieces_are_no_damage_and_are_named(tmp_path):
    run(tmp_path / "a")
    remove(tmp_path / "a", ["codes/0/large.bin"])
    found = verify(tmp_path)
    assert found.removed == ["a/codes/0/large.bin"] and len(found.again) == 1 and found.unlisted == []
    assert not (tmp_path / "a" / "codes").exists()
    (tmp_path / "a" / "small.txt").unlink()
    with pytest.raises(StoreError, match=r"small\.txt \(missing\)"):
        verify(tmp_path)


def test_a_kill_between_the_note_and_the_deletion_does_no_damage(tmp_path, monkeypatch):
    run(tmp_path / "a")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        remove(tmp_path / "a", ["codes/0/large.bin"])
    monkeypatch.undo()
    assert removed(tmp_path / "a") == {} and verify(tmp_path).removed == []
    remove(tmp_path / "a", ["codes/0/large.bin"])
    assert list(removed(tmp_path / "a")) == ["codes/0/large.bin"]


def test_the_stage_makes_it_again_and_the_digest_stays(tmp_path):
    first = run(tmp_path / "a")
    remove(tmp_path / "a", ["codes/0/large.bin"])
    again = run(tmp_path / "a")
    assert again["digest"] == first["digest"]
    assert (tmp_path / "a" / "codes" / "0" / "large.bin").read_text() == TEXT
    assert not (tmp_path / "a" / REMOVED).exists() and sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_a_kill_between_the_two_renames_is_made_good(tmp_path, monkeypatch):
    run(tmp_path / "a")
    remove(tmp_path / "a", ["codes/0/large.bin"])
    real, calls = stage.os.rename, []

    def once(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(stage.os, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a")
    monkeypatch.undo()
    assert not (tmp_path / "a").exists()
    run(tmp_path / "a")
    assert verify(tmp_path).removed == [] and sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_what_is_not_the_same_again_is_said(tmp_path, capsys):
    run(tmp_path / "a")
    remove(tmp_path / "a", ["codes/0/large.bin"])
    run(tmp_path / "a", "another machine")
    assert "not the same to the last byte" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../elsewhere/gone.bin", "/elsewhere/gone.bin", ""])
def test_a_note_that_names_files_outside_of_its_folder_is_damaged(tmp_path, name):
    run(tmp_path / "a")
    (tmp_path / "elsewhere").mkdir()
    note = {"schema": 1, "files": {name: {"bytes": 1, "sha256": "0"}}}
    (tmp_path / "a" / REMOVED).write_text(json.dumps(note))
    with pytest.raises(StoreError, match="a name that none can have"):
        remove(tmp_path / "a", ["codes/0/large.bin"])
    assert (tmp_path / "elsewhere").is_dir() and (tmp_path / "a" / "codes" / "0" / "large.bin").is_file()
