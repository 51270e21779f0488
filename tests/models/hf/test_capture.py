"""Hook names on three architectures, padding, stopping early, splicing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from thoughtlens.core import DataError, HookError, MismatchError
from thoughtlens.models.hf.capture import blocks_path, capture, replace, resolve

D, LAYERS, VOCAB = 16, 3, 50


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=D,
            intermediate_size=32,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
        )
    )


def neox() -> PreTrainedModel:
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=D,
            intermediate_size=32,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    )


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=D, n_layer=LAYERS, n_head=2, n_positions=64))


MODELS = {"llama": llama, "neox": neox, "gpt2": gpt2}
BLOCKS = {"llama": "model.layers", "neox": "gpt_neox.layers", "gpt2": "transformer.h"}
ATTENTION = {"llama": "self_attn", "neox": "attention", "gpt2": "attn"}


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return MODELS[kind]().eval()


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(1))


def test_hook_names_mean_the_models_own_modules(model, kind):
    blocks = BLOCKS[kind]
    assert blocks_path(model) == blocks
    assert resolve(model, "layers.2:out").path == f"{blocks}.2"
    assert resolve(model, "layers.0.mlp:in").path == f"{blocks}.0.mlp"
    for alias in ("self_attn", "attn", "attention"):
        assert resolve(model, f"layers.1.{alias}:out").path == f"{blocks}.1.{ATTENTION[kind]}"
    assert resolve(model, f"{blocks}.1:in")[1:] == (f"{blocks}.1", "in")
    assert resolve(model, f"{blocks.split('.')[-1]}.1.mlp:out").path == f"{blocks}.1.mlp"
    assert resolve(model, "embed:out").module is model.get_input_embeddings()


def test_layer_outputs_are_the_models_hidden_states(model):
    ids = tokens(2, 7)
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    names = ["layers.0:in", "layers.0:out", "layers.1:in", "layers.1:out", "layers.2:in"]
    got = capture(model, ids, None, names)
    # hidden_states[i] enters block i; the last of them has the final norm on it, so layers.2:out is not there
    for name, state in zip(names, (states[0], states[1], states[1], states[2], states[2]), strict=True):
        torch.testing.assert_close(got[name], state, rtol=0, atol=0, msg=name)


def test_attention_and_mlp_outputs_add_up_to_the_blocks_output(model, kind):
    names = ["layers.1:in", "layers.1.attn:out", "layers.1.mlp:out", "layers.1:out"]
    x, attn, mlp, out = capture(model, tokens(2, 7), None, names).values()
    torch.testing.assert_close(x + attn + mlp, out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(model, side):
    lengths = [3, 9, 1, 6]
    texts = [tokens(9)[:n] for n in lengths]
    ids, mask = torch.zeros(4, 9, dtype=torch.long), torch.zeros(4, 9, dtype=torch.long)
    for i, text in enumerate(texts):
        where = slice(0, len(text)) if side == "right" else slice(9 - len(text), 9)
        ids[i, where], mask[i, where] = text, 1
    names = ["embed:out", "layers.0.attn:out", "layers.1.mlp:in", "layers.2:out"]
    batch = capture(model, ids, mask, names)
    for i, text in enumerate(texts):
        alone = capture(model, text[None], None, names)
        for name in names:
            torch.testing.assert_close(batch[name][i][mask[i].bool()], alone[name][0], rtol=1e-5, atol=1e-5)


def test_the_pass_stops_after_the_last_hook_and_not_before(model, kind):
    ran = []
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: ran.append(path))
    names = ["layers.1.mlp:out", "layers.1:in", "embed:out", "layers.0:out"]
    found = capture(model, tokens(1, 4), None, names)
    assert list(found) == names
    assert f"{BLOCKS[kind]}.0" in ran
    assert f"{BLOCKS[kind]}.1" not in ran, "the block around the last hook must not end"
    ran.clear()
    capture(model, tokens(1, 4), None, ["layers.1.mlp:out", "layers.1:out"])
    assert f"{BLOCKS[kind]}.1" in ran, "a block's output comes after the outputs inside it"
    assert not any(path.startswith(f"{BLOCKS[kind]}.2") for path in ran)


def test_no_hook_is_left_behind(model):
    capture(model, tokens(1, 4), None, ["layers.0:out"])
    with pytest.raises(HookError), replace(model, "layers.0:out", lambda x: x):
        pass
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_a_result_is_not_changed_by_what_runs_later(model):
    alone = capture(model, tokens(1, 4), None, ["layers.0:out"])["layers.0:out"]

    def in_place(_: nn.Module, args: tuple) -> None:
        args[0].mul_(0)

    handle = resolve(model, "layers.1:in").module.register_forward_pre_hook(in_place)
    both = capture(model, tokens(1, 4), None, ["layers.0:out", "layers.1:out"])
    handle.remove()
    assert not torch.equal(both["layers.1:out"], both["layers.0:out"])
    torch.testing.assert_close(both["layers.0:out"], alone, rtol=0, atol=0)


@pytest.mark.parametrize("hook_name", ["layers.1:out", "layers.1:in", "layers.1.attn:in", "layers.1.mlp:out"])
def test_replacing_with_itself_changes_nothing_and_with_zeros_is_seen(model, hook_name):
    ids = tokens(2, 5)
    with torch.no_grad():
        clean = model(ids).logits
        with replace(model, hook_name, lambda x: x.clone()):
            same = model(ids).logits
        with replace(model, hook_name, torch.zeros_like):
            zeroed = model(ids).logits
            seen = capture(model, ids, None, [hook_name])[hook_name]
    torch.testing.assert_close(same, clean, rtol=0, atol=0)
    assert not torch.allclose(zeroed, clean)
    assert not seen.any(), "a capture entered later sees the replaced value"


def test_replacing_a_blocks_output_is_what_the_next_block_reads(model):
    ids, x = tokens(1, 4), torch.full((1, 4, D), 0.5)
    with replace(model, "layers.0:out", lambda _: x.double()):
        after = capture(model, ids, None, ["layers.1:in"])["layers.1:in"]
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, x)


def test_replacing_refuses_another_shape_and_a_hook_that_never_bit(model):
    shapes = r"expected \(1, 4, 16\) back from fn, got \(1, 3, 16\)"
    with pytest.raises(MismatchError, match=shapes), replace(model, "layers.0:out", lambda x: x[:, :3]):
        model(tokens(1, 4))
    unused = pytest.raises(HookError, match="no forward pass went through")
    with unused, replace(model, "layers.2:out", lambda x: x):
        capture(model, tokens(1, 4), None, ["layers.1:out"])
    with pytest.raises(ZeroDivisionError), replace(model, "layers.2:out", lambda x: x):
        1 / 0  # the reason why nothing ran is not hidden  # noqa: B018


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("layers.3:out", r"layers\.0 to layers\.2"),
        ("layers.-1:out", r"layers\.0 to layers\.2"),
        ("layers.1.norm_7:out", r"in a block .*mlp"),
        ("nonsense:out", "it has embed and layers"),
        ("layers.1", "Expected a hook name like"),
        ("layers.1:post", "Expected a hook name like"),
        (":out", "Expected a hook name like"),
        ("mlp:out", "ambiguous"),
        ("embed:in", "Expected activations"),
        ("layers:out", "ambiguous|never reached|has no"),
    ],
)
def test_unusable_hooks_are_named(model, name, says):
    with pytest.raises(HookError, match=says) as error:
        capture(model, tokens(1, 4), None, [name])
    assert "\n" not in str(error.value)


def test_unusable_inputs_are_refused(model):
    with pytest.raises(DataError, match="at least one token"):
        capture(model, torch.zeros(1, 0, dtype=torch.long), None, ["layers.0:out"])
    mask = torch.tensor([[1, 1], [0, 0]])
    with pytest.raises(DataError, match="padding only"):
        capture(model, tokens(2, 2), mask, ["layers.0:out"])
    with pytest.raises(DataError, match="mask of shape"):
        capture(model, tokens(2, 3), mask, ["layers.0:out"])
    with pytest.raises(HookError, match="at least one"):
        capture(model, tokens(2, 3), None, [])


def test_a_module_list_of_another_length_is_not_taken_for_the_blocks():
    torch.manual_seed(0)
    model = llama()
    model.heads = nn.ModuleList(nn.Linear(D, D) for _ in range(5))
    assert blocks_path(model) == "model.layers"
