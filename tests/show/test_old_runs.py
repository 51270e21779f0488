"""Old runs, written before there were wings: report, explorer, server and classify say what they said then.

`run_schema_1/runs.tar.xz` holds a run of thoughts and one of text (160 problems, 120 documents) without what
no page reads, and under `expected` what that version showed of them: the report as Markdown, the explorer's
tables, and answers of the server.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.show.explorer.pages import tables
from thoughtlens.core import BY_NAME, load_config, read_result
from thoughtlens.core.records.manifest import UNCHECKED
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.summary import LESS
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.serve.config import FireRequest, SteerRequest
from thoughtlens.show.serve.engine import Engine

pytestmark = pytest.mark.slow

RUNS = Path(__file__).parents[1] / "fixtures" / "run_schema_1" / "runs.tar.xz"
KINDS = ("thoughts", "text")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_lm_dir):
    root = tmp_path_factory.mktemp("old")
    with tarfile.open(RUNS) as packed:
        packed.extractall(root, filter="data")
    shutil.copytree(tiny_lm_dir, root / "tiny-llama")
    return root


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    """Runs name their parts as seen from the folder that they were made in; what no page reads is gone."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv(UNCHECKED, "1")


def expect_same(new, old, where=""):
    """The same, apart from the last of three digits that a page shows of a number."""
    if isinstance(old, dict):
        assert set(new) == set(old), where
        for key, value in old.items():
            expect_same(new[key], value, f"{where}/{key}")
    elif isinstance(old, list):
        assert len(new) == len(old), where
        for i, (one, other) in enumerate(zip(new, old, strict=True)):
            expect_same(one, other, f"{where}/{i}")
    elif isinstance(old, float):
        assert new == pytest.approx(old, rel=2e-2, abs=1e-4), where
    else:
        assert new == old, where


SINCE = ("Thought 0 is", "Everything that the thought leaves", "A verdict is given", "Trained on split",
         "> - **report**: the run has no",
         "Only the comparison named", "Changes are relative")  # fmt: skip
"""Lines that say more than they did."""


def told(markdown: str) -> list[str]:
    """Lines of a report without its first page, the heads of its tables, and what is said since."""
    markdown = re.sub(
        r"\n## What (the thoughts hold|was found)\n.*?(?=\n> \*\*W|\n## )", "", markdown, flags=re.S
    )
    lines = markdown.splitlines()
    ruled = [i for i, line in enumerate(lines) if line.startswith("| :--")]
    heads = {*ruled, *(i - 1 for i in ruled)}
    kept = [line for i, line in enumerate(lines) if i not in heads and line and not line.startswith(SINCE)]
    lines, preferences = laid_out_since([as_then(line) for line in kept])
    return [*lines, *preferences]


def laid_out_since(lines: list[str]) -> tuple[list[str], list[str]]:
    """Lines without the two tables that are laid out otherwise since, then what these say in both ways.

    Answers with reconstructions have one row per SAE, preferences one per factor of the shown SAE.
    """
    kept, said = [], []
    for line in lines:
        if line.startswith(("*Preferences", "Pairs of latent and level", "Untouched")):
            continue
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        of_factors = re.findall(r"([\d,]+) \(([\d,]+)\) of ([\d,]+)", line)
        if of_factors:
            said += ["{} {} {}".format(*one) for one in of_factors if not line.startswith("| layers")]
        elif len(cells) == 4 and all(re.fullmatch(r"[\d,]+", cell) for cell in cells[1:]):
            said.append(f"{cells[2]} {cells[3]} {cells[1]}")
        elif "verdict" in cells and len(cells) == 10 and cells[1] in ARMS:
            said += [" ".join([cells[0], *cells[2:8], cells[9]])] if cells[1] == ARMS[0] else []
        elif "verdict" in cells and len(cells) == 11:
            said.append(" ".join(cells[:8]))
        else:
            kept.append(line)
    return kept, sorted(said)


ARMS = ("SAE", "PCA, k = L0", "random SAE", "mean of the cell")


