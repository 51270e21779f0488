from __future__ import annotations

import pytest
import torch

from tests.models.thought.depth_toy import DepthToy
from tests.models.thought.fake import ALPHA, N_STEPS, QUESTIONS, make_codi, think_without_cache
from tests.models.thought.iteration_toy import IterationToy
from thoughtlens.core import ConfigError, DataError, HookError
from thoughtlens.models.thought import coconut, codi
from thoughtlens.models.thought.places import Place
from thoughtlens.models.thought.thoughts import Hook, collect, load, parse_number, run

LAST = N_STEPS


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return make_codi(tmp_path_factory.mktemp("codi"), "gpt2")


@pytest.fixture(scope="module")
def gpt2(fake):
    return codi.load(fake.file, base=fake.base, lora_alpha=ALPHA, eos_before=False, eos_after=False)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    fake = make_codi(tmp_path_factory.mktemp("codi-llama"), "llama")
    return codi.load(fake.file, base=fake.base, lora_alpha=ALPHA, eos_before=False, eos_after=False)


@pytest.fixture(params=["gpt2", "llama", "depth", "iteration"])
def model(request):
    toys = {"depth": DepthToy, "iteration": IterationToy}
    return toys[request.param]() if request.param in toys else request.getfixturevalue(request.param)


def logits(model, hooks=(), questions=QUESTIONS, **options):
    return run(model, questions, hooks, max_new_tokens=0, **options).logits[:, 0]


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(model):
    together = collect(model, QUESTIONS, answers=True, max_new_tokens=6)
    for i, question in enumerate(QUESTIONS):
        alone = collect(model, [question], answers=True, max_new_tokens=6)
        n = alone.mask.shape[1]
        assert together.mask[i].sum() == n
        close(together.resid[i, :, -n:], alone.resid[0])
        close(together.thought_in[i, :, -n:], alone.thought_in[0])
        close(together.thought_out[i, :, -n:], alone.thought_out[0])
        close(together.answers.logits[i], alone.answers.logits[0])
        assert together.answers.ids[i] == alone.answers.ids[0]


def test_rows_come_back_in_order_whatever_the_batch(model):
    whole = collect(model, QUESTIONS, answers=True, max_new_tokens=4)
    for size in (1, 2):
        parts = collect(model, QUESTIONS, answers=True, max_new_tokens=4, batch_size=size)
        close(parts.resid, whole.resid)
        assert torch.equal(parts.mask, whole.mask) and parts.answers.text == whole.answers.text


def test_shapes(gpt2):
    spec, batch = gpt2.spec, collect(gpt2, QUESTIONS, layers=[2, 0])
    assert list(spec.thoughts) == [0, 1, 2, 3, 4, 5, 6]
    assert batch.x.shape == (3, 7, 2, spec.d) and batch.layers == (2, 0)
    assert batch.thought_in.shape == batch.thought_out.shape == (3, 7, 1, spec.d)
    close(batch.x[:, :, 1], collect(gpt2, QUESTIONS).x[:, :, 0])
    assert collect(gpt2, QUESTIONS, sites=["thought_out"]).resid is None
    with pytest.raises(DataError, match="resid"):
        _ = collect(gpt2, QUESTIONS, sites=["thought_out"]).x
    assert collect(DepthToy(), QUESTIONS).resid.shape == (3, 5, len(QUESTIONS[1]), 2, 16)
    with pytest.raises(DataError, match="position"):
        _ = collect(DepthToy(), QUESTIONS).x


def test_a_step_leaves_its_state_alone(model):
    state = model.encode(QUESTIONS)
    for _ in range(2):
        state, _ = model.step(state)
    twin = model.clone(state)
    (after, first), (_, again) = model.step(state), model.step(state)
    close(first.thought_out, again.thought_out)
    said = model.answer(after, 3)
    changed, _ = model.step(twin, [Hook(Place("thought_in", 2), lambda x: x.flip(-1) + 1)])
    assert model.answer(after, 3).ids == said.ids
    close(model.step(state)[1].thought_out, first.thought_out)
    assert (model.answer(changed, 0).logits - model.answer(after, 0).logits).abs().max() > 1e-4
    assert state.next_thought == 2 and after.next_thought == 3


