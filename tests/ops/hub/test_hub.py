"""Push and pull through directories: the same bytes, nothing private, nothing that leads out."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from httpx import Request, Response
from huggingface_hub.errors import RevisionNotFoundError
from typer.testing import CliRunner

from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.cli import app
from thoughtlens.core import (
    BY_NAME,
    LIST,
    ConfigError,
    DataError,
    NotThereError,
    OccupiedError,
    ResourceError,
    Result,
    StoreError,
    digest,
    number,
    provenance,
    read_result,
    to_toml,
    write_json,
)
from thoughtlens.ops import hub
from thoughtlens.ops.hub import places
from thoughtlens.ops.hub.manifest import FILE
from thoughtlens.ops.hub.private import Cleaner
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.pages.pages import refreshed


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run of two SAEs, with absolute paths in its configs as a user in another directory gets them."""
    root = tmp_path_factory.mktemp("somebody") / "my_run"
    x, _ = planted(1000, 8, 16, 2 / 16, seed=0, offset=0.5)
    acts = write_store(root / "acts", {"layers.0:out": x, "layers.1:out": 2 * x})
    cfg = TrainConfig(
        acts=acts, sae=saes.TopKConfig(d_sae=24, k=2), batch_size=64, epochs=1.0, members=("per_layer",)
    )
    train(cfg, root / "sae")
    (root / "config.toml").write_text(to_toml(cfg), "utf-8")
    evaluated = {
        "stage": "validate",
        "inputs": {"sae": {"digest": read_result(root / "sae")["digest"]}},
        "headline": {"fvu": {"value": 0.25, "n": 100, "split": "test", "low": 0.2, "high": 0.3}},
        "definitions": {"fvu": "error | variance"},
        "warnings": ["few rows"],
    }
    (root / "validate").mkdir()
    write_json(root / "validate" / "result.json", evaluated)
    return root


