"""The report of whole runs: complete, self-contained, escaped, and no bolder than its intervals."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import DataError, NotThereError, StoreError, read_result, validate_config, write_json
from thoughtlens.core.records.manifest import LIST, UNCHECKED
from thoughtlens.evals.classify.config import ClassifyConfig
from thoughtlens.evals.classify.stage import classify
from thoughtlens.evals.reconstruction.config import ValidateConfig
from thoughtlens.evals.reconstruction.stage import validate as judge
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train
from thoughtlens.show.pages import text
from thoughtlens.show.pages.run import Run
from thoughtlens.show.report import blocks, sections
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.report.stage import report

pytestmark = pytest.mark.slow

NASTY = "</script><img src=x onerror=alert(1)> \u202egnp.exe\u202c \u2028 & <b>bold</b> `code` | pipe"


class Page(HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "link", "path", "use", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


@pytest.fixture(autouse=True)
def edited_by_hand(monkeypatch):
    """Some tests change what a stage has written."""
    monkeypatch.setenv(UNCHECKED, "1")


@pytest.fixture(scope="module")
def thoughts_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("report") / "thoughts"
    table = {
        "model": {"name": "codi-tiny", "dtype": "float32"},
        "problems": {"kind": "problems", "n": 700},
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    sae = {"kind": "topk", "d_sae": 128, "k": 6}
    options = {"acts": root / "acts", "sae": sae, "batch_size": 512, "epochs": 2, "evaluations": 4}
    options["members"] = ["pooled", "per_layer", "per_thought"]
    train(validate_config(TrainConfig, options), root / "sae")
    both = {"acts": root / "acts", "sae": root / "sae"}
    judge(ValidateConfig(**both), root / "validate")
    interpret(InterpretConfig(**both, n_permutations=50), root / "interpret")
    fast = {"folds": 3, "inner_folds": 2, "c_grid": (0.01, 0.1), "poolings": ("mean_thoughts", "mean_all")}
    classify(ClassifyConfig(**both, target="operation", members=("per_layer",), **fast), root / "classify")
    report(ReportConfig(run=root), root / "report")
    return root


@pytest.fixture(scope="module")
def text_run(tmp_path_factory, tiny_lm_dir):
    root = tmp_path_factory.mktemp("report") / "text"
    root.mkdir()
    rng = np.random.default_rng(0)
    words = ["river", "stone", "cloud", "field"]
    texts = [f"{NASTY} {rng.choice(words)} number {i}" for i in range(90)]
    (root / "t.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    table = {
        "model": {"name": str(tiny_lm_dir), "dtype": "float32"},
        "problems": {"source": str(root / "t.jsonl")},
        "hook_names": ["layers.1:out"],
        "context_length": 64,
        "max_tokens": 5000,
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    sae = {"kind": "topk", "d_sae": 48, "k": 4}
    options = {"acts": root / "acts", "sae": sae, "batch_size": 256, "epochs": 1, "evaluations": 2}
    train(validate_config(TrainConfig, options), root / "sae")
    both = {"acts": root / "acts", "sae": root / "sae"}
    judge(ValidateConfig(**both, ce_tokens=400, force=True), root / "validate")
    interpret(InterpretConfig(**both, n_permutations=20), root / "interpret")
    report(ReportConfig(run=root, title="A <title>"), root / "report")
    return root


def html(root) -> str:
    return (root / "report" / "report.html").read_text("utf-8")


def test_the_page_needs_nothing_else(thoughts_run, text_run):
    for root in (thoughts_run, text_run):
        page = Page(html(root))
        assert "script" not in {tag for tag, _ in page.tags}
        for tag, attrs in page.tags:
            for name, value in attrs.items():
                assert not name.startswith("on"), (tag, attrs)
                if name in ("src", "href", "xlink:href", "action", "data"):
                    assert value.startswith(("#", "data:image/png;base64,")), (tag, attrs)
        styles = re.findall(r"url\(([^)]*)\)|@import", html(root))
        assert all(style.startswith("#") for style in styles)


def test_ids_are_unique_and_references_resolve(thoughts_run):
    page = Page(html(thoughts_run))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {
        a[key][1:] for _, a in page.tags for key in ("href", "xlink:href") if a.get(key, "").startswith("#")
    }
    wanted |= set(re.findall(r"url\(#([^)]+)\)", html(thoughts_run)))
    assert wanted <= set(ids)


def test_everything_a_reader_expects_is_there(thoughts_run):
    text = " ".join(Page(html(thoughts_run)).text)
    for heading in (
        "At a glance",
        "Data",
        "SAE and training",
        "Validation",
        "Latents",
        "Classification",
        "Definitions",
    ):
        assert heading in text
    result = json.loads((thoughts_run / "classify" / "result.json").read_text())
    row = next(c for c in result["comparisons"] if c["primary"])
    assert f"{100 * row['difference']:+.1f} points" in text and row["verdict"] in text
    assert result["protocol"]["folds_digest"] in text
    for entry in result["per_class"]["sae"]:
        assert f"{entry['recall']:.1%}" in text
    judged = json.loads((thoughts_run / "validate" / "result.json").read_text())["members"]
    assert len(judged) == 10
    for member in judged:
        assert member["member"] in text
        assert f"{member['reconstruction']['sae']['explained_variance']:.3f}" in text
        assert f"{member['n']:,}" in text and "split test" in text
    digest = json.loads((thoughts_run / "sae" / "result.json").read_text())["digest"]
    assert digest[:16] in text


def test_every_cell_stands_under_a_head(thoughts_run, text_run):
    for root in (thoughts_run, text_run):
        for table in re.findall(r"<table>.*?</table>", html(root), re.DOTALL):
            n = table.count("<th>") + table.count("<th class")
            assert {row.count("<td") for row in re.findall(r"<tr>(?!<th).*?</tr>", table)} <= {n}


def test_everywhere_latents_show_what_their_heads_say(thoughts_run, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(thoughts_run, root)
    file = root / "interpret" / "latents.parquet"
    (found, *rest) = pq.read_table(file).to_pylist()
    shares = {
        "first_position_share": 0.11,
        "first_position_examples": 0.22,
        "outlier_norm_share": 0.33,
        "outlier_norm_examples": 0.44,
    }
    found |= {"everywhere": True, "everywhere_reason": "outliers", "density": 0.99, **shares}
    pq.write_table(pa.Table.from_pylist([found, *rest], pq.read_schema(file)), file)
    report(ReportConfig(run=root), root / "again")
    lines = (root / "again" / "report.md").read_text("utf-8").splitlines()
    heads = next(line for line in lines if "activation on outliers" in line).split(" | ")
    cells = next(line for line in lines if "11.0%" in line and "44.0%" in line).split(" | ")
    shown = dict(zip(heads, cells, strict=True))
    assert shown["density"] == "99.0%"
    assert shown["activation on first positions"] == "11.0%"
    assert shown["top examples on first positions"] == "22.0%"
    assert shown["activation on outliers"] == "33.0%"
    assert shown["top examples on outliers"] == "44.0%"


def test_a_row_longer_than_its_head_is_refused():
    with pytest.raises(ValueError, match=r"x: expected 2 cells under a, b, got 3: 1, 2, 3"):
        blocks.Table("x", ("a", "b"), [("1", "2"), ("1", "2", "3")])


def test_a_single_sae_with_its_fidelity(text_run):
    text = " ".join(Page(html(text_run)).text)
    judged = json.loads((text_run / "validate" / "result.json").read_text())["members"][0]
    for name, r in judged["reconstruction"].items():
        assert f"{r['fvu']:.3f}" in text, name
    assert judged["fidelity"] and "Δ cross-entropy" in text
    for row in judged["fidelity"]:
        assert f"{row['kl']:.3f}" in text
    assert "Most used latents" in text or "most specific" in text


def test_markdown_has_the_same_tables_and_figures(thoughts_run):
    markdown = (thoughts_run / "report" / "report.md").read_text("utf-8")
    page = Page(html(thoughts_run))
    figures = re.findall(r"\]\((figures/[^)]+\.png)\)", markdown)
    assert len(figures) == len([tag for tag, _ in page.tags if tag == "figure"]) >= 8
    for name in figures:
        png = (thoughts_run / "report" / name).read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) > 2000
        assert (thoughts_run / "report" / name).with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    tables = [tag for tag, _ in page.tags if tag == "table"]
    assert len(re.findall(r"^\|( :?-+:? \|)+$", markdown, re.MULTILINE)) == len(tables)


def test_untrusted_text_is_shown_and_never_obeyed(text_run):
    source = html(text_run)
    page = Page(source)
    assert not [attrs for tag, attrs in page.tags if tag in ("img", "b", "script")]
    assert "\u202e" not in source and "\u2028" not in source
    assert "&lt;title&gt;" in source
    shown = "".join(page.text)
    tokens = "".join(
        row["tokens"][0] for row in pq.read_table(text_run / "interpret/top_examples.parquet").to_pylist()
    )
    assert "<" in tokens and "<" in shown
    markdown = (text_run / "report" / "report.md").read_text("utf-8")
    assert "<img" not in markdown.replace("\\<", "")


def test_missing_stages_are_named_with_the_way_to_get_them(text_run):
    text = " ".join(Page(html(text_run)).text)
    assert "no classify stage" in text and "thoughtlens classify" in text


def claim(root, low, high, verdict):
    """The run's primary comparison with another interval and verdict."""
    file = root / "classify" / "result.json"
    result = json.loads(file.read_text())
    for row in [*result["comparisons"], result["headline"]["sae_minus_raw"]]:
        row |= {"low": low, "high": high, "verdict": verdict}
    file.write_text(json.dumps(result))
    file = root / "validate" / "result.json"
    result = json.loads(file.read_text())
    for row in (row for member in result["members"] for row in member["comparisons"]):
        row |= {"low": low, "high": high, "verdict": verdict}
    for row in (row for member in result["members"] for row in member["fidelity"] or []):
        if "verdict" in row:
            row |= {"low": low, "high": high, "verdict": verdict}
    result["warnings"] = ["only 3 rows, <b>look</b>"]
    file.write_text(json.dumps(result))


