"""LoRA of thought models: merged into the weights that it adapts, whether these are in the file or not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from thoughtlens.core import CheckpointError, ConfigError, MismatchError
from thoughtlens.models.hf import load as hf
from thoughtlens.models.hf.locate import foreign
from thoughtlens.models.thought.heard import tell
from thoughtlens.models.thought.weights import (
    PROJECTIONS,
    SUFFIXES,
    Checkpoint,
    digest_of,
    hub_id,
    tensors_in,
)

CONFIG = "adapter_config.json"
STEM = "base_model.model."
"""What PEFT puts before the names of the model it adapts."""
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])\.(?P<adapter>[^.]+)\.weight")
SAVED = re.compile(r"\.(modules_to_save(\.[^.]+)?|original_module)\.")
PROJECTION = re.compile(r"(?:prj|proj|projection|projector)\.")
PATTERNS = ("rank_pattern", "layers_to_transform", "exclude_modules")
OTHER_STARTS = ("pissa", "olora", "corda", "loftq")
"""Starts of LoRA that change the base model's weights, which the adapter does not hold."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What `adapter_config.json` says, as far as the weights follow from it."""

    file: Path
    base: str | None = None
    rank: int | None = None
    targets: str | tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    """Modules that are in the file whole."""
    uniform: bool = True
    """Whether every block is adapted alike, with one rank."""

    def wants(self, name: str) -> bool:
        """Whether a module of the base model is to be adapted."""
        if isinstance(self.targets, str):
            return self.targets != "all-linear" and re.fullmatch(self.targets, name) is not None
        return any(name == target or name.endswith(f".{target}") for target in self.targets)


def config_in(folder: Path) -> Adapter | None:
    """The adapter's own config in a folder, if it is there.

    Raises:
        CheckpointError: not LoRA as it is merged here.
    """
    file = folder / CONFIG
    if not file.is_file():
        return None
    with foreign(f"{file} is not JSON"):
        table: dict[str, Any] = json.loads(file.read_text("utf-8"))
    kind = str(table.get("peft_type", "LORA"))
    start = str(table.get("init_lora_weights", "")).lower()
    odd = {
        f"an adapter of the kind {kind}": kind.upper() != "LORA",
        "use_dora": bool(table.get("use_dora")),
        "an alpha_pattern (another alpha for some modules)": bool(table.get("alpha_pattern")),
        f"init_lora_weights = {start}, which changes the base,": start.startswith(OTHER_STARTS),
    }
    if named := [what for what, there in odd.items() if there]:
        raise CheckpointError(f"{file}: {named[0]} is not supported: merge it, save the state dict")
    targets = table.get("target_modules") or ()
    base = table.get("base_model_name_or_path")
    return Adapter(
        file=file,
        base=str(base) if base else None,
        rank=table.get("r"),
        targets=targets if isinstance(targets, str) else tuple(targets),
        saved=tuple(table.get("modules_to_save") or ()),
        uniform=not any(table.get(key) for key in PATTERNS),
    )


def completed(found: Checkpoint, base: str | Path | None) -> Checkpoint:
    """An adapter as the training wrapper would have saved it: with its base's weights and the projection.

    Args:
        found: What PEFT saved. The projection is in it, or in a file beside it (`prj*`, `proj*`).
        base: The base model, with its weights; None: the one that the adapter names.

    Raises:
        CheckpointError: no `adapter_config.json`, or modules missing that it says were saved.
        MismatchError: trained on another base model.
        ConfigError: no base model given or named.
    """
    folder = found.file.parent
    own = config_in(folder)
    if own is None:
        raise CheckpointError(
            f"{found.file} holds an adapter alone, and there is no {CONFIG} beside it, which says alpha, "
            f"rank and base model: add it, or save the state dict of the whole model"
        )
    _refuse_other_base(own, base)
    where = base or own.base
    if where is None:
        raise ConfigError(f"{own.file} does not say its base model: give base=, a hub id or a directory")
    lm = hf.load(str(where), dtype="float32")
    tensors, projections = dict(_wrapped(found.tensors)), _projections(folder)
    beside = {f"prj.{key}": value for file in projections for key, value in _projection_in(file).items()}
    if lost := [name for name in own.saved if not any(name in key.split(".") for key in tensors)]:
        raise CheckpointError(
            f"{found.file}: {lost[0]} is among modules_to_save of {own.file.name} and not there"
        )
    tell(layout=f"LoRA as PEFT saves it, on {where}")
    adapted = {match["module"] for key in tensors if (match := LORA.fullmatch(key))}
    bare = {name.removeprefix(f"codi.{STEM}") for name in adapted}
    if strange := sorted(bare - {name for name, _ in lm.model.named_modules()}):
        raise MismatchError(
            f"{found.file} has LoRA of {strange[0]}, and {where} has no such module: it was trained on "
            f"another base model (base=...)"
        )
    weights = {f"codi.{STEM}{name}": value for name, value in lm.model.state_dict().items()}
    weights = {
        re.sub(r"\.(\w+)$", r".base_layer.\1", key) if key.rpartition(".")[0] in adapted else key: value
        for key, value in weights.items()
    }
    digest = f"{digest_of([found.file, own.file, *projections])} on {lm.digest}"
    return replace(found, tensors={**weights, **beside, **tensors}, digest=digest)


