"""What a report says is its own: n, what a number is a mean over, comparisons that are none, links, pages of
runs that lack a stage or have grown."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from thoughtlens.core import ConfigError, OccupiedError, Outcome, read_result, write_json
from thoughtlens.core.records.manifest import UNCHECKED
from thoughtlens.evals.reconstruction.records import AgainstBaseline, ValidateOutcome
from thoughtlens.show.pages.links import link
from thoughtlens.show.pages.pages import pages_of
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import counts
from thoughtlens.show.report.blocks import Table, verdict_of
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.report.sections import Behind
from thoughtlens.show.report.stage import report
from thoughtlens.show.report.validation import EVERYTHING, _verdict

RUNS = Path(__file__).parents[2] / "fixtures" / "run_schema_1" / "runs.tar.xz"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("old")
    with tarfile.open(RUNS) as packed:
        packed.extractall(root, filter="data")
    return root


@pytest.fixture(autouse=True)
def cut(monkeypatch):
    """What no page reads is gone from these runs."""
    monkeypatch.setenv(UNCHECKED, "1")


@pytest.fixture(scope="module")
def validated(runs):
    """Three SAEs on 26 problems of 7 thoughts: one of two hooks, and one of each."""
    return ValidateOutcome.from_json(read_result(runs / "thoughts" / "validate"))


def test_a_mean_over_saes_has_the_n_of_each(validated):
    assert Behind.of("spliced_kl", validated) == ("26 problems each", "3 SAEs, which share vectors")
    assert Behind.of("explained_variance", validated) == (
        "182 to 364 vectors each", "3 SAEs, which share vectors"
    )  # fmt: skip
    apart = replace(validated, members=[m for m in validated.members if len(m.hook_names) == 1])
    assert Behind.of("fvu", apart) == ("182 vectors each", "2 SAEs")
    alone = replace(validated, members=apart.members[:1])
    assert Behind.of("l0", alone) == ("182 vectors", "")


def test_counts_name_the_least_and_the_largest():
    assert counts([5, 5]) == "5" and counts([1200, 3, 7, None]) == "3 to 1,200" and counts([]) == "–"


@pytest.mark.parametrize("k_is", ["below", "d_in", "above"])
def test_components_that_keep_everything_are_no_comparison(validated, k_is):
    m = validated.members[0]
    k = {"below": m.d_in - 1, "d_in": m.d_in, "above": m.d_in + 5}[k_is]
    row = AgainstBaseline(
        baseline="pca_live", metric="ev", n_problems=9, difference=-0.4, low=-0.5, high=-0.3, verdict="worse"
    )
    full = replace(
        m, reconstruction=m.reconstruction | {"pca_live": replace(m.reconstruction["sae"], d_sae=k)}
    )
    assert _verdict(full, row) == ("worse" if k_is == "below" else EVERYTHING)
    wide = replace(
        full, reconstruction=m.reconstruction | {"random": replace(m.reconstruction["sae"], d_sae=k)}
    )
    assert _verdict(wide, replace(row, baseline="random")) == "worse"


def test_words_that_name_no_side_need_no_interval(validated):
    row = AgainstBaseline(
        baseline="x", metric="ev", n_problems=9, difference=0.0, low=-0.1, high=0.1, verdict="no information"
    )
    assert verdict_of(row) == "no information"


def test_no_two_columns_have_one_name():
    with pytest.raises(ValueError, match="two columns are called 95 % interval"):
        Table("x", ("a", "95 % interval", "95 % interval"), [])
    assert Table.facts("x", [("a", "b")]).columns == ("", "")


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:x", "java\tscript:x", "\x01javascript:x",
     "data:text/html,x", "vbscript:x", "x\u202e.html", "C:\\x.html", "blob:x", "ftp://x"],
)  # fmt: skip
def test_a_link_that_could_run_something_is_refused(address):
    with pytest.raises(ConfigError, match="Expected an address"):
        link(address)
    with pytest.raises((ConfigError, ValueError)):
        ReportConfig(run=Path(), explorer=address)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://host/x.html?a=1", "https://host/x.html?a=1"),
        ("HTTP://host/a:b", "HTTP://host/a:b"),
        ("file:///x/y.html", "file:///x/y.html"),
        ("../explorer/index.html#/l/pooled/3", "../explorer/index.html#/l/pooled/3"),
        ("./a:b.html", "./a:b.html"),
        ("my run/x.html", "my%20run/x.html"),
        ("a>b<c", "a%3Eb%3Cc"),
        ("é.html", "é.html"),
    ],
)
def test_other_links_stay_as_they_are(address, shown):
    assert link(address) == shown


def pages(out, run, inputs, **settings):
    """Pages that hold how often they were written."""
    cfg = ReportConfig(run=run, **settings)

    def work(tmp):
        (tmp / "page.html").write_text(str(len(list(run.glob("made-*")))))
        (run / f"made-{len(list(run.glob('made-*')))}").touch()
        return Outcome()

    pages_of(run, cfg, out, work, stage="report", inputs=inputs)
    return (out / "page.html").read_text()


@pytest.fixture
def growing(tmp_path):
    run = tmp_path / "run"
    (run / "sae").mkdir(parents=True)
    (run / "sae" / "w").write_text("1")
    return run


def test_pages_are_written_again_where_the_run_has_grown(growing):
    out, inputs = growing / "report", {"sae": growing / "sae"}
    assert pages(out, growing, inputs) == "0" and pages(out, growing, inputs) == "0"
    (growing / "intervene").write_text("x")
    more = inputs | {"intervene_ablate": growing / "intervene"}
    assert pages(out, growing, more) == "1" and pages(out, growing, more) == "1"
    assert pages(out, growing, inputs) == "2"  # and where something is gone
    (growing / "sae" / "w").write_text("2")
    assert pages(out, growing, inputs) == "3"
    assert not list(growing.glob(".report*"))


def test_pages_of_something_else_are_not_overwritten(growing, tmp_path):
    out, inputs = tmp_path / "elsewhere", {"sae": growing / "sae"}
    pages(out, growing, inputs)
    with pytest.raises(OccupiedError, match="other settings: top_latents"):
        pages(out, growing, inputs, top_latents=1)
    other = tmp_path / "other"
    shutil.copytree(growing, other)
    (other / "sae" / "w").write_text("3")
    with pytest.raises(OccupiedError, match="another sae"):
        pages(out, other, {"sae": other / "sae"})
    assert (out / "page.html").read_text() == "0"


def test_old_pages_stay_where_new_ones_cannot_be_made(growing):
    out, inputs = growing / "report", {"sae": growing / "sae"}
    pages(out, growing, inputs)
    (growing / "sae" / "w").write_text("2")

    def broken(tmp):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        pages_of(growing, ReportConfig(run=growing), out, broken, stage="report", inputs=inputs)
    assert (out / "page.html").read_text() == "0" and not list(growing.glob(".report*"))


def without(runs, tmp_path, *folders):
    root = tmp_path / "a run"
    shutil.copytree(runs / "text", root, ignore=shutil.ignore_patterns(*folders))
    return root


@pytest.mark.parametrize("folder", ["acts", "sae", "validate", "interpret", "classify", "config.toml"])
@pytest.mark.slow
def test_a_run_without_one_of_its_parts_has_a_report(runs, tmp_path, folder):
    root = without(runs, tmp_path, folder)
    report(ReportConfig(run=root, top_latents=0), root / "report")
    text = (root / "report" / "report.md").read_text("utf-8")
    stage = {"acts": "extract", "sae": "train"}.get(folder, folder)
    if folder != "config.toml":
        assert (
            f"no {stage} stage; get it with: thoughtlens {stage} '{root}/config.toml' --out '{root}'".replace(
                "_", "\\_"
            )
            in text
        )
    assert Run.open(root).kind == "text"


@pytest.mark.slow
def test_a_converted_sae_is_told_of(runs, tmp_path):
    root = without(runs, tmp_path, "validate", "classify", "acts")
    proof = {"n_rows": 9, "n_edge_rows": 0, "l0": 4.0, "max_delta_acts": 0.0, "max_delta_acts_relative": 0.0,
             "max_delta_x_hat": 0.0, "max_delta_x_hat_relative": 0.0}  # fmt: skip
    member = {"member": "pooled", "from": "sae_lens", "rule": "as it is", "d_in": 32, "d_sae": 32,
              "d_out": 32, "dtype": "float32", "hook_name": "layers.1:out", "hook_out": None, "notes": [],
              "proof": proof}  # fmt: skip
    file = root / "sae" / "result.json"
    table = json.loads(file.read_text()) | {
        "stage": "convert",
        "to": "thoughtlens",
        "n": 1,
        "members": [member],
    }
    table["headline"] = {}
    write_json(file, table)
    report(ReportConfig(run=root, top_latents=0), root / "report")
    text = (root / "report" / "report.md").read_text("utf-8")
    assert "SAEs, converted" in text and "sae\\_lens" in text and "no train stage" not in text
