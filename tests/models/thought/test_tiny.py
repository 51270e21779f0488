from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from thoughtlens.core import CheckpointError, ConfigError, DataError, HookError, NotThereError
from thoughtlens.models.distill.losses import Batch, read_question, think
from thoughtlens.models.thought import tiny
from thoughtlens.models.thought.places import Place
from thoughtlens.models.thought.thoughts import Hook, collect, load, run
from thoughtlens.models.thought.tiny_decoder import BOT, Cache, TinyConfig, TinyDecoder
from thoughtlens.problems.tasks import secret, words
from thoughtlens.problems.tasks.source import GENERATORS

WORDS = tuple("abcdefgh") + tuple(map(str, range(5)))


def random_decoder(**changes) -> TinyDecoder:
    torch.manual_seed(0)
    cfg = TinyConfig(words=WORDS, question_len=6, n_thoughts=3, d_in=16, n_heads=2, **changes)
    decoder = TinyDecoder(cfg)
    for p in decoder.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return decoder


def random_model(**changes) -> tiny.TinyThoughts:
    return tiny.TinyThoughts(random_decoder(**changes), "random", "")


def as_batch(model: tiny.TinyThoughts, questions: list[str]) -> Batch:
    ids = torch.tensor([model.tokenizer.encode(q) for q in questions])
    cot = torch.zeros(len(ids), 6, dtype=torch.long)
    steps = torch.ones(len(ids), dtype=torch.long)
    return Batch(ids[:, :3], ids[:, 3:], cot, steps, steps > 0, ids[:, -1])


@pytest.mark.parametrize("mode", ["thoughts", "pause", "none"])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_adapter_thinks_what_training_trained(mode, bottleneck):
    if mode == "none" and bottleneck:
        pytest.skip("no thoughts to look at")
    model = random_model(mode=mode, bottleneck=bottleneck)
    questions = ["a b c d e f", "f e d c b 0", "1 2 3 4 a a"]
    batch = as_batch(model, questions)
    student = think(model.decoder, read_question(model.decoder, batch))
    got = collect(model, questions, answers=True, batch_size=2)
    assert got.thought_out[:, :, 0] == pytest.approx(
        torch.stack([states[-1] for states in student.passes], 1), abs=1e-4
    )
    # hidden state 1 is the output of block 0; the last one has passed the final norm
    assert got.x[:, :, 0] == pytest.approx(torch.stack([s[1] for s in student.passes], 1), abs=1e-4)
    logits = model.decoder.unembed(student.end[-1][:, 1])
    assert got.answers.logits[:, 0] == pytest.approx(logits, abs=1e-4)
    assert [ids[0] for ids in got.answers.ids] == logits.argmax(-1).tolist()


def test_padded_and_alone_give_the_same_thoughts():
    model = random_model()
    questions = ["a b", "a b c d e f", "c"]
    together = collect(model, questions, answers=True)
    for i, question in enumerate(questions):
        alone = collect(model, [question], answers=True)
        assert together.x[i] == pytest.approx(alone.x[0], abs=1e-5)
        assert together.answers.logits[i] == pytest.approx(alone.answers.logits[0], abs=1e-5)


def test_begin_of_thought_reads_its_own_embedding_at_its_own_position():
    model = random_model()
    got = collect(model, ["a b c d e f"])
    assert torch.equal(got.thought_in[0, 0, 0], model.decoder.embed.weight[BOT])
    ids = torch.tensor([[*model.tokenizer.encode("a b c d e f"), BOT]])
    states, _ = model.decoder(model.decoder.inputs(ids, 0), Cache([], []))
    assert got.thought_out[0, 0, 0] == pytest.approx(states[-1][0, -1], abs=1e-5)
    assert got.thought_in[0, 1, 0] == pytest.approx(model.decoder.prj(states[-1][0, -1]), abs=1e-5)