@pytest.fixture
def run(home, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(home, tmp_path / "my_run")
    return tmp_path / "my_run"


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_run_there_and_back(home, tmp_path):
    result = hub.push(home, str(tmp_path / "there"))
    assert (result["kind"], result["pushed"]) == ("run", str(tmp_path / "there"))
    assert "acts (not made)" not in result["missing"] and "classify (not made)" in result["missing"]
    assert hub.pull(str(tmp_path / "there"), tmp_path / "back")["n_files"] == result["n_files"]
    back, original = files(tmp_path / "back"), files(home)
    assert set(original) - set(back) == {
        name for name in original if name.startswith(("acts/", "sae/checkpoints/"))
    }
    assert {n for n in back if back[n] != original[n]} == set(result["rewritten"])
    assert set(result["rewritten"]) == {"config.toml", "sae/config.toml", "sae/result.json", f"sae/{LIST}"}
    a, b = saes.load_members(home / "sae"), saes.load_members(tmp_path / "back" / "sae")
    assert a.keys() == b.keys() == {"layers.0-out", "layers.1-out"}
    assert all((a[name].W_enc == b[name].W_enc).all() for name in a)
    assert read_result(tmp_path / "back" / "sae")["digest"] == read_result(home / "sae")["digest"]


def test_nothing_that_was_pushed_knows_the_machine(home, tmp_path):
    hub.push(home, str(tmp_path / "there"))
    private = str(home.parent).encode()
    assert any(private in data for data in files(home).values())
    assert not [name for name, data in files(tmp_path / "there").items() if private in data]
    assert 'acts = "my_run/acts"' in (tmp_path / "there" / "sae" / "config.toml").read_text()


def test_activations_go_when_asked(home, tmp_path):
    hub.push(home, str(tmp_path / "there"), acts=True)
    names = files(tmp_path / "there")
    assert "acts/meta.json" in names and "acts/shards/00000.safetensors" in names
    assert not [name for name in names if "checkpoints" in name]


def test_the_card_says_what_was_measured_and_what_was_not(home, tmp_path):
    hub.push(home, str(tmp_path / "there"), license="mit")
    card = (tmp_path / "there" / "README.md").read_text()
    matter = front_matter(card)
    assert matter["library_name"] == "thoughtlens" and matter["license"] == "mit"
    assert {"sparse-autoencoder", "topk"} <= set(matter["tags"]) and "base_model" not in matter
    assert "| validate | fvu | 0.2500 | 0.2000 to 0.3000 | 100 | test |" in card
    fvu = read_result(home / "sae")["headline"]["fvu_validation"]
    assert f"| train | fvu\\_validation | {number(fvu['value'])} |" in card.replace("fvu_v", "fvu\\_v")
    assert "- fvu: error \\| variance" in card and "- few rows" in card
    assert "- classify (not made)" in card and "| layers.1-out | topk | 8 | 24 | layers.1:out |" in card
    assert "thoughtlens pull WHERE_THIS_IS my_run" in card


def test_one_sae_and_its_folder(home, tmp_path):
    one = hub.push(home / "sae" / "layers.0-out", str(tmp_path / "one"))
    assert (one["kind"], one["n_files"], one["missing"]) == ("sae", 3, [])
    hub.pull(str(tmp_path / "one"), tmp_path / "back")
    assert saes.load(tmp_path / "back").hook_names == ["layers.0:out"]
    assert "- validate (no result of it is here)" in (tmp_path / "one" / "README.md").read_text()
    both = hub.push(home / "sae", str(tmp_path / "both"))
    assert both["kind"] == "stack"
    card = (tmp_path / "both" / "README.md").read_text()
    assert "| validate | fvu | 0.2500 |" in card  # stands beside it and measured this very SAE
    assert "no result of it" not in card


def test_what_the_card_says_to_type_works_whatever_the_folder_is_called(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = shutil.copytree(home / "sae" / "layers.0-out", tmp_path / 'k=2 "x"\'s l1.5')
    hub.push(odd, str(tmp_path / "there"))
    card = (tmp_path / "there" / "README.md").read_text()
    shell, python = (card.split(f"```{name}\n")[1].split("```")[0] for name in ("sh", "python"))
    assert shlex.split(shell.splitlines()[1]) == ["thoughtlens", "pull", "WHERE_THIS_IS", odd.name]
    exec(python, found := {})
    assert found["loaded"].hook_names == ["layers.0:out"]


def test_numbers_of_another_sae_stay_out_of_the_card(run, tmp_path):
    table = json.loads((run / "validate" / "result.json").read_text())
    table["inputs"]["sae"]["digest"] = "0" * 64
    write_json(run / "validate" / "result.json", table)
    hub.push(run / "sae", str(tmp_path / "there"))
    assert "| validate |" not in (tmp_path / "there" / "README.md").read_text()


def test_a_run_goes_with_its_explorer(tmp_path):
    from tests.show.explorer.runs import thought_run

    run = thought_run(tmp_path / "run", n=20)
    (run / "config.toml").write_text("", "utf-8")
    made = {"stage": "train", "config_identity": "0" * 16, "seconds": 1.0, **provenance().to_json()}
    write_json(run / "sae" / "result.json", {**made, "digest": digest(run / "sae")})
    result = hub.push(run, str(tmp_path / "there"))
    assert (tmp_path / "there" / "explorer" / "index.html").is_file()
    assert not any(m.startswith("explorer") for m in result["missing"])


@pytest.mark.parametrize(("revision", "named"), [(None, False), ("a" * 40, True)])
def test_a_folder_that_looks_like_a_hub_id_is_no_base_model(run, tmp_path, revision, named):
    header = json.loads((run / "sae" / "layers.0-out" / "cfg.json").read_text())
    header["provenance"] |= {"model": "models/tiny", "model_digest": "0" * 64, "model_revision": revision}
    (tmp_path / "one").mkdir()
    write_json(tmp_path / "one" / "cfg.json", header)
    shutil.copy(run / "sae" / "layers.0-out" / "sae.safetensors", tmp_path / "one" / "sae.safetensors")
    hub.push(tmp_path / "one", str(tmp_path / "there"))
    assert ("base_model" in front_matter((tmp_path / "there" / "README.md").read_text())) == named


def test_a_base_model_is_named_only_if_it_is_one(run, tmp_path):
    for member, model in (("layers.0-out", "EleutherAI/pythia-70m"), ("layers.1-out", "/data/secret/llama")):
        header = json.loads((run / "sae" / member / "cfg.json").read_text())
        header["provenance"]["model"] = model
        write_json(run / "sae" / member / "cfg.json", header)
        (run / "sae" / member / LIST).unlink()
    with pytest.raises(StoreError, match=r"2 of \d+ files are not what was written there"):
        hub.push(run, str(tmp_path / "there"))
    (run / "sae" / LIST).unlink()
    result = hub.push(run, str(tmp_path / "there"))
    card = (tmp_path / "there" / "README.md").read_text()
    assert front_matter(card)["base_model"] in ("EleutherAI/pythia-70m", ["EleutherAI/pythia-70m"])
    assert "sae/layers.1-out/cfg.json" in result["rewritten"]
    assert not [n for n, data in files(tmp_path / "there").items() if b"secret" in data]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("{root}", "run"),
        ("{root}/acts", "run/acts"),
        ("rows in {root}/acts/meta.json are few", "rows in run/acts/meta.json are few"),
        ("/data/big/llama", "llama"),
        ("C:\\models\\llama", "llama"),
        ("no file at /data/big/llama/x.bin, give another", "no file at x.bin, give another"),
        ("https://host/a/b and 3/4/5 and and/or/not", None),
        ("runs/pilot/acts", None),
        ("</b></i> layers.8:out", None),
        ("EleutherAI/pythia-70m", None),
        ("two\n/lines/of text", "two\nof text"),
        ("/", None),
    ],
)
def test_paths_are_taken_out_of_strings(tmp_path, text, clean):
    root = tmp_path / "run"
    root.mkdir()
    before = text.replace("{root}", str(root))
    write_json(root / "x.json", {"a": [{"b": before}], "n": 1})
    cleaned = Cleaner(root).clean(root / "x.json")
    assert cleaned is None if clean is None else json.loads(cleaned) == {"a": [{"b": clean}], "n": 1}