def undefined(text: str) -> str:
    """A report in small letters without its definitions, which say what the words mean."""
    return re.split(r'<section id="definitions">|\n## definitions', text)[0]


def test_no_direction_is_named_where_the_interval_holds_zero(thoughts_run, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(thoughts_run, root)
    shutil.rmtree(root / "report")
    claim(root, -0.05, 0.08, "inconclusive")
    report(ReportConfig(run=root), root / "report")
    for name in ("report.html", "report.md"):
        text = (root / "report" / name).read_text("utf-8").lower()
        assert "inconclusive" in text
        assert not re.search(r"\b(better|worse)\b", undefined(text))
        assert text.index("only 3 rows") < text.index(
            "at a glance</h2>" if "html" in name else "## at a glance"
        )
    assert "&lt;b&gt;look&lt;/b&gt;" in (root / "report" / "report.html").read_text("utf-8")
    claim(root, -0.05, 0.08, "better")
    with pytest.raises(DataError, match="which holds 0"):
        report(ReportConfig(run=root), root / "again")


def test_only_the_comparison_named_before_is_judged(thoughts_run, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(thoughts_run, root)
    shutil.rmtree(root / "report")
    claim(root, -0.05, 0.08, "inconclusive")
    file = root / "classify" / "result.json"
    result = json.loads(file.read_text())
    others = [row for row in result["comparisons"] if not row["primary"]]
    for i, row in enumerate(others):
        up = {"low": 0.02, "high": 0.1, "verdict": "better"}
        row |= up if i % 2 else {"low": -0.2, "high": -0.1, "verdict": "worse"}
    file.write_text(json.dumps(result))
    report(ReportConfig(run=root), root / "report")
    for name in ("report.html", "report.md"):
        text = (root / "report" / name).read_text("utf-8").lower()
        assert not re.search(r"\b(better|worse)\b", undefined(text))
        assert "higher" in text and "lower" in text


def test_the_same_run_gives_the_same_bytes(thoughts_run, tmp_path):
    report(ReportConfig(run=thoughts_run), tmp_path / "again")
    for file in sorted((thoughts_run / "report").rglob("*")):
        if file.is_file() and file.name not in ("result.json", "config.toml", LIST):
            assert (
                tmp_path / "again" / file.relative_to(thoughts_run / "report")
            ).read_bytes() == file.read_bytes()


def test_refusals(thoughts_run, tmp_path):
    with pytest.raises(NotThereError, match="Expected a run directory"):
        report(ReportConfig(run=tmp_path / "no"), tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotThereError, match=r"Expected a run directory at .*: thoughtlens run pilot"):
        report(ReportConfig(run=tmp_path / "empty"), tmp_path / "b")
    root = tmp_path / "run"
    shutil.copytree(thoughts_run, root)
    (root / "interpret" / "latents.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"latents\.parquet is damaged"):
        report(ReportConfig(run=root), tmp_path / "c")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (12345, "12,345"),
        (0.00012345, "0.000123"),
        (1234.5, "1,234"),
        (0.0, "0"),
        (3.2e-9, "3.20e-09"),
        (8.0, "8.00"),
    ],
)
def test_numbers_as_people_read_them(value, expected):
    assert text.number(value) == expected


def test_invisible_characters_become_visible():
    assert text.visible("a\nb\u202ec\x00\u2028") == "a↵b<U+202E>c<U+0000><U+2028>"
    assert text.visible("é 🙂 family 👩\u200d👧") == "é 🙂 family 👩\u200d👧"
    assert text.fixed(-0.0001) == "0.000"


@pytest.mark.parametrize(
    ("name", "value", "interval"),
    [
        ("spliced_accuracy", "50.0%", "[40.0%,\u00a060.0%]"),
        ("spliced_difference", "+50.0 points", "[+40.0,\u00a0+60.0]"),
        ("spliced_kl", "0.500 nats", "[0.400,\u00a00.600]"),
        ("explained_variance", "0.500", "[0.400,\u00a00.600]"),
    ],
)
def test_headline_numbers_have_their_units(thoughts_run, tmp_path, name, value, interval):
    entry = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 90, "split": "test"}
    run = Run(tmp_path)
    run.folder("validate").mkdir()
    told = read_result(thoughts_run / "validate") | {"headline": {name: entry}}
    write_json(tmp_path / "validate" / "result.json", told)
    (table,) = sections.at_a_glance(run).blocks
    shown = dict(zip(table.columns, table.rows[0], strict=True))
    assert (shown["value"], shown["95 % interval"]) == (value, interval)
    assert shown["split"] == "test" and shown["n"]