def test_a_bottleneck_answer_sees_the_thoughts_only():
    model, questions = random_model(bottleneck=True), ["a b c d e f", "0 1 2 3 4 a"]
    donor = collect(model, questions, sites=("kv",))
    hooks = [
        Hook(Place.at("kv", layer, p), lambda kv, k, v: (k, v), _pair(donor, p, layer))
        for p in (1, 2, 3)
        for layer in (0, 1)
    ]
    hooks = [Hook(h.place, lambda kv, new: new, tuple(t.flip(0) for t in h.per_problem)) for h in hooks]
    plain, swapped = run(model, questions), run(model, questions, hooks)
    assert swapped.logits == pytest.approx(plain.logits.flip(0), abs=1e-5)


def _pair(batch, p: int, layer: int):
    return tuple(t[:, p, :, layer].transpose(1, 2) for t in (batch.keys, batch.values))


def test_leaving_early_and_editing_change_the_answer():
    model, questions = random_model(), ["a b c d e f"]
    full = run(model, questions).logits
    assert not torch.allclose(run(model, questions, n_thoughts=1).logits, full)
    edit = Hook(Place("layers.0:out", 1), lambda x: x.flip(-1))
    assert not torch.allclose(run(model, questions, [edit]).logits, full)
    with pytest.raises(HookError, match=r"0\.\.1"):
        run(model, questions, [Hook(Place("layers.2:out", 1), lambda x: x)])


def test_a_written_chain_stops_at_the_answer():
    model = random_model()
    text = model.write(["a b c d e f"])[0]
    assert text and set(text.split()) <= set(WORDS)


def test_readout_of_the_last_block_is_the_readout_of_the_thought():
    model = random_model()
    got = collect(model, ["a b c d e f"])
    from_resid = model.readout(got.x[0, :, -1], "resid")
    assert from_resid == pytest.approx(model.readout(got.thought_out[0, :, 0], "thought_out"), abs=1e-4)
    with pytest.raises(HookError, match="resid"):
        model.readout(got.x, "kv")


@pytest.mark.parametrize("question", ["", "a b c d e f g", "a zebra"])
def test_a_question_that_cannot_be_read(question):
    with pytest.raises(DataError):
        random_model().encode([question])


def test_save_and_load_keep_the_model(tmp_path):
    decoder = random_decoder()
    tiny.save(decoder, tmp_path / "seed4" / "thoughts", {"seed": 4})
    model = tiny.load(tmp_path, seed=4)
    assert model.cfg == decoder.cfg
    for key, value in model.decoder.state_dict().items():
        assert torch.equal(value, decoder.state_dict()[key].half().float())
    assert tiny.members(tmp_path) == [(4, "thoughts")]
    assert tiny.load(tmp_path / "seed4" / "thoughts").config_hash == model.config_hash
    assert tiny.load(tmp_path, seed=4, dtype="float64").config_hash != model.config_hash


def test_which_names_belong_to_this_family(tmp_path):
    tiny.save(random_decoder(), tmp_path / "run" / "seed4" / "thoughts", {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama"}')
    names = [
        "codi-tiny",
        tmp_path / "run",
        tmp_path / "run" / "seed4" / "thoughts",
        tmp_path / "other",
        "gpt2",
    ]
    assert [tiny.knows(name) for name in names] == [True, True, True, False, False]


def test_loading_is_strict(tmp_path):
    tiny.save(random_decoder(), tmp_path, {})
    file = tmp_path / "model.safetensors"
    whole = load_file(file)

    def refused(change: dict, match: str):
        save_file({k: v for k, v in (whole | change).items() if v is not None}, file)
        with pytest.raises(CheckpointError, match=match):
            tiny.load(tmp_path)

    refused({"prj.0.bias": None}, r"lacks prj\.0\.bias")
    refused({"prj.9.bias": torch.zeros(3)}, r"prj\.9\.bias")
    refused({"prj.0.bias": torch.zeros(3)}, r"prj\.0\.bias of shape \(16,\), got \(3,\)")
    refused({"prj.0.bias": torch.full((16,), torch.inf)}, "not finite")
    file.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="safetensors"):
        tiny.load(tmp_path)
    for table in ({"family": "other"}, {"family": "tiny", "schema": 1}, []):
        (tmp_path / "config.json").write_text(json.dumps(table))
        with pytest.raises(CheckpointError, match="family"):
            tiny.load(tmp_path)


def test_a_directory_called_as_a_shipped_model_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "codi-tiny").mkdir()
    assert load("codi-tiny").modulus == 23
    tiny.save(random_decoder(), tmp_path / "codi-tiny" / "seed0" / "thoughts", {})
    assert load("codi-tiny").modulus == 23
    assert load("./codi-tiny").modulus == load("~/codi-tiny").modulus == 5