def test_edits_act_forwards_only_and_are_recorded(model):
    clean = collect(model, QUESTIONS)
    for site, layer in (("thought_in", None), ("resid", 0), ("thought_out", None)):
        edited = collect(model, QUESTIONS, [Hook(Place.at(site, layer, 2), lambda x: 2 * x + 1)])
        close(edited.thought_out[:, :2], clean.thought_out[:, :2])
        assert (edited.thought_out[:, 3] - clean.thought_out[:, 3]).abs().max() > 1e-3
    close(edited.thought_out[:, 2], (2 * clean.thought_out[:, 2] + 1) * clean.mask[..., None])


def test_rounds_over_several_positions():
    """Position i takes in what position i - 1 put out a round ago; the answer reads no last output."""
    toy = IterationToy()
    batch = collect(toy, QUESTIONS, answers=True, max_new_tokens=3)
    assert batch.resid.shape == (3, 5, 3, 2, 16) and toy.spec.axis == "iteration"
    close(batch.thought_in[:, 1:, 1:], batch.thought_out[:, :-1, :-1])
    with pytest.raises(HookError, match="fed to nothing"):
        run(toy, QUESTIONS, [Hook(Place("thought_out", 4), lambda x: x)])
    middle = torch.tensor([0.0, 1.0, 0.0])[:, None]
    moved = collect(toy, QUESTIONS, [Hook(Place("thought_in", 2), lambda x: x + middle)])
    # a change at position 1 goes on to later positions of the round, and on by one position in the next
    changed = (moved.thought_in - batch.thought_in).abs().amax((0, 3)) > 1e-6
    assert changed.tolist() == [
        [False, False, False], [False, False, False], [False, True, False], [False, False, True],
        [False, False, False],
    ]  # fmt: skip
    with pytest.raises(DataError, match="position"):
        _ = batch.x


def test_identity_is_no_edit(model):
    hooks = [Hook(Place("layers.0:out", p), lambda x: x) for p in model.spec.thoughts]
    close(logits(model, hooks), logits(model))


def test_hooks_on_one_site_run_in_order(gpt2):
    a, b = Hook(Place("thought_in", 3), lambda x: x + 1), Hook(Place("thought_in", 3), lambda x: 3 * x)
    clean = collect(gpt2, QUESTIONS).thought_in[:, 3]
    close(collect(gpt2, QUESTIONS, [a, b]).thought_in[:, 3], 3 * (clean + 1))


def test_output_edit_is_the_next_inputs_edit(gpt2):
    new = torch.randn(3, 1, gpt2.spec.d, generator=torch.manual_seed(1))
    out = Hook(Place("thought_out", 1), lambda x, donor: donor, per_problem=new)
    into = Hook(Place("thought_in", 2), lambda x, donor: donor, per_problem=gpt2.prj(new))
    close(logits(gpt2, [out]), logits(gpt2, [into]))
    assert (logits(gpt2, [out]) - logits(gpt2)).abs().max() > 1e-3


def recomputed(fake, question, module, edit):
    """Answer logits of one whole forward pass, with `edit` on the last thought's row of a module's output."""
    inputs = think_without_cache(fake, question, remove_eos=True)["inputs"]

    def hook(_, __, output):
        rows = output.clone()
        rows[:, -2] = edit(rows[:, -2])  # the last position is the end of thought
        return rows

    handle = module.register_forward_hook(hook)
    try:
        return fake.wrapper.codi(inputs_embeds=inputs).logits[0, -1]
    finally:
        handle.remove()


def test_inner_edit_of_the_last_thought_acts_through_keys_and_values(fake, gpt2):
    blocks = fake.wrapper.codi.base_model.model.transformer.h
    got = logits(gpt2, [Hook(Place("layers.1:out", LAST), lambda x: x.flip(-1))])
    for i, question in enumerate(QUESTIONS):
        close(got[i], recomputed(fake, question, blocks[1], lambda x: x.flip(-1)))


def test_kv_edit_is_what_later_positions_read(fake, gpt2):
    """In the last block the pass's own read of it ends in a state that nothing reads: exact there."""
    layer, d = gpt2.spec.n_layers - 1, gpt2.spec.d
    c_attn = fake.wrapper.codi.base_model.model.transformer.h[layer].attn.c_attn

    def edit(row):
        q, k, v = row.split(d, -1)
        return torch.cat([q, 2 * k, v - 1], -1)

    got = logits(gpt2, [Hook(Place.at("kv", layer, LAST), lambda kv: (2 * kv[0], kv[1] - 1))])
    for i, question in enumerate(QUESTIONS):
        close(got[i], recomputed(fake, question, c_attn, edit))


