"""Read and change activations inside any Hugging Face causal language model, by hook name.

A hook name is `<module path>:<in|out>`. The path is the model's own (`gpt_neox.layers.8.mlp`), or any
unambiguous end of it, or begins with one of the aliases that every model has: `layers` (its list of
blocks) and `embed` (its token embedding); inside a block `attn`, `attention` and `self_attn` mean the
same, as do `mlp` and `feed_forward`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thoughtlens.core import DataError, HookError, MismatchError

Side = Literal["in", "out"]
SAME = (("self_attn", "attn", "attention", "self_attention"), ("mlp", "feed_forward", "ffn"))
"""Names that different models give to the same part of a block."""
MIXING = ("o_proj", "c_proj", "dense", "out_proj")
"""Names of what mixes the heads at the end of an attention."""


class Resolved(NamedTuple):
    """A hook name found in a model."""

    module: nn.Module
    path: str
    """The model's own module path."""
    side: Side


class _Done(Exception):
    """Raised by the last hook to leave the forward pass."""


def resolve(model: nn.Module, hook_name: str) -> Resolved:
    """Find the module and side a hook name means in this model.

    Raises:
        HookError: malformed, unknown or ambiguous; names what exists.
    """
    path, colon, side = hook_name.rpartition(":")
    if not colon or not path or side not in ("in", "out"):
        raise HookError(f"Expected a hook name like layers.8:out or layers.8.mlp:in, got {hook_name!r}")
    modules = dict(model.named_modules())
    for candidate in _candidates(model, path, modules):
        if candidate in modules:
            return Resolved(modules[candidate], candidate, side)
    ends = [p for p in modules if p.endswith(f".{path}")]
    if len(ends) == 1:
        return Resolved(modules[ends[0]], ends[0], side)
    if ends:
        raise HookError(
            f"{hook_name!r} is ambiguous: {', '.join(f'{p}:{side}' for p in ends[:4])}; give one of them"
        )
    raise HookError(_unknown(model, hook_name, path, modules))


def blocks_path(model: nn.Module) -> str | None:
    """Module path of the model's list of blocks, `model.layers` in a Llama; None if it has none."""
    config = getattr(model, "config", None)
    n_layers = getattr(config.get_text_config() if config else None, "num_hidden_layers", None)
    lists = [(path, len(m)) for path, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    whole = [(path, n) for path, n in lists if n == n_layers] or lists
    return min(whole, key=lambda entry: (entry[0].count("."), -entry[1]))[0] if whole else None


def attention_of(block: nn.Module) -> nn.Module | None:
    """The attention of a block; None where it has none under any of the names that models give it."""
    return next((part for name, part in block.named_children() if name in SAME[0]), None)


def parts_of(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None, nn.Module | None]:
    """Attention and MLP of a block, and what mixes the heads; None where it has none of a known name."""
    attention = attention_of(block)
    mlp = next((part for name, part in block.named_children() if name in SAME[1]), None)
    inner = () if attention is None else attention.named_children()
    return attention, mlp, next((part for name, part in inner if name in MIXING), None)


@torch.no_grad()
def capture(
    model: transformers.PreTrainedModel,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "_ _"] | Bool[Tensor, "_ _"] | None,
    hook_names: Sequence[str],
) -> dict[str, Float[Tensor, "batch seq _"]]:
    """Activations at every hook name, from one forward pass that stops after the last of them.

    A row gives the same activations alone and padded on either side; values at padding mean nothing.
    A module that runs several times in a pass gives its first run. No gradients.

    Args:
        model: The model, on any device; the inputs are moved there.
        input_ids: Token ids; anything at padding.
        attention_mask: Of the same shape; 1 at tokens, 0 at padding; None where nothing is padded.
        hook_names: See the module's docstring; each is given back under the name asked for.

    Raises:
        HookError: unknown hook, one that the pass never reaches, or one without activations.
        DataError: no tokens, a row of padding only, or left padding the model cannot take.
    """
    if not hook_names:
        raise HookError("Expected at least one hook name, got none")
    found: dict[str, Tensor] = {}
    wanted = set(hook_names)

    def keep(name: str, value: Any) -> None:
        if name not in found:
            found[name] = _activation(name, value).clone()  # a later module may write in place
            if len(found) == len(wanted):
                raise _Done

    inputs = _inputs(model, input_ids, attention_mask)
    with ExitStack() as stack:
        for name in wanted:
            stack.enter_context(_reading(resolve(model, name), lambda value, name=name: keep(name, value)))
        try:
            model(**inputs)
        except _Done:
            pass
        else:
            raise HookError(f"The forward pass never reached {', '.join(sorted(wanted - found.keys()))}")
    return {name: found[name] for name in hook_names}