def merged(
    state: dict[str, Tensor], lm: PreTrainedModel, scaling: tuple[float, bool], found: Checkpoint, prefix: str
) -> dict[str, Tensor]:
    """W + s B A for every adapted module, in float32; transposed for GPT-2's Conv1D.

    Args:
        state: Weights and LoRA by the base model's names.
        lm: The base model.
        scaling: alpha, and whether s is alpha over the root of the rank r (rank-stabilised, Kalajdzievski
            2023, arXiv:2312.03732) and not alpha / r.
        found: The checkpoint, whose folder may have the adapter's config.
        prefix: What stands before each name in the file.

    Raises:
        CheckpointError: LoRA that is incomplete, or is not what its own config says.
    """
    where, own = found.file, config_in(found.file.parent)
    alpha, stabilised = scaling
    adapters = sorted({match["adapter"] for key in state if (match := LORA.fullmatch(key))})
    if len(adapters) > 1:
        raise CheckpointError(f"{where} has several LoRA adapters ({', '.join(adapters)}); keep one")
    suffixes = (".base_layer.weight", *(f".lora_{part}.{name}.weight" for name in adapters for part in "AB"))
    adapted = {key.removesuffix(end) for key in state for end in suffixes if key.endswith(end)}
    weights = {
        key.replace(".base_layer.", "."): value for key, value in state.items() if not LORA.fullmatch(key)
    }
    modules = dict(lm.named_modules())
    for name in sorted(adapted):
        if missing := [name + end for end in suffixes if name + end not in state]:
            raise CheckpointError(f"{where}: {prefix}{missing[0]} is missing")
        if name not in modules:
            raise CheckpointError(f"{where}: {prefix}{name} has LoRA, but the base model has no such module")
        w, a, b = (state[name + end].float() for end in suffixes)
        if a.ndim != 2 or b.ndim != 2 or b.shape[1] != len(a):
            raise CheckpointError(
                f"{where}: expected LoRA of {prefix}{name} as A [r, in] and B [out, r], "
                f"got {list(a.shape)} and {list(b.shape)}"
            )
        if own and own.uniform and own.rank not in (None, len(a)):
            raise CheckpointError(
                f"{where}: LoRA of {prefix}{name} has rank {len(a)}, but {own.file.name} says r = {own.rank}"
            )
        scale = alpha / (math.sqrt(len(a)) if stabilised else len(a))
        tell(scaling=scale)
        update = scale * (b @ a)
        update = update.T if isinstance(modules[name], Conv1D) else update
        if update.shape != w.shape:
            raise CheckpointError(
                f"{where}: LoRA of {prefix}{name} is {list(update.shape)}, its weight {list(w.shape)}"
            )
        weights[f"{name}.weight"] = w + update
    linear = {name for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)}
    if adapted:
        _require_all(adapted, {name for name in linear if f"{name}.weight" in weights}, own, where)
    return weights


def _require_all(adapted: set[str], linear: set[str], own: Adapter | None, where: Path) -> None:
    """Refuse a file in which some of the adapted modules have lost their LoRA."""
    if own and own.targets and own.targets != "all-linear":
        wanted, who = {name for name in linear if own.wants(name)}, f"{own.file.name} says target_modules"
        strange = sorted(name for name in adapted if not own.wants(name))
    else:
        leaves = {name.rpartition(".")[2] for name in adapted}
        wanted = {name for name in linear if name.rpartition(".")[2] in leaves}
        who, strange = "others of its name have it", []
    if strange:
        raise CheckpointError(f"{where}: {strange[0]} has LoRA, but is not among target_modules of {CONFIG}")
    if (lost := sorted(wanted - adapted)) and (own is None or own.uniform):
        raise CheckpointError(
            f"{where}: {lost[0]} has no LoRA ({len(lost)} such modules), though {who}: it was lost"
        )


def _refuse_other_base(own: Adapter, base: str | Path | None) -> None:
    """Refuse a base model of another name than the adapter was trained on, where both have one."""
    if base is None or own.base is None:
        return
    given = _model_name(base)
    if given is not None and (wanted := _model_name(own.base)) is not None and given != wanted:
        raise MismatchError(
            f"{own.file} was trained on {own.base}, and base={base} is another model ({given}): give base="
            f"{own.base}, or where that model is"
        )


def _model_name(name: str | Path) -> str | None:
    """The name of a model without its owner; of a directory, the one in its config, if there is any."""
    path = Path(name).expanduser()
    if path.exists():
        file = path / "config.json"
        known = hub_id(name)
        named = json.loads(file.read_text("utf-8") or "{}").get("_name_or_path") if file.is_file() else None
        name = known if known != str(name) else named or ""
    text = str(name)
    is_path = not text or text.startswith((".", "/", "~")) or text.count("/") > 1
    return None if is_path else text.rpartition("/")[2].lower()


def _wrapped(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names as in the state dict of the training wrapper."""
    for key, value in tensors.items():
        key = SAVED.sub(".", key)
        key = re.sub(r"\.lora_([AB])\.weight$", r".lora_\1.default.weight", key)
        yield (f"codi.{key}" if key.startswith(STEM) else key), value


def _projections(folder: Path) -> list[Path]:
    """Files beside an adapter that hold its projection."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.startswith(PROJECTIONS) and file.name.endswith(SUFFIXES)
    )


def _projection_in(file: Path) -> dict[str, Tensor]:
    """The projection's tensors by their names within it."""
    return {PROJECTION.sub("", key, count=1): value for key, value in tensors_in(file).items()}