def test_kv_edit_leaves_the_passes_own_state(gpt2):
    clean = collect(gpt2, QUESTIONS, sites=("thought_out", "kv"))
    donor = tuple(x[:, 2, :, 1].transpose(1, 2).flip(0) for x in (clean.keys, clean.values))
    hook = Hook(Place("layers.1:kv", 2), lambda kv, other: other, per_problem=donor)
    edited = collect(gpt2, QUESTIONS, [hook], sites=("thought_out", "kv"), batch_size=2)
    close(edited.thought_out[:, :3], clean.thought_out[:, :3])
    close(edited.keys[:, 2, :, 1], clean.keys[:, 2, :, 1].flip(0))
    close(edited.values[:, 2, :, 0], clean.values[:, 2, :, 0])
    assert (edited.thought_out[:, 3] - clean.thought_out[:, 3]).abs().max() > 1e-4


def test_per_problem_values_follow_their_problem(model):
    clean = collect(model, QUESTIONS[:1] * 3)
    n, d = clean.thought_in.shape[2], model.spec.d
    shift = torch.arange(3.0)[:, None, None].expand(3, n, d)
    hook = Hook(Place("thought_in", 1), lambda x, s: x + s, per_problem=shift)
    for size in (1, 2, 64):
        edited = collect(model, QUESTIONS[:1] * 3, [hook], batch_size=size)
        close(edited.thought_in[:, 1], clean.thought_in[:, 1] + shift)


def test_leaving_early(fake, gpt2):
    for k in (0, 3, LAST):
        short = codi.load(
            fake.file, base=fake.base, lora_alpha=ALPHA, eos_before=False, eos_after=False, n_thoughts=k
        )
        close(logits(gpt2, n_thoughts=k), logits(short))
    assert (logits(gpt2, n_thoughts=0) - logits(gpt2)).abs().max() > 1e-3
    with pytest.raises(HookError, match=r"0\.\.6"):
        run(gpt2, QUESTIONS, n_thoughts=7)
    with pytest.raises(HookError, match=r"thoughts 0\.\.3"):
        run(gpt2, QUESTIONS, [Hook(Place("thought_in", 4), lambda x: x)], n_thoughts=3)
    with pytest.raises(HookError, match="cannot act"):
        run(gpt2, QUESTIONS, [Hook(Place("thought_out", 3), lambda x: x)], n_thoughts=3)
    state = gpt2.encode(QUESTIONS)
    for _ in gpt2.spec.thoughts:
        state, _ = gpt2.step(state)
    with pytest.raises(HookError, match="6 thoughts"):
        gpt2.step(state)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (Place("norm", 1), "thought_in, resid, thought_out, kv"),
        (Place("thought_in", 8), r"thoughts 0\.\.6 .*, 7\.\.7 the answer's cue"),
        (Place("thought_out", -1), "nothing reads thought_out of a token of the question"),
        (Place.at("resid", 2, -1), "nothing reads the output of the last block"),
        (Place.at("kv", 0, 7), "writes its keys and values while it reads"),
        (Place("thought_in"), r"thoughts 0\.\.6"),
        (Place.at("resid", 3, 1), r"0\.\.2"),
        (Place.at("resid", -1, 1), "Expected a site"),
        (Place("resid", 1), r"0\.\.2"),
        (Place.at("kv", 9, 1), r"0\.\.2"),
        (Place.at("thought_out", 0, 1), "has no layers"),
        (Place("thought_out", LAST), "fed to nothing"),
        (Place.at("resid", 2, LAST), "nothing reads"),
    ],
    ids=str,
)
def test_hooks_that_do_not_exist_or_cannot_act(gpt2, place, says):
    with pytest.raises(HookError, match=says):
        run(gpt2, QUESTIONS, [Hook(place, lambda x: x)])
    with pytest.raises(HookError, match=says):
        gpt2.step(gpt2.encode(QUESTIONS), [Hook(place, lambda x: x)])