def as_then(line: str) -> str:
    """A line in the words of that version: headline numbers without names, places as indices, n summed."""
    if re.match(r"\| (validate|classify|interpret|train|replay) \|", line):
        stage, _, *numbers = line.split(" | ")[:4]
        return " | ".join([stage, *numbers])
    line = re.sub(r"^(\| layers\.\S+ \|(?: [^|]* \|){10}) – \| $", r"\1 ", line)  # positions left out
    line = line.replace("no comparison: k = d\\_in keeps everything", "worse")
    line = re.sub(
        r"\| (lower|higher|worse|better|inconclusive|equivalent) \|", "| verdict |", line
    )  # by Holm's p
    line = line.replace("vectors a cell", "vectors per cell")
    line = re.sub(r"n = ([\d,]+) (or|to) ([\d,]+)", r"n = \1 to \3", line)
    line = re.sub(r"(thought\\_in), enters thought (\d+)( = what thought \d+ wrote)?", r"\1\\[\2\\]", line)
    line = re.sub(r"resid (\d+), in thought (\d+)", r"resid\\[\1, \2\\]", line)
    return re.sub(r"(thought\\_in|resid), all thoughts", r"\1\\[all\\]", line)


SINCE_OF_EXPLANATIONS = ("precision", "recall", "base_rate", "says", "value", "thoughts", "clauses")


def listed_since(new: dict, old: dict) -> None:
    """Undo what pages get otherwise since: rows as lists, only associations that are shown."""
    columns = new["run"].pop("columns")
    examples = columns[f"{'text' if new['run']['kind'] == 'text' else 'thought'}_examples"]
    for name in ("read_by", "variables", "moves", "graphs"):
        new["run"].pop(name)
    for name in ("values", "moves", "weights", "graph", "circuit", "lens_logits"):
        new["run"]["commands"].pop(name)
    for member in new["run"]["members"]:
        for name in ("values", "moves", "weights", "lens_logits"):
            member["have"].pop(name)
        for name in ("topic", "value", "claims"):
            new[f"{member['key']}/summary"].pop(name)
    pages = [(page, before) for name, part in new.items() if re.fullmatch(r"m\d+/\d+", name)
             for page, before in zip(part, old[name], strict=True)]  # fmt: skip
    for page, before in pages:
        page.pop("claims")
        for name, keys in (("top_examples", examples), ("decile_examples", examples),
                           ("explanations", columns["explanations"])):  # fmt: skip
            found = [dict(zip(keys, row, strict=True)) for row in page.get(name, [])]
            known = [
                {k: v for k, v in row.items() if k not in SINCE_OF_EXPLANATIONS or name != "explanations"}
                for row in found
            ]
            optional = ("decile", "verdict")
            if name in page:
                page[name] = [
                    {k: v for k, v in row.items() if v is not None or k not in optional} for row in known
                ]
        every = {tuple(row[:3]): row for row in before["associations"]}
        for row in page["associations"]:
            expect_same(row, every[tuple(row[:3])])
        page["associations"] = before["associations"]
    for page in (page for name, part in new.items() if name.startswith("problems/") for page in part):
        for name in ("chain", "trace", "attention"):
            page.pop(name)
        if page["tokens"] is None:
            page.pop("tokens")
        for rows in filter(None, page["members"].values()):
            rows[:] = [[hook, at, [pair[:2] for pair in pairs[:6]]] for hook, at, _, pairs in rows]