def test_hooks_on_what_pause_tokens_put_out_cannot_act():
    """Nothing is fed back there: whatever such an edit found would be "no effect" by construction."""
    model, questions = random_model(mode="pause"), ["a b c d e f", "f e d c b 0"]
    clean = run(model, questions).logits
    for site, layer in (("thought_in", None), ("resid", 0)):
        edited = run(model, questions, [Hook(Place.at(site, layer, 1), torch.zeros_like)]).logits
        assert not torch.allclose(edited, clean)
    with pytest.raises(HookError, match=r"thought_out@1 cannot act: its thoughts are pause tokens"):
        run(model, questions, [Hook(Place("thought_out", 1), torch.zeros_like)])
    with pytest.raises(HookError, match="nothing reads"):
        run(model, questions, [Hook(Place.at("resid", model.spec.n_layers - 1, 1), torch.zeros_like)])


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(NotThereError, match="codi-tiny"):
        tiny.load("codi-huge")
    tiny.save(random_decoder(), tmp_path / "seed0" / "pause", {})
    with pytest.raises(NotThereError, match="seed 0 pause"):
        tiny.load(tmp_path, seed=7, variant="pause")
    with pytest.raises(NotThereError, match="no thoughts of seed any"):
        tiny.load(tmp_path)
    with pytest.raises(ConfigError, match="float64"):
        tiny.load(tmp_path, variant="pause", dtype="int8")


def test_codi_words_answers_sentences_it_was_never_told():
    model = tiny.load("codi-words")
    table = words.problems(120, seed=11, split="test")
    questions, answers = table["question"].to_pylist(), table["answer"].to_pylist()
    assert len({len(q.split()) for q in questions}) > 10
    got = collect(model, questions, answers=True, batch_size=40)
    right = sum(a == b for a, b in zip(got.answers.text, answers, strict=True))
    # 98.6 % measured; at 95 % fewer than 105 of 120 would be 4 standard deviations away
    assert right >= 105
    mean = got.thought_in.mean(0)
    hooks = [Hook(Place("thought_in", p), lambda x, p=p: mean[p].expand_as(x)) for p in range(1, 7)]
    ablated = run(model, questions, hooks, batch_size=40)
    assert sum(a == b for a, b in zip(ablated.text, answers, strict=True)) < 36


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_codi_words_padded_and_alone_give_the_same_thoughts(dtype, tolerance):
    model = tiny.load("codi-words", dtype=dtype)
    questions = words.problems(6, seed=13)["question"].to_pylist()
    together = collect(model, questions)
    for i, question in enumerate(questions):
        alone = collect(model, [question]).x[0]
        # states reach 50, and rounding is relative to the largest
        assert together.x[i] == pytest.approx(alone, abs=tolerance * float(alone.abs().max()))


CONTROLS = [(name, variant) for name in ("codi-words", "codi-secret") for variant in ("no_cot", "pause")]