def test_the_last_state_counts_where_the_answer_reads_it():
    toy = DepthToy()
    for hook in (Hook(Place("thought_out", 4), lambda x: -x), Hook(Place("layers.1:out", 4), lambda x: -x)):
        assert (logits(toy, [hook]) - logits(toy)).abs().max() > 1e-3
    with pytest.raises(HookError, match="thought_in, resid, thought_out"):
        run(toy, QUESTIONS, [Hook(Place("layers.0:kv", 1), lambda kv: kv)])


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda x: x[:, :0], r"shape \(3, 1, 32\)"),
        (lambda x: None, "NoneType"),
        (lambda x: x * torch.nan, "not finite"),
    ],
)
def test_edits_that_break_the_tensor(gpt2, fn, says):
    with pytest.raises(HookError, match=says):
        run(gpt2, QUESTIONS, [Hook(Place("thought_in", 1), fn)])


@pytest.mark.parametrize("n", [2, 4])
def test_too_few_or_too_many_rows_per_problem(gpt2, n):
    rows = torch.zeros(n, 1, 32)
    for hook in (
        Hook(Place("thought_in", 1), lambda x, y: y, per_problem=rows),
        Hook(
            Place("layers.0:kv", 1),
            lambda x, y: y,
            per_problem=(torch.zeros(3, 4, 1, 8), torch.zeros(n, 4, 1, 8)),
        ),
    ):
        with pytest.raises(HookError, match=f"{n} rows for 3 problems"):
            run(gpt2, QUESTIONS, [hook])
    with pytest.raises(HookError, match="has 2 rows, but the run has problem 2"):
        gpt2.step(gpt2.encode(QUESTIONS), [Hook(Place("thought_in", 0), lambda x, y: y, rows[:2])])


class Forgetful(DepthToy):
    """A family that forgets to show its last block."""

    def _step(self, state, tap):
        return super()._step(state, lambda site, x, layer=None: x if layer == 1 else tap(site, x, layer))


def test_a_hook_that_never_ran_is_an_error():
    with pytest.raises(HookError, match="never ran"):
        run(Forgetful(), QUESTIONS, [Hook(Place("layers.1:out", 0), lambda x: x)])


def test_a_site_that_was_not_shown_is_an_error():
    with pytest.raises(HookError, match=r"layers\.1:out@0"):
        collect(Forgetful(), QUESTIONS)


def test_collect_names_what_exists(gpt2):
    with pytest.raises(HookError, match="thought_in, resid"):
        collect(gpt2, QUESTIONS, sites=["norm"])
    with pytest.raises(HookError, match=r"0\.\.2"):
        collect(gpt2, QUESTIONS, layers=[3])
    for questions in ([], "What is 7?"):
        with pytest.raises(DataError, match="list of at least one question"):
            collect(gpt2, questions)
    with pytest.raises(DataError, match="2 rows for 3 questions"):
        run(gpt2, QUESTIONS, teacher_ids=torch.ones(2, 1, dtype=torch.long))
    with pytest.raises(HookError, match="read out"):
        gpt2.readout(torch.zeros(1, 32), "kv")
    with pytest.raises(ConfigError, match="batch_size"):
        collect(gpt2, QUESTIONS, batch_size=0)


def test_gradients_reach_an_edit(gpt2):
    delta = torch.zeros(gpt2.spec.d, requires_grad=True)
    state = gpt2.encode(QUESTIONS)
    for _ in gpt2.spec.thoughts:
        state, _ = gpt2.step(state, [Hook(Place("thought_in", 1), lambda x: x + delta)])
    gpt2.answer(state, 0).logits[:, 0, 5].sum().backward()
    assert delta.grad.abs().sum() > 0


def test_readout_of_the_last_state_is_the_models_own(gpt2, fake):
    state = gpt2.encode(QUESTIONS[:1])
    _, record = gpt2.step(state)
    close(gpt2.readout(record.resid[-1], "resid"), gpt2.readout(record.thought_out, "thought_out"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is: 18", 18.0),
        ("The answer is: 1,234,567.", 1234567.0),
        ("12 eggs, then -3.5", -3.5),
        ("none", None),
        ("", None),
        ("10-4", -4.0),
        ("9" * 400, None),
    ],
)
def test_parse_number(text, value):
    assert parse_number(text) == value


