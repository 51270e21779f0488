"""The stage on a tiny model: one text, several, other dictionaries, and what it refuses."""

from __future__ import annotations

import json

import pytest

from tests.tracing.text_graph.plain import dictionary
from thoughtlens import sae as saes
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.cli.commands.app import app
from thoughtlens.core import (
    ConfigError,
    DataError,
    MismatchError,
    NotThereError,
    StoreError,
    read_rows,
    validate_config,
)
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert
from thoughtlens.tracing import name_of
from thoughtlens.tracing.text_graph import stage
from thoughtlens.tracing.text_graph.config import TextgraphConfig
from thoughtlens.tracing.text_graph.records import TextgraphOutcome, TriedRow
from thoughtlens.tracing.text_graph.stage import plan, textgraph

HOOKS = ["layers.0:out", "layers.2:out"]
TEXT = "The cat sat on a"


def random_saes(root, hooks, width=32):
    for i, hook in enumerate(hooks):
        cfg = saes.TopKConfig(d_sae=48, k=4, normalization="none", decoder_norm="free")
        sae = dictionary(cfg, [hook], seed=i, width=width)
        saes.save(sae, root / hook.replace(":", "-"))
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_lm_dir):
    root = tmp_path_factory.mktemp("textgraph")
    texts = [f"This is document {i} about a cat and a dog." for i in range(12)]
    (root / "t.txt").write_text("\n\n".join(texts))
    table = {
        "model": {"name": str(tiny_lm_dir), "dtype": "float32"},
        "problems": {"source": str(root / "t.txt")},
        "hook_names": HOOKS,
        "context_length": 32,
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    random_saes(root / "sae", HOOKS)
    return root


def made(run, out, **settings):
    cfg = {"acts": run / "acts", "sae": run / "sae", "n_random": 4, "budget": 40, "n_targets": 6} | settings
    return TextgraphOutcome.from_json(textgraph(validate_config(TextgraphConfig, cfg), out))


def test_the_graph_of_a_text(run, tmp_path):
    found = made(run, tmp_path / "one", text=TEXT, q=0.9)
    rows = read_rows(tmp_path / "one" / "edges.parquet", TriedRow)
    assert len(rows) == found.n_tried == 40 < found.n_candidates
    assert found.columns[:2] == ["<s>", "T"] and found.columns[-1] == found.answer
    assert found.rows == HOOKS == found.reads and found.members == ["layers.0-out", "layers.2-out"]
    assert [edge.source for edge in found.edges] == [row.source for row in rows if row.shown]
    names = {node.id for node in found.nodes}
    assert found.edges and all({edge.source, edge.target} <= names for edge in found.edges)
    assert all(row.q >= row.p and row.low is None and row.n == 1 for row in rows)
    last = [row for row in rows if row.source.startswith("layers.2:out")]
    assert last and all(row.whole == pytest.approx(row.effect + row.at_random, abs=1e-5) for row in last)
    (answer,) = (node for node in found.nodes if node.kind == "answer")
    assert answer.column == len(found.columns) - 1 and 0 < answer.probability < 1
    assert [node.text for node in found.nodes if node.kind == "token"] == found.columns[:-1]
    (line,) = [line for line in found.warnings if "no dictionary stands in block 1, 3:" in line]
    assert f"they take {found.share_bare:.0%} of the answer" in line and found.share_bare != 0
    assert not 0.5 <= found.share_shown <= 1.5
    assert any(f"carries {found.share_shown:.0%} of the answer, errors" in line for line in found.warnings)
    assert any("40 of" in text for text in found.warnings)
    file = tmp_path / "one" / "viewers" / f"{found.name}.json"
    assert json.loads(file.read_text())["metadata"]["prompt"] == TEXT
    assert {cut.name for cut in found.cuts} == {"cut best", "cut matched", "keep shown", "cut errors"}
    assert plan(TextgraphConfig(acts=run / "acts", sae=run / "sae", text=TEXT)).rows > 0


def test_several_texts_have_an_interval(run, tmp_path):
    (tmp_path / "texts.txt").write_text("The cat sat on a\nThe dog sat on the\n\nA cat lay on a\n")
    found = made(run, tmp_path / "three", texts=tmp_path / "texts.txt", target=" dog", q=1e-12)
    rows = read_rows(tmp_path / "three" / "edges.parquet", TriedRow)
    assert found.texts == ["The cat sat on a", "The dog sat on the", "A cat lay on a"]
    assert found.columns == ["text", "wherever it fires", found.answer] and found.answer == " d"
    assert max(row.n for row in rows) == 3
    assert all(row.low < row.effect < row.high for row in rows if row.n > 1)
    assert any("few for an interval" in text for text in found.warnings)
    assert not found.edges and any("the graph is empty" in text for text in found.warnings)
    assert {cut.name for cut in found.cuts} == {"keep shown", "cut errors"}
    (answer,) = (node for node in found.nodes if node.kind == "answer")
    unlikely = [text for text in found.warnings if "' d' is an answer that the model hardly gives" in text]
    assert len(unlikely) == (answer.probability < 0.01)
    assert any("is 3 tokens: the answer is its first" in text for text in found.warnings)


def test_transcoders_of_another_library(run, tmp_path):
    for layer in range(4):
        cfg = saes.TranscoderConfig(
            d_sae=40, k=4, hook_in=f"layers.{layer}.mlp:in", hook_out=f"layers.{layer}.mlp:out",
            normalization="none", decoder_norm="free", pre_bias=False,
        )  # fmt: skip
        saes.save(dictionary(cfg, [cfg.hook_in], layer, width=32), tmp_path / "own" / f"layers.{layer}")
    convert(ConvertConfig(source=tmp_path / "own", to="circuit_tracer"), tmp_path / "plt")
    found = made(run, tmp_path / "out", sae=tmp_path / "plt", text=TEXT)
    assert found.members == [f"layer_{layer}" for layer in range(4)]
    assert found.reads == [f"layers.{layer}.mlp:in" for layer in range(4)]
    assert found.n_tried == 40 and not any("no dictionary stands" in text for text in found.warnings)
    own = made(run, tmp_path / "again", sae=tmp_path / "own", text=TEXT)
    assert [(e.effect, e.attribution) for e in own.edges] == [
        (pytest.approx(e.effect, abs=1e-5), pytest.approx(e.attribution, abs=1e-5)) for e in found.edges
    ]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ConfigError, "exactly one of them"),
        ({"text": "a", "texts": "t.txt"}, ConfigError, "exactly one of them"),
        ({"text": ""}, DataError, "at least one token"),
        ({"text": "word " * 40}, DataError, "reads 32 at a time"),
        ({"text": TEXT, "target": ""}, DataError, "expected a token"),
        (
            {"text": TEXT, "member": "layers.0-out"},
            MismatchError,
            "two or more hooks, these stand on layers.0:out",
        ),
    ],
)
def test_what_is_refused(run, tmp_path, settings, error, message):
    if "texts" in settings:
        settings = settings | {"texts": run / "t.txt"}
    with pytest.raises(error, match=message) as caught:
        made(run, tmp_path / "out", **settings)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_the_command_takes_a_text_or_a_file(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stage, "_work", lambda cfg, tmp: asked.append((cfg, tmp.name)) or {})
    (tmp_path / "texts.txt").write_text("The cat\n")
    asked = []
    app(["circuit", str(run), "--text", TEXT, "--target", " x", "budget=7"], standalone_mode=False)
    app(["circuit", str(run), f"circuit.text={tmp_path / 'texts.txt'}"], standalone_mode=False)
    (one, name), (several, _) = asked
    assert (one.text, one.target, one.budget, name) == (TEXT, " x", 7, f"{name_of('text', TEXT, ' x')}.tmp")
    assert (several.text, several.texts) == (None, tmp_path / "texts.txt")
    assert {path.name for path in (run / "graphs").iterdir()} >= {name_of("text", TEXT, " x")}
    with pytest.raises(NotThereError, match=r"found no file nosuch\.txt"):
        app(["circuit", str(run), "--text", "nosuch.txt"], standalone_mode=False)
    with pytest.raises(StoreError, match="a graph of a text is made with --text"):
        app(["circuit", str(run), "--problem", "any-0"], standalone_mode=False)
    with pytest.raises(ConfigError, match=r"is a run of texts, and no text is given.*--text 'The capital"):
        app(["circuit", str(run)], standalone_mode=False)
