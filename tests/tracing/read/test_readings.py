"""What each thought reads as, on a shipped model and on a run of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import thoughtlens as tl
from thoughtlens import sae as saes
from thoughtlens.acts import ActivationStore
from thoughtlens.cli import app
from thoughtlens.core import ConfigError, DataError, NotThereError, Number, ThoughtlensError
from thoughtlens.latents import of_thoughts, placeless
from thoughtlens.latents.codes.on_text import fire
from thoughtlens.models import Place, collect, load_model
from thoughtlens.problems import arithmetic
from thoughtlens.tracing import Thinker, render, think
from thoughtlens.tracing.chains.config import TraceConfig
from thoughtlens.tracing.chains.records import READERS
from thoughtlens.tracing.chains.stage import trace
from thoughtlens.tracing.read import records
from thoughtlens.tracing.read.fitted import PROBE, keep
from thoughtlens.tracing.read.lenses import OUT, Lens, Lenses, logit_lens
from thoughtlens.tracing.read.others import Others
from thoughtlens.tracing.read.seen import seen

pytestmark = pytest.mark.slow

QUESTION = "dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"


def test_readings_are_the_chain_of_the_problem():
    table = arithmetic.problems(6, seed=5, n_steps=(3,))
    for one, row in zip(think("codi-tiny", table["question"].to_pylist()), table.to_pylist(), strict=True):
        chain = [row["op1"], str(row["v1"]), row["op2"], str(row["v2"]), row["op3"]]
        assert [reading.reading for reading in one.thoughts[1:6]] == chain
        assert one.answer == row["answer"] and [r.thought for r in one.thoughts] == list(range(7))
        assert all(r.probability > 0.5 and len(r.others) == 2 for r in one.thoughts[1:6])


def test_readings_equal_those_of_the_notebook():
    (one,) = think("codi-tiny", [QUESTION])
    thoughts = tl.think(tl.load_model("codi-tiny"), [QUESTION])
    for reading in one.thoughts:
        ((word, share),) = thoughts.says(reading.thought)[0]
        assert reading.reading == word and reading.probability == pytest.approx(share, abs=1e-6)
    json.dumps(one.to_json(), allow_nan=False)
    shown = render(one)
    assert "thought 4  19" in shown and "answer     5" in shown and "logit lens" in shown


def test_a_control_is_named():
    pause = Path(tl.__file__).parent / "models" / "weights" / "codi-tiny" / "seed1" / "pause"
    (one,) = think(pause, [QUESTION])
    assert "feeds nothing back" in one.warnings[0] and "WARNING" in render(one)
    (sound,) = think("codi-tiny", [QUESTION])
    assert not sound.warnings


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("think")
    with tarfile.open(Path(__file__).parents[2] / "fixtures" / "run_schema_1" / "runs.tar.xz") as packed:
        packed.extractall(root, filter="data")
    return root


def test_a_run_adds_its_latents_in_words(runs, monkeypatch):
    monkeypatch.chdir(runs)
    run = tl.open_run("thoughts")
    (one,) = think("thoughts", [QUESTION], member="pooled", top=4)
    assert one.member == "pooled" and all(reading.latents for reading in one.thoughts)
    for reading in one.thoughts:
        activations = [latent.activation for latent in reading.latents]
        assert activations == sorted(activations, reverse=True) and len(activations) <= 4
        assert {latent.hook_name for latent in reading.latents} <= set(run.saes()["pooled"].hook_names)
    said = [latent for reading in one.thoughts for latent in reading.latents if latent.says]
    assert said and all(0 <= latent.auprc <= 1 for latent in said)
    assert placeless(said[0].says) in render(one)
    assert one.n_others > 20 and one.thoughts[0].null == pytest.approx(1, abs=0.05)  # all begin alike


def test_what_cannot_be_thought_about_is_said_in_one_line(runs, monkeypatch):
    monkeypatch.chdir(runs)
    with pytest.raises(ConfigError, match="thoughtlens fire text 'dan"):
        think("text", [QUESTION])
    with pytest.raises(ConfigError, match="language model, which thinks in words"):
        think("smollm2-135m", [QUESTION])
    with pytest.raises(NotThereError, match=r"Expected a run, or a model .*codi-tiny.* got 'codi-tinny'"):
        think("codi-tinny", [QUESTION])
    with pytest.raises(ConfigError, match=r"runs/pilot; .*: thoughtlens think codi-tiny 'dan"):
        fire("codi-tiny", [QUESTION])
    Path("bare").mkdir()
    Path("bare", "acts").symlink_to(runs / "thoughts" / "acts")
    with pytest.raises(NotThereError, match=r"SAE .* at bare/sae, .*: thoughtlens train pilot --out bare"):
        fire("bare", [QUESTION])
    with pytest.raises(ConfigError, match="has no SAEs"):
        think("codi-tiny", [QUESTION], member="pooled")
    with pytest.raises(DataError, match="'zebra', 'crossing'"):
        think("codi-tiny", ["zebra ann crossing zebra"])
    with pytest.raises(ConfigError, match="ask several questions at once"):
        think("codi-tiny", [QUESTION], others=0, test=True)


def test_a_run_says_what_its_trace_tested_and_what_its_tuned_lens_reads_before(runs, tmp_path):
    run = tmp_path / "run"
    (run / "lens").mkdir(parents=True)
    (run / "acts").symlink_to(runs / "thoughts" / "acts")
    tensors = {"layers.1:out/2/weight": 1e-9 * torch.eye(96), "layers.1:out/2/bias": torch.zeros(96)}
    save_file(tensors, run / "lens" / "translators.safetensors")
    trace(TraceConfig(acts=run / "acts", n=12, controls=(), lenses=("logit",)), run / "trace")
    (one,) = think(run, [QUESTION], others=0)
    # a translator of nothing, at the last layer: the plain reading
    ((hook, word, share),) = one.thoughts[2].tuned
    assert (hook, word) == ("layers.1:out", "9") and share == pytest.approx(
        one.thoughts[2].probability, abs=1e-5
    )
    assert one.thoughts[3].tuned == [] and "layers.1:out" in render(one)
    tested = {row.thought: row.tested for row in one.thoughts if row.tested}
    assert {2, 4} <= set(tested) and all(row.by == "trace" for row in tested.values())
    assert tested[2].verdict == "used" and tested[2].changed.n == 12
    assert "by the run's trace" in render(one)


def test_a_run_is_read_by_what_its_trace_chose_and_an_old_trace_says_that_it_kept_nothing(runs, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "acts").symlink_to(runs / "thoughts" / "acts")
    trace(TraceConfig(acts=run / "acts", n=12, controls=(), lenses=("logit",)), run / "trace")
    model = load_model("codi-tiny")
    plain = logit_lens(of_thoughts(model), model.spec.thoughts)
    seven = np.array([plain.words.index("7"), plain.words.index("8")])
    told = {"weight": torch.zeros(96, 2).double(), "bias": torch.tensor([2.0, 0.0]).double()}
    probe = Lens(PROBE, OUT, lambda x: x, seven, tensors=told)
    keep(Lenses(plain.words, {**plain.at, 2: probe}), run / "trace" / READERS)
    (one,) = think(run, [QUESTION], others=4)
    read = one.thoughts[2]
    assert (read.reading, read.read_by, read.hook_name, one.lens) == ("7", PROBE, OUT, "trace")
    assert read.probability == pytest.approx(1 / (1 + np.exp(-2))) == read.null and len(read.others) == 1
    assert one.thoughts[4].reading == "19" and "read_by" not in one.thoughts[4].to_json()
    assert "but thought 2 by the linear probe at thought_out, which the run's trace chose" in render(one)
    (run / "trace" / READERS).unlink()
    result = json.loads((run / "trace" / "result.json").read_text())
    result["lenses"] = [
        {"thought_idx": 2, "lens": PROBE, "hook_name": OUT, "column": "v1", "makes_sense": 0.9, "null": 0.1}
        | {"n": 12, "is_chosen": True}
    ]
    (run / "trace" / "thoughtlens-files.json").unlink()
    (run / "trace" / "result.json").write_text(json.dumps(result))
    (one,) = think(run, [QUESTION], others=0)
    assert one.lens == "logit" and one.thoughts[2].reading == "9"
    assert any("by linear probe, which it did not keep" in text for text in one.warnings)


@pytest.fixture(scope="module")
def thinker():
    return Thinker.open("codi-tiny", others=48)


def test_the_null_is_the_mean_probability_of_the_token_in_the_same_thought_of_other_problems(thinker):
    (one,) = thinker.think([QUESTION])
    model = load_model("codi-tiny")
    states = collect(model, thinker.others.questions, sites=("thought_out",))[Place.at("thought_out")]
    vocabulary = model.tokenizer.vocabulary
    for row in one.thoughts:
        shares = model.readout(states[:, row.thought], "thought_out").softmax(-1)
        assert row.null == pytest.approx(float(shares[:, vocabulary.index(row.reading)].mean()), abs=1e-6)
    assert one.n_others == 48 == len(set(thinker.others.questions))
    assert one.thoughts[0].null > 0.9 and max(row.null for row in one.thoughts[1:6]) < 0.3


def test_a_question_is_not_its_own_null(thinker):
    own = thinker.others.questions[0]
    (one,) = thinker.think([own])
    assert one.n_others == 47
    few = Thinker.open("codi-tiny", others=0).think([own])
    assert few[0].n_others == 0 and few[0].thoughts[2].null is None and "others" not in render(few[0])


def test_readings_are_tested_with_the_thoughts_of_other_problems(thinker):
    tests = [one for q in thinker.others.questions[:6] for one in thinker.think([q], test=True)]
    values = [row.tested for one in tests for row in one.thoughts if row.thought == 2]
    # thought 2 holds the value after the first operation, and everything later is computed from it
    assert all(one.verdict in ("used", "more than it reads") for one in values)
    assert all(one.by == "live" and one.changed.low > 0.5 and one.changed.n <= 24 for one in values)
    last = tests[0].thoughts[-1].tested
    assert last.changed is None and last.whole_pass is not None  # nothing reads the last thought's state
    assert "tested" in render(tests[0]) and "used" in render(tests[0])


def test_what_is_put_in_from_a_problem_that_reads_the_same_changes_what_the_reading_does_not_say(thinker):
    twin = Others(
        thinker.model,
        thinker.lenses,
        [QUESTION, QUESTION.replace("ann +6", "ann +7"), *thinker.others.questions],
    )
    own = seen(thinker.model, thinker.lenses, [QUESTION], max_new_tokens=8)
    assert len(twin.without(QUESTION)) == len(twin) - 1
    first = twin.tested(QUESTION, own, 0, 8)[2]
    # the twin differs in a chain that is not asked for: its thought 2 reads the same, and does the same
    assert first.kept is not None and first.kept.value > 0


def test_a_model_that_feeds_nothing_back_has_no_state_to_test():
    pause = Path(tl.__file__).parent / "models" / "weights" / "codi-tiny" / "seed1" / "pause"
    (one,) = think(pause, [QUESTION], others=16, test=True)
    assert all(row.tested is None or row.tested.changed is None for row in one.thoughts)


def number(low, high):
    return Number(value=(low + high) / 2, low=low, high=high, n=20)


@pytest.mark.parametrize(
    ("verdict", "numbers"),
    [
        ("used", {"changed": number(0.8, 1)}),
        ("used", {"changed": number(0.8, 1), "kept": number(0.2, 0.9)}),
        ("more than it reads", {"changed": number(0.8, 1), "kept": number(0, 0.3)}),
        ("not used", {"changed": number(0, 0.2), "whole_pass": number(0, 0.3)}),
        ("not used", {"changed": number(0, 0.2)}),
        ("used by another way", {"changed": number(0, 0.2), "whole_pass": number(0.9, 1)}),
        ("unclear", {"changed": number(0.4, 0.6), "whole_pass": number(0.9, 1)}),
        ("unclear", {"changed": number(0, 0.2), "whole_pass": number(0.3, 0.7)}),
        ("used", {"whole_pass": number(0.9, 1)}),
        ("not used", {"whole_pass": number(0, 0.2)}),
        ("more than it reads", {"kept": number(0, 0.2)}),
        ("unclear", {}),
    ],
)
def test_a_verdict_follows_the_intervals(verdict, numbers):
    assert records.Tested.of("live", **numbers).verdict == verdict


def test_the_command_takes_questions_from_a_file_and_from_a_pipe(tmp_path):
    made = arithmetic.problems(2, seed=5)["question"].to_pylist()
    (tmp_path / "asked.txt").write_text("\n\n".join(made) + "\n", "utf-8")
    few = ["think", "codi-tiny", "--others", "4", "--questions"]
    several = json.loads(CliRunner().invoke(app, [*few, str(tmp_path / "asked.txt")]).stdout)["questions"]
    assert [one["question"] for one in several] == made
    done = CliRunner().invoke(app, [*few, "-", "--json", "--test"], input=made[0] + "\n")
    one = json.loads(done.stdout)
    assert one["answer"] == several[0]["answer"]
    keys = {"thought", "reading", "probability", "null", "others", "latents", "tested"}
    assert all(set(row) == keys for row in one["thoughts"])


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (None, "expected a text file at asked.txt, found none"),
        (b"\n \n", "asked.txt holds no question"),
        (b"\xff\xfe\x00", "asked.txt is not text in UTF-8"),
    ],
)
def test_a_file_without_questions_is_named(tmp_path, monkeypatch, held, says):
    monkeypatch.chdir(tmp_path)
    if held is not None:
        (tmp_path / "asked.txt").write_bytes(held)
    with pytest.raises(ThoughtlensError, match=says):
        app(["think", "codi-tiny", "--questions", "asked.txt"], standalone_mode=False)


def test_a_notebook_shows_readings_as_a_table_with_everything_escaped():
    several = tl.think("codi-tiny", [QUESTION], others=8)
    page = several._repr_html_()
    assert "&lt;cot2&gt;" in page and "<cot2>" not in page and page.count("<tr>") == 8
    assert several[0]._repr_html_() == page
    with pytest.raises(ConfigError, match="open model"):
        tl.think("codi-tiny", [QUESTION], edits={"thought_in@3": lambda x: x})
    with pytest.raises(ConfigError, match="test: only"):
        tl.think(tl.load_model("codi-tiny"), [QUESTION], test=True)


@pytest.mark.slow
def test_a_shipped_model_is_read_without_transformers():
    code = (
        "import sys\nfrom thoughtlens.tracing import think\n"
        f"think('codi-tiny', [{QUESTION!r}], test=True)\nprint('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("over", ["layers", "thoughts"])
def test_a_crosscoder_is_read_at_all_its_sites(runs, tmp_path, monkeypatch, over):
    monkeypatch.chdir(tmp_path)
    store = ActivationStore.open(runs / "thoughts" / "acts")
    hooks = store.hook_names if over == "layers" else store.hook_names[:1]
    sites = hooks if over == "layers" else [f"{hooks[0]} thought {t}" for t in store.thoughts]
    sae = saes.create(saes.CrosscoderConfig(d_sae=12, k=2, sites=tuple(sites), over=over), 96, seed=0)
    sae.hook_names = list(hooks)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "acts").symlink_to(store.root)
    saes.save(sae, tmp_path / "run" / "sae")
    (one,), (fired,) = think("run", [QUESTION], top=12), fire("run", [QUESTION], top=12).texts
    x = torch.stack([tl.think(tl.load_model("codi-tiny"), [QUESTION]).at(hook)[0] for hook in hooks], 1)
    with torch.no_grad():
        acts = sae.encode(x if over == "layers" else x.transpose(0, 1))
    found = {row.latent: row.max for row in fired.latents}
    assert found == pytest.approx({j: v for j, v in enumerate(acts.amax(0).tolist()) if v > 0}, rel=1e-4)
    if over == "layers":
        assert not any("one code for all" in text for text in one.warnings)
        shown = [{latent.latent: latent.activation for latent in row.latents} for row in one.thoughts]
        by_hand = [{j: v for j, v in enumerate(row) if v > 0} for row in acts.tolist()]
        assert [set(row) for row in shown] == [set(row) for row in by_hand]
        assert {latent.hook_name for row in one.thoughts for latent in row.latents} == {"+".join(hooks)}
    else:
        assert fired.positions == ["thought 0 to thought 6"] and not any(row.latents for row in one.thoughts)
        assert f"thoughtlens fire run '{QUESTION}'" in one.warnings[-1]
