"""What an SAE says of the activations it was trained on, kept with it and compared where it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thoughtlens.acts import ActivationStore, made_with, says_how
from thoughtlens.core import Json, Record, StoreError
from thoughtlens.sae.formats.settings import Count, Ids, Switch, Table, Text
from thoughtlens.sae.formats.sites import model_type, short
from thoughtlens.sae.kinds.base import SAE

KEY = "says"
"""Where it stands in an SAE's provenance."""
PROCESSING = {
    "center_writing_weights": "the stream with each row's mean taken off",
    "fold_value_biases": "values without their biases",
    "refactor_factored_attn_matrices": "rotated heads",
}
"""Changes that TransformerLens makes to a model's weights, by what its activations become. Those of its norms
(`fold_ln`) change no place that has a hook here."""
WRITTEN = re.compile(r"layers\.\d+:in|.*:out")
"""Hooks at the stream, or at what is added to it."""
SAME_MODELS = {"gpt2-small": "gpt2", "distillgpt2": "distilgpt2", "mistral-7b": "mistral-7b-v0.1"}
"""TransformerLens's names of some models, and the hub's."""


@dataclass(frozen=True, kw_only=True)
class Says(Record):
    """Of the activations that an SAE was trained on; None where it does not say it."""

    model: Text = None
    prepend_bos: Switch = None
    """Whether a begin-of-sequence token stood before each text."""
    context_size: Count = None
    """Tokens that the model saw at once."""
    exclude_special_tokens: Ids = None
    """Whether positions of special tokens were left out, or which token ids."""
    dataset: Text = None
    model_class: Text = None
    """Class that the hook's name is of: SAELens's `model_class_name`."""
    processing: Table = field(default_factory=dict)
    """How TransformerLens changed the model's weights: its `from_pretrained_kwargs`."""
    head: Count = None
    """The one head that was read."""

    def kept(self) -> Json:
        """What is said, as it stands in a provenance."""
        return {key: value for key, value in self.to_json().items() if value not in (None, {})}

    def over(self, other: Says) -> Says:
        """The same, and where it is silent what another says."""
        return Says(**(other.kept() | self.kept()))


def said(provenance: Json) -> Says:
    """What a provenance keeps of it; nothing of one that is damaged."""
    found = provenance.get(KEY)
    try:
        return Says.from_json(found) if isinstance(found, dict) else Says()
    except StoreError:
        return Says()


def of_store(store: ActivationStore) -> Says:
    """What an SAE trained on a store of text can say; of thoughts or a foreign store, the model alone."""
    if store.meta.kind != "text" or not says_how(store):
        return Says(model=store.meta.model or None)
    cfg = made_with(store)
    return Says(
        model=store.meta.model,
        prepend_bos=_begins_with_bos(store, cfg.bos, cfg.drop_special),
        context_size=cfg.context_length,
        exclude_special_tokens=cfg.drop_special,
        dataset=getattr(cfg.problems, "source", None) if "problems" in cfg.model_fields_set else None,
    )


def differences(members: Mapping[str, SAE], store: ActivationStore) -> list[str]:
    """How a store differs from what SAEs say that they were trained on, a line each."""
    return [f"{name}: {text}" for name, sae in members.items() for text in _differences(sae, store)]


def of_another_model(sae: SAE, store: ActivationStore) -> str | None:
    """What an SAE was trained with and this store was not: model, module, or count of thoughts."""
    known = sae.provenance
    pairs = {
        "the model with digest": (known.get("model_digest"), store.meta.model_digest),
        "the thought convention": (known.get("thought_convention"), store.meta.thought_convention),
    }
    for hook in sae.hook_names:
        pairs[f"{hook} as module"] = ((known.get("modules") or {}).get(hook), store.meta.modules.get(hook))
    for what, (mine, theirs) in pairs.items():
        if mine is not None and theirs is not None and mine != theirs:
            return f"trained with {what} {mine}, {store.root} holds {theirs}"
    return None


def _differences(sae: SAE, store: ActivationStore) -> list[str]:
    own = said(sae.provenance)
    found = [f"it was trained on {text}; no hook here gives that" for text in _processed(own, sae)]
    if other := of_another_model(sae, store):
        found.append(f"it was {other}")
    if own == Says():
        return found
    here = of_store(store)
    if own.model and store.meta.model and not same_name(own.model, store.meta.model):
        found.append(f"it was trained on {own.model}, and this store is of {store.meta.model}")
    if None not in (own.prepend_bos, here.prepend_bos) and own.prepend_bos != here.prepend_bos:
        with_ = ("without", "with")
        found.append(
            f"it was trained {with_[bool(own.prepend_bos)]} a begin-of-sequence token before each text, and "
            f"this store was extracted {with_[bool(here.prepend_bos)]} one (extract.bos)"
        )
    if own.context_size and here.context_size and own.context_size < here.context_size:
        found.append(
            f"it was trained on windows of {own.context_size} tokens, and this store has up to "
            f"{here.context_size} (extract.context_length): later positions are new to it"
        )
    if own.exclude_special_tokens and here.exclude_special_tokens is False:
        found.append(
            "it was trained without the positions of special tokens, and this store has them "
            "(extract.drop_special)"
        )
    return found


def _processed(own: Says, sae: SAE) -> list[str]:
    written = any(WRITTEN.fullmatch(hook) for hook in sae.hook_names)
    return [
        f"{text} (TransformerLens's {key})"
        for key, text in PROCESSING.items()
        if own.processing.get(key) is True and (key == "center_writing_weights") == written
    ]


def same_name(name: str, here: str) -> bool:
    """Whether a name may mean the model here; one in a folder of another name counts by architecture."""
    if _plain(name) == _plain(here):
        return True
    types = model_type(name), model_type(here)
    return Path(here).is_dir() and (None in types or types[0] == types[1])


def _plain(model: str) -> str:
    name = re.sub(r"^meta-|-hf$", "", short(model))
    return SAME_MODELS.get(name, name)


def _begins_with_bos(store: ActivationStore, bos: str, drop_special: bool) -> bool | None:
    """Whether windows began with the token: then its position, the first, gives no row where special ones are
    dropped."""
    if bos != "tokenizer":
        return bos == "always"
    if not drop_special or "position" not in store.rows.column_names:
        return None
    position = store.rows["position"].to_numpy()
    return bool(position.min() > 0) if len(position) else None