def said_since(new: dict, old: dict) -> dict:
    """The explorer's tables without what is said since: signs, reasons, commands that can be pasted."""
    listed_since(new, old)
    for name in ("id", "problems_are", "thoughts_are", "fed_back"):
        new["run"].pop(name)
    assert new["run"]["commands"].keys() == old["run"]["commands"].keys()
    new["run"]["commands"] = old["run"]["commands"]
    new["run"]["definitions"]["label_strength"] = old["run"]["definitions"]["label_strength"]
    for i, member in enumerate(new["run"]["members"]):
        assert member.pop("unexplained").startswith("Not explained")
        for strip in member["strips"]:
            strip["note"] = strip["note"].replace("vectors per cell", "vectors a cell")
        key, away = f"m{i}", new.pop(f"m{i}/away")
        for toward, other, before in zip(new[f"{key}/words"], away, old[f"{key}/words"], strict=True):
            assert set(re.findall(r"\w+", f"{toward} {other}")) == set(re.findall(r"\w+", before))
        new[f"{key}/words"] = old[f"{key}/words"]
        summary = new[f"{key}/summary"]
        signs = zip(summary["label"], summary["columns"]["label_strength"], strict=True)
        assert all(label is None or label.startswith(LESS) == (size < 0) for label, size in signs)
        summary["label"] = [label and label.removeprefix(LESS) for label in summary["label"]]
        says = zip(summary["says"], old[f"{key}/summary"]["says"], strict=True)
        summary["says"] = [said if before else "" for said, before in says]
        for page in (page for name, part in new.items() if name.startswith(f"{key}/") and name[-1].isdigit()
                     for page in part):  # fmt: skip
            for effect in page["effects"]:
                effect[1] = re.sub(r", in (thought \d+)", r", \1", effect[1])
    return new


def without_latents(markdown: str) -> str:
    """Without the latents of thoughts that are shown one by one: since, those of the shown SAE alone."""
    return re.sub(r"\n!\[Firing rate by label.*?(?=\n## Classification)", "", markdown, flags=re.S)


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_says_the_same(kind, tmp_path):
    BY_NAME["report"].run(ReportConfig(run=Path(kind), top_latents=4), tmp_path / "report")
    new = (tmp_path / "report" / "report.md").read_text("utf-8")
    old = Path("expected", f"{kind}.md").read_text("utf-8")
    if kind == "thoughts":
        new, old = without_latents(new), without_latents(old)
    assert "## Classification" in new and told(new) == told(old)


@pytest.mark.parametrize("kind", KINDS)
def test_the_explorer_shows_the_same(kind, tmp_path):
    BY_NAME["explorer"].run(ExplorerConfig(run=Path(kind), n_problems=12), tmp_path / "explorer")
    new = tables(tmp_path / "explorer")
    old = json.loads(Path("expected", f"{kind}.json").read_text("utf-8"))
    expect_same(said_since(new, old), old)


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_answers_the_same(kind):
    old = json.loads(Path("expected", "serve.json").read_text("utf-8"))[kind]
    engine = Engine(Path(kind), timeout_s=60)
    text = old["text"]
    about = json.loads(json.dumps(engine.about))
    assert about.pop("n_thoughts") == (6 if kind == "thoughts" else 0)
    about["definitions"]["max"] = old["about"]["definitions"]["max"]  # says since that a size is meant
    for member in about["members"]:
        assert member.pop("can_be_changed") and member.pop("kind") and member.pop("directions") is None
    expect_same(about, old["about"])
    fired = engine.fire(FireRequest(text=text, member="pooled", top=3))
    readings, _ = fired.pop("readings"), fired.pop("reading_notes")
    assert readings is None if kind == "text" else len(readings) == 7
    expect_same(json.loads(json.dumps(fired)), old["fire"])
    asked = SteerRequest(text=text, member="pooled", latent=3, value=50.0, max_new_tokens=4)
    steered = json.loads(json.dumps(engine.steer(asked)))
    for answer in (steered, old["steer"]):
        answer.pop("places")
    expect_same(steered, old["steer"])


@pytest.mark.parametrize("kind", KINDS)
def test_classify_gives_the_same_numbers(kind, tmp_path):
    stage = BY_NAME["classify"]

    new = stage.run(load_config(stage.config, Path(kind, "classify")), tmp_path / "classify")
    old = read_result(Path(kind, "classify"))
    expect_same(measured(new["headline"]), measured(old["headline"]))
    for name in ("table", "comparisons", "per_class", "confusion", "curves"):
        expect_same(measured(new.get(name)), measured(old.get(name)), name)


def measured(value):
    """Without how sure it is, which knows since then that folds share their training units."""
    if isinstance(value, list):
        return [measured(one) for one in value]
    if not isinstance(value, dict):
        return value
    sure = re.compile(r".*(low|high)|p|p_holm|test|interval|verdict|power|minimal_detectable_difference")
    return {name: measured(one) for name, one in value.items() if not sure.fullmatch(name)}
