"""A stage's directory is whole or absent, resumable, and never overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.core.counting import Count
from thoughtlens.core import BY_NAME, NotThereError, OccupiedError, ResourceError, StoreError, validate_config
from thoughtlens.core.stages import stage
from thoughtlens.core.stages.digests import inputs_of


def write(tmp: Path, n: int = 3) -> dict:
    for i in range(n):
        (tmp / f"{i}.txt").write_text(str(i))
    return {"count": {"value": n, "n": n}}


def run(out: Path, n: int = 3, **kwargs) -> dict:
    return stage.run_stage("count", Count(n=n), out, lambda tmp: write(tmp, n), **kwargs)


def test_a_stage_leaves_config_result_and_data(tmp_path):
    result = run(tmp_path / "a")
    assert result["count"]["value"] == 3
    assert stage.read_result(tmp_path / "a") == result
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "0.txt", "1.txt", "2.txt", "config.toml", "result.json", "thoughtlens-files.json",
    ]  # fmt: skip
    assert not (tmp_path / "a.tmp").exists()


def test_same_config_is_not_done_again(tmp_path):
    first = run(tmp_path / "a")
    again = stage.run_stage("count", Count(), tmp_path / "a", lambda tmp: pytest.fail("did it again"))
    assert again == first


def test_other_settings_are_refused_and_named(tmp_path):
    run(tmp_path / "a")
    with pytest.raises(OccupiedError, match=r"other settings: n \(3 there, 4 here\)"):
        run(tmp_path / "a", n=4)
    assert (tmp_path / "a" / "2.txt").read_text() == "2"


def test_a_finished_directory_that_was_changed_is_not_said_to_pass_unchecked(tmp_path):
    run(tmp_path / "a")
    (tmp_path / "a" / "2.txt").write_text("another length")
    with pytest.raises(StoreError, match=r"a/2\.txt\. Restore them, .* run it again$"):
        run(tmp_path / "a")


def test_a_foreign_directory_is_not_touched(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years of work")
    with pytest.raises(OccupiedError, match="something else is there"):
        run(tmp_path / "a")
    assert (tmp_path / "a" / "thesis.txt").read_text() == "years of work"


def test_a_changed_input_is_noticed(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("1")
    run(tmp_path / "a", inputs={"source": source})
    source.write_text("2")
    with pytest.raises(OccupiedError, match="made from another source"):
        run(tmp_path / "a", inputs={"source": source})


def test_missing_input(tmp_path):
    with pytest.raises(NotThereError, match="Expected an input at"):
        run(tmp_path / "a", inputs={"source": tmp_path / "none"})


def test_a_stage_that_wrote_nothing_but_empty_folders_can_begin_with_other_settings(tmp_path):
    def refuse(tmp: Path) -> dict:
        (tmp / "parts").mkdir()
        raise NotThereError("no model")

    with pytest.raises(NotThereError):
        stage.run_stage("count", Count(), tmp_path / "a", refuse)
    assert run(tmp_path / "a", n=5)["count"]["value"] == 5


@pytest.mark.parametrize(("written", "stays"), [("page.html", False), ("parts/0.json", True)])
def test_a_stage_that_was_refused_leaves_only_what_it_continues_from(written, stays, tmp_path):
    def fail(tmp: Path) -> dict:
        (tmp / written).parent.mkdir(exist_ok=True)
        (tmp / written).write_text("{}")
        raise StoreError("a table is damaged")

    with pytest.raises(StoreError, match="a table is damaged"):
        stage.run_stage("count", Count(), tmp_path / "a", fail)
    assert (tmp_path / "a.tmp").exists() == stays
    if stays:
        with pytest.raises(OccupiedError, match="unfinished run with other settings"):
            run(tmp_path / "a", n=5)
        assert (tmp_path / "a.tmp" / written).is_file()
    assert run(tmp_path / "a", 3 if stays else 5)["count"]


def test_an_interrupted_stage_continues_with_its_own_settings_only(tmp_path):
    def fail(tmp: Path) -> dict:
        (tmp / "0.txt").write_text("0")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.run_stage("count", Count(), tmp_path / "a", fail)
    assert not (tmp_path / "a").exists()
    with pytest.raises(OccupiedError, match=r"unfinished run with other settings: n \(3 there, 5 here\)"):
        run(tmp_path / "a", n=5)
    with pytest.raises(NotThereError, match="an unfinished run lies beside it"):
        stage.read_result(tmp_path / "a")
    assert run(tmp_path / "a")["count"]["value"] == 3


def test_two_writers_do_not_meet(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from tests.core.counting import Count\n"
        "from thoughtlens.core.stages.stage import run_stage\n"
        "def work(tmp):\n    print('in', flush=True); time.sleep(60)\n"
        f"run_stage('count', Count(), Path({str(tmp_path / 'a')!r}), work)\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
    ) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(OccupiedError, match="Another process is writing"):
            run(tmp_path / "a")
        other.kill()
    assert run(tmp_path / "a")["count"]["value"] == 3


@pytest.mark.parametrize(("number", "message"), [(28, "disk is full"), (13, "No permission")])
def test_operating_system_errors_become_one_line(tmp_path, number, message):
    def fail(tmp: Path) -> dict:
        raise OSError(number, os.strerror(number), str(tmp / "x"))

    with pytest.raises(ResourceError, match=message):
        stage.run_stage("count", Count(), tmp_path / "a", fail)


@pytest.mark.parametrize(
    "exhaust",
    [
        lambda: torch.empty(1 << 60, dtype=torch.uint8),
        lambda: bytearray(1 << 60),
        lambda: raise_(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nstack")),
    ],
    ids=["torch on the CPU", "Python", "torch on a GPU"],
)
def test_no_memory_is_one_line_and_what_is_finished_stays(tmp_path, exhaust):
    def fail(tmp: Path) -> dict:
        (tmp / "checkpoint").write_text("1")
        exhaust()
        return {}

    with pytest.raises(ResourceError, match="Too little memory") as caught:
        stage.run_stage("count", Count(), tmp_path / "a", fail)
    assert "\n" not in str(caught.value) and "it continues" in str(caught.value)
    assert (tmp_path / "a.tmp" / "checkpoint").read_text() == "1"


def test_other_runtime_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="shapes") as caught:
        stage.run_stage("count", Count(), tmp_path / "a", lambda _: raise_(RuntimeError("shapes")))
    assert not isinstance(caught.value, ResourceError)


def raise_(error: Exception) -> dict:
    raise error


def test_damaged_json_is_one_line(tmp_path):
    run(tmp_path / "a")
    (tmp_path / "a" / "result.json").write_text('{"schema": 1,')
    with pytest.raises(StoreError, match="is not JSON"):
        stage.read_result(tmp_path / "a")


def test_digest_follows_the_data_not_the_clock(tmp_path):
    a, b, c = run(tmp_path / "a"), run(tmp_path / "b"), run(tmp_path / "c", n=2)
    assert a["digest"] == b["digest"] != c["digest"]


def test_an_attempt_that_left_nothing_does_not_stand_in_the_way(tmp_path):
    def fail(tmp: Path) -> dict:
        (tmp / "members" / "pooled").mkdir(parents=True)
        raise NotThereError("no such model")

    with pytest.raises(NotThereError):
        stage.run_stage("count", Count(n=3), tmp_path / "a", fail)
    assert not list(tmp_path.iterdir())
    assert run(tmp_path / "a", n=4)["count"]["value"] == 4
    assert "n = 4" in (tmp_path / "a" / "config.toml").read_text()


def test_a_place_may_be_written_in_another_way(tmp_path, monkeypatch):
    class Reads(Count):
        source: Path

    def work(tmp: Path) -> dict:
        (tmp / "0.txt").write_text("0")
        if not done:
            raise KeyboardInterrupt
        return {}

    (tmp_path / "in.txt").write_text("1")
    monkeypatch.chdir(tmp_path)
    done: list[int] = []
    ways = [Path("in.txt"), tmp_path / "in.txt", Path("../" + tmp_path.name + "/in.txt")]
    with pytest.raises(KeyboardInterrupt):
        stage.run_stage("count", Reads(source=ways[0]), "a", work, inputs={"source": ways[0]})
    done.append(1)
    for way in ways[1:]:  # begun with another, and finished with another
        stage.run_stage("count", Reads(source=way), tmp_path / "a", work, inputs={"source": way})
    with pytest.raises(OccupiedError, match=r"other settings: n \(3 there, 4 here\)\. Choose"):
        stage.run_stage("count", Reads(n=4, source=ways[2]), "a", work, inputs={"source": ways[2]})


@pytest.mark.parametrize("inputs", ["x", ["x"], {"acts": 3}])
def test_a_result_with_damaged_inputs_is_refused(inputs, tmp_path):
    with pytest.raises(StoreError, match="inputs is no table"):
        inputs_of({"inputs": inputs}, tmp_path)


def test_a_finished_stage_answers_without_its_code_and_still_sees_a_changed_input(tmp_path):
    acts, out = tmp_path / "acts", tmp_path / "recovery"
    for name in ("acts", "sae"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_text(name)
    cfg = validate_config(BY_NAME["recovery"].config, {"acts": acts, "sae": tmp_path / "sae"})
    inputs = {"acts": acts, "sae": tmp_path / "sae"}
    made = stage.run_stage("recovery", cfg, out, lambda tmp: {"headline": {}}, inputs=inputs)
    code = (
        "import sys; from thoughtlens.core import BY_NAME, load_config, read_recipe;"
        "one = BY_NAME['recovery'];"
        f"found = one.run(load_config(one.config, read_recipe({str(out)!r})), {str(out)!r});"
        "print(found['digest'], 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [made["digest"], "False"]
    (acts / "data").write_text("others")
    with pytest.raises(OccupiedError, match="made from another acts"):
        BY_NAME["recovery"].run(cfg, out)