def test_pages_lose_the_directories_they_were_made_in(tmp_path, monkeypatch):
    root = tmp_path / "run"
    root.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "homes" / "ada"))
    page = f"<a href='{root}/acts'></a> <p>{tmp_path}/homes/ada/data</p> <script>a /b/c d</script>"
    (root / "x.html").write_text(page)
    cleaned = Cleaner(root).clean(root / "x.html")
    assert cleaned == b"<a href='run/acts'></a> <p>homes/ada/data</p> <script>a /b/c d</script>"


def test_what_cannot_be_pushed(run, tmp_path):
    there = str(tmp_path / "there")
    with pytest.raises(NotThereError, match="found no directory"):
        hub.push(tmp_path / "nothing", there)
    (tmp_path / "half.tmp").mkdir()
    with pytest.raises(NotThereError, match="unfinished one lies beside it"):
        hub.push(tmp_path / "half", there)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotThereError, match="found nothing"):
        hub.push(tmp_path / "empty", there)
    with pytest.raises(ConfigError, match=r"a directory such as \./plain"):
        hub.push(run, "plain")
    with pytest.raises(ConfigError, match="only for the hub"):
        hub.push(run, there, revision="main")
    (run / "link").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="Refusing to push the link"):
        hub.push(run, there)
    (run / "link").unlink()
    (run / "new\nline").write_text("")
    with pytest.raises(DataError, match="Refusing the file name"):
        hub.push(run, there)
    (run / "new\nline").unlink()
    (run / "sae" / "result.json").write_text("{")
    with pytest.raises(StoreError):
        hub.push(run, there)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("there")]