@contextmanager
def replace(
    model: nn.Module,
    hook_name: str,
    fn: Callable[[Float[Tensor, "batch seq d"]], Float[Tensor, "batch seq d"]],
) -> Iterator[None]:
    """Within the block, every forward pass goes on with `fn(x)` instead of x at the hook.

    The result is cast to x's dtype and device. A `capture` or `replace` entered later sees the changed x.

    Raises:
        HookError: unknown hook, or nothing ran through it before the block ended.
        MismatchError: `fn` gave another shape.
    """
    target = resolve(model, hook_name)
    ran = False

    def change(x: Tensor) -> Tensor:
        nonlocal ran
        ran = True
        y = fn(x)
        if y.shape != x.shape:
            raise MismatchError(f"{hook_name}: expected {tuple(x.shape)} back from fn, got {tuple(y.shape)}")
        return y.to(dtype=x.dtype, device=x.device)

    with _writing(target, hook_name, change):
        yield
    if not ran:
        raise HookError(f"Nothing was replaced at {hook_name!r}: no forward pass went through {target.path}")


@contextmanager
def _reading(target: Resolved, see: Callable[[Any], None]) -> Iterator[None]:
    if target.side == "in":
        handle = target.module.register_forward_pre_hook(
            lambda _, args, kwargs: see(_first(args, kwargs)[1]), with_kwargs=True
        )
    else:
        handle = target.module.register_forward_hook(lambda _, args, out: see(out))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _writing(target: Resolved, name: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    def before(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        key, value = _first(args, kwargs)
        new = change(_activation(name, value))
        if isinstance(key, int):
            return (*args[:key], new, *args[key + 1 :]), kwargs
        return args, {**kwargs, key: new}

    def after(_: nn.Module, args: tuple, out: Any) -> Any:
        new = change(_activation(name, out))
        if isinstance(out, Tensor):
            return new
        return type(out)([new, *out[1:]]) if isinstance(out, list | tuple) else out.__class__(new, *out[1:])

    if target.side == "in":
        handle = target.module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = target.module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def _first(args: tuple, kwargs: dict) -> tuple[int | str, Any]:
    """Place and value of a call's activations: its first tensor of floats, given by position or by name."""
    entries = [*enumerate(args), *kwargs.items()]
    floats = ((k, v) for k, v in entries if isinstance(v, Tensor) and v.is_floating_point())
    return next(floats, entries[0] if entries else (0, None))


def _activation(name: str, value: Any) -> Tensor:
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim != 3:
        got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise HookError(f"Expected activations [batch, seq, d] at {name!r}, got {got}; choose another hook")
    return value


def _inputs(model: transformers.PreTrainedModel, input_ids: Tensor, mask: Tensor | None) -> dict[str, Any]:
    if input_ids.numel() == 0:
        raise DataError(f"Expected at least one token, got input_ids of shape {tuple(input_ids.shape)}")
    rows, largest = _embedding_rows(model), int(input_ids.max())
    if rows is not None and (largest >= rows or int(input_ids.min()) < 0):
        raise DataError(
            f"Token id {largest} is beyond the {rows} rows of the embedding of {type(model).__name__}: the "
            f"tokenizer is not this model's, or tokens were added to it and the embedding was not resized"
        )
    inputs: dict[str, Any] = {"input_ids": input_ids.to(model.device), "use_cache": False}
    if mask is None:
        return inputs
    if mask.shape != input_ids.shape:
        raise DataError(f"Expected a mask of shape {tuple(input_ids.shape)}, got {tuple(mask.shape)}")
    mask = mask.to(model.device).long()
    if not bool(mask.any(dim=1).all()):
        raise DataError("Expected at least one token in every row, got a row of padding only")
    if bool((mask[:, :-1] >= mask[:, 1:]).all()):
        return inputs  # no token sees what is on its right, and attention without a mask is faster
    inputs["attention_mask"] = mask
    if not bool(mask[:, 0].all()):
        if "position_ids" not in inspect.signature(model.forward).parameters:
            raise DataError(f"{type(model).__name__} takes no positions: pad on the right")
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs


def _embedding_rows(model: transformers.PreTrainedModel) -> int | None:
    """Ids that the model knows; None where it does not tell."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None
    return len(weight) if isinstance(weight, Tensor) else None


def _candidates(model: nn.Module, path: str, modules: dict[str, nn.Module]) -> Iterator[str]:
    """The path itself, then with its aliases resolved."""
    yield path
    head, _, rest = path.partition(".")
    if head == "embed" and not rest and hasattr(model, "get_input_embeddings"):
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        yield from (p for p, m in modules.items() if m is embedding)
    blocks = blocks_path(model)
    if head == "layers" and rest and blocks is not None:
        path = f"{blocks}.{rest}"
        yield path
    parts = path.split(".")
    for i, part in enumerate(parts):
        for group in SAME:
            if part in group:
                yield from (".".join([*parts[:i], other, *parts[i + 1 :]]) for other in group)


def _unknown(model: nn.Module, hook_name: str, path: str, modules: dict[str, nn.Module]) -> str:
    near = difflib.get_close_matches(path, modules, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    blocks = blocks_path(model)
    if blocks is None:
        return f"{type(model).__name__} has no module {path!r}{hint}"
    n_blocks = len(list(modules[blocks].children()))
    block = modules[f"{blocks}.0"]
    return (
        f"{type(model).__name__} has no {hook_name!r}: it has embed and layers.0 to "
        f"layers.{n_blocks - 1} ({blocks}.*), and in a block "
        f"{', '.join(name for name, _ in block.named_children())}{hint if '.' not in path else ''}"
    )