def test_load_tells_families_apart(fake, tmp_path):
    options = {"base": fake.base, "remove_eos": True}
    assert isinstance(load(fake.file, **options), codi.Codi)
    with pytest.raises(ConfigError, match="tiny, codi, coconut"):
        load(fake.file, family="huginn")
    with pytest.raises(Exception, match=r"not one tensor is called base_causallm"):
        load(fake.file, family="coconut", base=fake.base)
    assert coconut.PREFIX == "base_causallm."


def parts_by_hand(model, question):
    """What attention, MLP and heads bring at every thought, by hooks of the test's own on the modules."""
    seen, handles = {}, []
    for i, block in enumerate(model.blocks):
        gpt2 = hasattr(block, "attn")
        attn = block.attn if gpt2 else block.self_attn
        mixing = attn.c_proj if gpt2 else attn.o_proj
        for name, module in (("attn", attn), ("mlp", block.mlp)):

            def out(module, args, output, name=name, i=i):
                x = output[0] if isinstance(output, tuple) else output
                seen.setdefault((name, i), []).append(x[:, -1])

            handles.append(module.register_forward_hook(out))
        handles.append(
            mixing.register_forward_pre_hook(
                lambda module, args, i=i: seen.setdefault(("heads", i), []).append(args[0][:, -1])
            )
        )
    run(model, [question], max_new_tokens=0)
    for handle in handles:
        handle.remove()
    # the first pass is the question's, then thoughts 0..n, then the cue
    return {key: torch.cat(rows[1 : model.spec.n_thoughts + 2]) for key, rows in seen.items()}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_attention_mlp_and_heads_are_what_the_modules_give(family, request):
    model = request.getfixturevalue(family)
    together = collect(model, QUESTIONS, sites=("attn", "mlp", "heads", "resid", "thought_in"))
    for i, question in enumerate(QUESTIONS):
        parts = parts_by_hand(model, question)
        for layer in range(model.spec.n_layers):
            for name in ("attn", "mlp"):
                close(together[Place(f"layers.{layer}.{name}:out")][i], parts[name, layer])
            for head in range(4):
                own = parts["heads", layer][:, 8 * head : 8 * head + 8]
                close(together[Place.parse(f"layers.{layer}.head.{head}:out")][i], own)
    stream = together.x[:, :, 0] + together.attn[:, :, 0, 1] + together.mlp[:, :, 0, 1]
    close(stream, together.x[:, :, 1])  # what the parts of a block add is what it does


@pytest.mark.parametrize("family", ["gpt2", "llama", "tiny"])
def test_edits_of_parts_act_as_they_would_on_the_stream(family, request):
    model = load("codi-tiny") if family == "tiny" else request.getfixturevalue(family)
    questions = (
        ["dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"] * 2 if family == "tiny" else QUESTIONS
    )
    layer = 0
    untouched = logits(model, questions=questions)
    none = [Hook(Place.at(site, layer, 2), lambda x: x) for site in ("attn", "mlp", "heads")]
    assert torch.equal(logits(model, none, questions=questions), untouched)
    delta = torch.randn(model.spec.d, generator=torch.Generator().manual_seed(0))
    on_mlp = logits(model, [Hook(Place.at("mlp", layer, 2), lambda x: x + delta)], questions=questions)
    on_block = logits(model, [Hook(Place.at("resid", layer, 2), lambda x: x + delta)], questions=questions)
    close(on_mlp, on_block)
    assert (on_mlp - untouched).abs().max() > 1e-4
    gone = logits(model, [Hook(Place.at("attn", layer, 2), torch.zeros_like)], questions=questions)
    heads = logits(model, [Hook(Place.at("heads", layer, 2), torch.zeros_like)], questions=questions)
    assert (gone - untouched).abs().max() > 1e-6 and (heads - untouched).abs().max() > 1e-6


def test_parts_of_the_last_block_at_the_last_thought_are_read_by_nothing(gpt2):
    for site in ("attn", "mlp", "heads"):
        with pytest.raises(HookError, match="cannot act"):
            logits(gpt2, [Hook(Place.at(site, gpt2.spec.n_layers - 1, LAST), torch.zeros_like)])
    with pytest.raises(HookError, match=r"expected a head in 0\.\.3"):
        _ = collect(gpt2, QUESTIONS, sites=("heads",))[Place("layers.0.head.4:out", 1)]
    with pytest.raises(HookError, match="site of this model"):
        collect(DepthToy(), QUESTIONS, sites=("attn",))
