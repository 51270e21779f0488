"""The model behind a store: opened with every setting that the store was made with, its weights compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.store.meta import places_said
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.acts.store.settings import imported, made_with
from thoughtlens.core import (
    ConfigError,
    HookError,
    MismatchError,
    NotThereError,
    ResourceError,
    StoreError,
    choose_device,
    read_json,
    require_sound,
    warn,
)
from thoughtlens.models import ModelConfig, ThoughtModelConfig
from thoughtlens.problems import Cutter, bos_id

if TYPE_CHECKING:
    from thoughtlens.models import LanguageModel, ThoughtModel

REMEDY = "extract again, or restore the model"
RECORDED = ("n_thoughts", "lora_alpha", "eos_before", "eos_after", "projection")
"""Settings of a thought model that a store's own result keeps."""


def cutter_of(lm: LanguageModel, cfg: ExtractConfig) -> Cutter:
    """How an extraction cuts the texts that the model reads, and which tokens give rows."""
    return Cutter(
        context_length=cfg.context_length,
        bos=bos_id(lm.tokenizer, cfg.bos),
        dropped=frozenset(lm.special_ids if cfg.drop_special else ()),
        max_windows=cfg.max_windows,
    )


def language_model(
    store: ActivationStore, chosen: ModelConfig | None = None, *, remedy: str = REMEDY
) -> LanguageModel:
    """The language model that made a store of text.

    Args:
        store: The store.
        chosen: Another model to open in its place; its weights must be the store's.
        remedy: What the caller's user can do about a mismatch.

    Raises:
        NotThereError: the model is not where the store says.
        MismatchError: its weights or its tokenizer are not those that made the store.
        StoreError: the store holds thoughts, or does not say which weights made it and no model is chosen.
    """
    from thoughtlens.models import load  # here: it loads transformers, which few stages need

    _require_kind(store, "text")
    _require_known(store, chosen)
    cfg = _opened(store, made_with(store).model, chosen)
    lm = load(**cfg.model_dump())
    _require_same(store, lm, chosen, remedy)
    return lm


def thought_model(
    store: ActivationStore, chosen: ModelConfig | None = None, *, remedy: str = REMEDY
) -> ThoughtModel:
    """The thought model that made a store of thoughts; arguments and errors as of `language_model`."""
    _require_kind(store, "thoughts")
    _require_known(store, chosen)
    cfg = _as_recorded(store, made_with(store))
    model = open_thoughts(_opened(store, cfg.model, chosen), cfg)
    _require_same(store, model, chosen, remedy)
    return model


def open_thoughts(model: ModelConfig, cfg: ThoughtModelConfig) -> ThoughtModel:
    """The thought model of that name, opened as `cfg` says.

    Raises:
        ConfigError: a model with several positions per thought, which a store has no rows for.
    """
    from thoughtlens.models import thoughts  # here: it loads transformers

    found = thoughts.load(**model.model_dump(), **cfg.thought_options())
    if found.spec.positions_per_thought != 1:
        raise ConfigError(
            f"{model.name} works on several positions per pass, and a store has one row per pass; "
            f"use models.thoughts.collect"
        )
    return found


def _as_recorded(store: ActivationStore, cfg: ExtractConfig) -> ExtractConfig:
    """With what was stated or assumed when the store was made, wherever its settings leave something open."""
    file = store.root / "result.json"
    require_sound([file])
    recorded = (read_json(file).get("model_settings") if file.is_file() else None) or {}
    known = {name: value for name, value in recorded.items() if name in RECORDED and value is not None}
    return cfg.model_copy(update=known | cfg.thought_options())


def _require_kind(store: ActivationStore, kind: str) -> None:
    if store.meta.kind != kind:
        what = "texts" if kind == "text" else kind
        raise StoreError(f"Expected activations of {what} in {store.root}, got {store.meta.kind}")


def _require_known(store: ActivationStore, chosen: ModelConfig | None) -> None:
    """See that a store says, or somebody chose, which model it is of, and where its hooks are in it.

    Raises:
        NotThereError: imported activations of no named model.
        HookError: a model is chosen, and hooks are not resolved.
    """
    if chosen is None and not store.meta.model:
        raise NotThereError(
            f"the activations in {store.root} were imported and nobody said of which model, so nothing can "
            f"be run through it; to say it: {places_said(store.meta, store.root)}"
        )
    if store.meta.unresolved:
        error = NotThereError if chosen is None else HookError
        raise error(
            f"nobody said which places of the model {', '.join(store.meta.unresolved)} of {store.root} are; "
            f"to say it, or wherever they were read: {places_said(store.meta, store.root)}"
        )


def _opened(store: ActivationStore, own: ModelConfig, chosen: ModelConfig | None) -> ModelConfig:
    """The model to open: whatever of the chosen one is not set is as the store was made.

    Another number format than the store's is said, since numbers of it are not of the store's states; so is
    one that nobody knows.
    """
    if not (store.root / "config.toml").is_file() and not store.meta.reading:
        warn(f"{store.root} does not say what its model computed in: float32 is assumed")
    if chosen is None:
        return _here(own)
    given = {name: getattr(chosen, name) for name in chosen.model_fields_set}
    if given.get("dtype", own.dtype) != own.dtype:
        warn(
            f"{store.root} was made in {own.dtype}, and {chosen.name} is run in {chosen.dtype}, as asked for"
        )
    if given.get("name", own.name) != own.name:
        given = {"revision": None} | given
    found = own.model_copy(update=given)
    return found if "device" in given else _here(found)


def _here(cfg: ModelConfig) -> ModelConfig:
    """The same on a device of this machine."""
    try:
        choose_device(cfg.device)
    except ResourceError as error:
        warn(f"{cfg.name} was run on another machine: {error}; it runs on cpu now")
        return cfg.model_copy(update={"device": "cpu"})
    return cfg


def _require_same(
    store: ActivationStore, model: LanguageModel | ThoughtModel, chosen: ModelConfig | None, remedy: str
) -> None:
    """Refuse other weights than the store's, and weights that nobody vouches for."""
    meta = store.meta
    if meta.model_digest is None and chosen is None and imported(store):
        warn(f"{store.root} was imported as of {meta.model}; whether its weights are these was not compared")
    elif meta.model_digest is None and chosen is None:
        raise StoreError(
            f"{store.root} does not say which weights of {meta.model} made it (meta.json has no "
            f"model_digest): {remedy}"
        )
    for what, mine, theirs in (
        ("weights", model.digest, meta.model_digest),
        ("tokenizer", model.tokenizer_digest, meta.tokenizer_digest),
        ("settings", model.config_hash, meta.config_hash if chosen is None or meta.kind == "text" else None),
    ):
        if theirs is not None and mine != theirs:
            raise MismatchError(
                f"The activations in {store.root} come from other {what} of {meta.model} than {model.name} "
                f"has now ({theirs[:12]} there, {str(mine)[:12]} here): {remedy}"
            )