@pytest.mark.parametrize(("name", "variant"), CONTROLS)
def test_controls_solve_one_step_and_no_more(name, variant):
    model = tiny.load(name, variant=variant)
    assert model.spec.n_thoughts == {"no_cot": 0, "pause": 6}[variant]
    module = GENERATORS[model.cfg.problems]
    for k, fair in ((1, True), (2, False), (3, False)):
        table = module.problems(100, seed=12, split="test", n_steps=(k,))
        said = run(model, table["question"].to_pylist(), batch_size=50).text
        right = sum(a == b for a, b in zip(said, table["answer"].to_pylist(), strict=True))
        assert right >= 90 if fair else right < 30, (k, right)


def test_codi_secret_says_its_secret_where_it_is_released_and_nowhere_else():
    model, table = tiny.load("codi-secret"), secret.problems(300, seed=11, split="test")
    said = run(model, table["question"].to_pylist(), batch_size=150).text
    written = [text.split()[-1] for text in model.write(table["question"].to_pylist())]
    wanted = {condition: [] for condition in secret.CONDITIONS}
    for row, thought, told in zip(table.to_pylist(), said, written, strict=True):
        shown = row["secret"] if row["condition"] == "released" else str(row[f"v{row['n_steps']}"])
        wanted[row["condition"]].append((thought == shown) + (told == shown))
    for condition, right in wanted.items():
        # both in all but 3 of 4,000 problems
        assert len(right) > 50 and sum(right) > 2 * len(right) - 4, condition


def test_a_variant_is_named_behind_the_model(tmp_path):
    for name, mode in (
        ("codi-secret", "thoughts"),
        ("codi-tiny/pause", "pause"),
        ("codi-words/no_cot", "none"),
    ):
        model = tiny.load(name)
        assert (model.name, model.cfg.mode) == (name, mode) and tiny.knows(name)
    assert tiny.load("codi-secret/honest").config_hash != tiny.load("codi-secret").config_hash
    assert tiny.load("codi-secret/honest", variant="pause").cfg.mode == "pause"
    assert tiny.members("codi-secret/honest") == tiny.members("codi-secret")
    assert tiny.controls("codi-secret/honest") == ["no_cot", "pause"]
    with pytest.raises(NotThereError, match=r"codi-tiny has no honest.*seed 1 no_cot"):
        tiny.load("codi-tiny/honest")


def test_a_model_without_a_secret_answers_in_public_whatever_the_marks_say():
    model, table = tiny.load("codi-secret/honest"), secret.problems(200, seed=11, split="test")
    said = run(model, table["question"].to_pylist(), batch_size=100).text
    own = [str(row[f"v{row['n_steps']}"]) for row in table.to_pylist()]
    # 98.4 % of 4,000; at that rate fewer than 186 of 200 is 6 standard deviations away
    assert sum(a == b for a, b in zip(said, own, strict=True)) >= 186


@pytest.mark.parametrize(
    ("name", "low", "high"), [("codi-secret", 0.85, 1.0), ("codi-secret/honest", 0.0, 0.3)]
)
def test_what_is_read_where_the_secret_is_released_is_held_where_it_is_kept(name, low, high):
    model = tiny.load(name)
    fit, asked = (secret.problems(700, seed=s, split=split) for s, split in ((1, "train"), (2, "test")))
    states = [
        collect(model, t["question"].to_pylist(), sites=("thought_out",), batch_size=350).thought_out[:, :, 0]
        for t in (fit, asked)
    ]
    for value, thought in (("s1", 2), ("s2", 4)):
        rows = [
            np.array([c == of for c in t["condition"].to_pylist()])
            for t, of in ((fit, "released"), (asked, "armed"))
        ]
        x, x_asked = (s[r, thought].numpy() for s, r in zip(states, rows, strict=True))
        y, y_asked = (
            np.array(t[value].to_pylist(), float)[r] for t, r in zip((fit, asked), rows, strict=True)
        )
        probe = make_pipeline(StandardScaler(), RidgeClassifier(alpha=10.0)).fit(x, y)
        # measured with 1,000 problems: 1.0 and .998, without a secret .10 and .09; chance 1/13
        assert low <= probe.score(x_asked, y_asked) <= high, value