def test_nothing_is_overwritten(home, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    hub.push(home / "sae", str(there))  # empty: fine
    with pytest.raises(OccupiedError, match="an earlier push; --update"):
        hub.push(home, str(there))
    hub.push(home / "sae" / "layers.0-out", str(there), update=True)
    assert sorted(files(there)) == ["README.md", "cfg.json", "sae.safetensors", LIST, FILE]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    for update in (False, True):
        with pytest.raises(OccupiedError, match="something but no push"):
            hub.push(home / "sae", str(tmp_path / "other"), update=update)
    with pytest.raises(OccupiedError, match="Expected nothing at"):
        hub.pull(str(there), tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "there"]


def tampered(there: Path, **changes) -> None:
    table = json.loads((there / FILE).read_text())
    table.update(changes)
    (there / FILE).write_text(json.dumps(table))


OK = {"bytes": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}


@pytest.mark.parametrize(
    "name",
    [
        "../out.txt",
        "/tmp/out.txt",
        "a/../../b",
        "a//b",
        ".ssh/key",
        "a/.git/x",
        "C:\\x",
        "a\\b",
        "",
        ".",
        "a\nb",
        "é",
        "x:y",
    ],
)
def test_names_that_lead_out_are_refused(home, tmp_path, name):
    hub.push(home / "sae", str(tmp_path / "there"))
    tampered(tmp_path / "there", files={name: OK})
    with pytest.raises(StoreError, match="Refusing the file name"):
        hub.pull(str(tmp_path / "there"), tmp_path / "back")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "x"}, "has format 'x'"),
        ({"schema_version": 2}, "schema 2"),
        ({"kind": "virus"}, "got 'virus'"),
        ({"surprise": 1}, "surprise"),
        ({"files": {"a": {"bytes": -1, "sha256": "0" * 64}}}, "bytes"),
        ({"files": {"a": {"bytes": 1, "sha256": "zz"}}}, "sha256"),
        ({"files": {"a": OK, "A": OK}}, "upper and lower case"),
        ({"files": {"a": OK, "a/b": OK}}, "a is a file and a folder"),
        ({"files": 3}, "files"),
    ],
)
def test_manifests_that_are_refused(home, tmp_path, changes, message):
    hub.push(home / "sae" / "layers.0-out", str(tmp_path / "there"))
    tampered(tmp_path / "there", **changes)
    with pytest.raises(StoreError, match=message):
        hub.pull(str(tmp_path / "there"), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_files_that_are_not_what_was_pushed(home, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    hub.push(home / "sae" / "layers.0-out", str(there))
    weights = (there / "sae.safetensors").read_bytes()
    (there / "sae.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(StoreError, match=r"sae\.safetensors has not the size and digest"):
        hub.pull(str(there), back)
    (there / "sae.safetensors").write_bytes(weights[:-1])
    with pytest.raises(StoreError, match=r"sae\.safetensors"):
        hub.pull(str(there), back)
    (there / "sae.safetensors").unlink()
    with pytest.raises(NotThereError, match=r"lists sae\.safetensors, which is not there"):
        hub.pull(str(there), back)
    (tmp_path / "elsewhere").write_bytes(weights)
    (there / "sae.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="it is a link"):
        hub.pull(str(there), back)
    with pytest.raises(NotThereError, match=f"found no {FILE}"):
        hub.pull(str(home), back)
    tampered(there, files={"a": {"bytes": 10**18, "sha256": "0" * 64}})
    with pytest.raises(ResourceError, match="are free at"):
        hub.pull(str(there), back)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "there"]


def test_what_else_lies_there_is_not_pulled(home, tmp_path):
    hub.push(home / "sae" / "layers.0-out", str(tmp_path / "there"))
    (tmp_path / "there" / "evil.py").write_text("")
    hub.pull(str(tmp_path / "there"), tmp_path / "back")
    assert sorted(os.listdir(tmp_path / "back")) == ["cfg.json", "sae.safetensors", LIST]


def test_the_hub_out_of_reach_is_one_line(home, tmp_path):
    with pytest.raises(ResourceError, match="The hub did not show nobody/nothing"):
        hub.push(home / "sae", "nobody/nothing")
    with pytest.raises(ResourceError, match="The hub did not give nobody/nothing"):
        hub.pull("nobody/nothing", tmp_path / "back")


def test_the_commands(home, tmp_path):
    there, back = str(tmp_path / "there"), str(tmp_path / "back")
    pushed = CliRunner().invoke(app, ["push", str(home / "sae" / "layers.0-out"), there, "--license", "mit"])
    assert pushed.exit_code == 0 and json.loads(pushed.stdout)["kind"] == "sae", pushed.output
    pulled = CliRunner().invoke(app, ["pull", there, back])
    size = json.loads(pushed.stdout)["bytes"]
    expected = {"pulled": back, "kind": "sae", "n_files": 3, "bytes": size, "commit": None}
    assert json.loads(pulled.stdout) == expected


def test_copies_that_a_kill_left_are_swept_and_an_earlier_push_comes_back(home, tmp_path):
    hub.push(home, str(tmp_path / "there"))
    (tmp_path / "there.copy-dead.tmp").mkdir()
    os.rename(tmp_path / "there", tmp_path / "there.copy-dead.tmp.old")  # between the two renames of a push
    with places.temporary(tmp_path / "there"):
        assert (tmp_path / "there" / FILE).is_file()
        with places.temporary(tmp_path / "there") as other:
            assert len(list(tmp_path.glob("there.copy-*"))) == 2 and other.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]


def test_a_revision_that_is_not_there_is_made_in_the_repository(home, monkeypatch):
    """What the hub answers of a repository without this branch, and what it is asked to do."""
    asked = []

    class Api:
        def list_repo_files(self, name, revision):
            raise RevisionNotFoundError("no v1", response=Response(404, request=Request("GET", "https://h")))

        def create_repo(self, name, **_):
            asked.append("repo")

        def create_branch(self, name, branch, exist_ok):
            asked.append(branch)

        def upload_folder(self, revision, **_):
            asked.append(f"files to {revision}")
            return SimpleNamespace(commit_url="https://h/commit")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert hub.push(home, "me/run", revision="v1")["pushed"] == "https://h/commit"
    assert asked == ["repo", "v1", "files to v1"]


def test_pulled_pages_are_made_anew_before_they_are_opened(home, tmp_path, monkeypatch):
    made = []

    def stage(cfg, out):
        Path(out).mkdir(exist_ok=True)
        if not (Path(out) / "index.html").exists():
            made.append(Path(out).name)
            (Path(out) / "index.html").write_text("ours")
        return Result()

    run = tmp_path / "run"
    shutil.copytree(home, run)
    (run / "explorer").mkdir()
    (run / "explorer" / "index.html").write_text("<script>theirs</script>")
    hub.push(run, str(tmp_path / "there"))
    hub.pull(str(tmp_path / "there"), tmp_path / "back")
    monkeypatch.setattr(type(BY_NAME["explorer"]), "run", property(lambda _: stage))
    page = tmp_path / "back" / "explorer" / "index.html"
    assert "theirs" in page.read_text()
    for _ in range(2):
        refreshed(ExplorerConfig(run=tmp_path / "back"), page.parent)
        assert page.read_text() == "ours"
    assert made == ["explorer"]
