"""Which latents fire on a text or a problem: what `thoughtlens fire RUN "text"` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts import ActivationStore, made_with, thought_model
from thoughtlens.core import (
    BY_NAME,
    ConfigError,
    DataError,
    MismatchError,
    NotThereError,
    Record,
    read_parquet,
    require_run,
    warn,
)
from thoughtlens.latents.codes.member import member_thoughts
from thoughtlens.latents.codes.tokens import token_texts
from thoughtlens.models import ThoughtModel, block_outputs, collect, tiny
from thoughtlens.sae import POOLED, SAE, Crosscoder, differences, load_members, member_names

if TYPE_CHECKING:
    from thoughtlens.latents.codes.reading import TextReader

M = TypeVar("M")
DEFINITIONS = {
    "max": "activation of largest size of the latent over the positions of the text: its tokens without "
    "special ones, or its thoughts, at every hook",
    "latents_past_first": "the strongest over positions after the first, which in many models is an outlier",
    "l0": "mean over positions (and hooks) of the number of latents with activation != 0",
    "share_active": "share of all latents that fire on at least one position",
    "share_active_per_position": "l0 / d_sae",
    "everywhere": "flagged by interpret: fires on nearly everything, on first tokens or on outlier norms",
}


@dataclass(frozen=True, eq=False)
class Found:
    """One text with the latents of all its positions."""

    index: int
    positions: list[str]
    """A token, or `thought 3`."""
    acts: Float[Tensor, "hooks positions d_sae"]
    hook_names: list[str]
    """Of a crosscoder one, its hooks joined with "+"; over thoughts it has one position, too."""
    answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Firing(Record):
    """A latent on a text: its largest activation, and where that is."""

    latent: int
    max: float
    position: str
    position_idx: int
    hook_name: str
    n_positions: int
    """On which it fires."""
    everywhere: str | None
    """Why it counts as dense; None: it does not, or that is not known."""


@dataclass(frozen=True, kw_only=True)
class TextFirings(Record):
    """How many latents fire on a text, and which most strongly."""

    index: int
    text: str
    answer: str | None
    positions: list[str]
    n_positions: int
    l0: float
    l0_per_position: list[float]
    n_active: int
    share_active: float
    share_active_per_position: float
    latents: list[Firing]
    latents_past_first: list[Firing]


@dataclass(frozen=True, kw_only=True)
class Fired(Record):
    """What `fire` found."""

    run: str
    kind: str
    model: str
    hook_names: list[str]
    member: str
    d_sae: int
    definitions: dict[str, str]
    everywhere_known: bool
    shared_latents: list[int]
    texts: list[TextFirings]


def fire(run: str | Path, texts: Sequence[str], *, member: str | None = None, top: int = 10) -> Fired:
    """Run texts through a finished run's model and SAE.

    Args:
        run: A run directory with `acts` and `sae`; with `interpret`, dense latents are marked.
        texts: One or more texts.
        member: Which SAE, where the run has several; None: the pooled one, else the first.
        top: Strongest latents listed for each text.

    Returns:
        Per text its tokens, L0, share of active latents and strongest latents; and the latents that are
        among the strongest of every text.

    Raises:
        NotThereError: no such run, or a stage of it is missing.
        ConfigError: an unknown member.
        DataError: an empty text.
    """
    run = Path(run)
    if not (run / "acts").is_dir() and tiny.knows(run):
        name, text = quote(str(run)), quote(next(iter(texts), "A text."))
        raise ConfigError(
            f"{run} is a model, and latents are those of a run: thoughtlens run pilot model={name} --out "
            f"runs/pilot; what its thoughts are read as: thoughtlens think {name} {text}"
        )
    require_run(run)
    store = ActivationStore.open(run / "acts")
    name, sae = own_sae(run, store, member)
    flags = everywhere(run / "interpret", name, sae.d_sae)
    found = sorted(Eye(store).read(sae, texts), key=lambda one: one.index)
    described = [describe(one, texts[one.index], flags, top) for one in found]
    strongest = [{row.latent for row in one.latents} for one in described]
    return Fired(
        run=str(run),
        kind=store.meta.kind,
        model=store.meta.model,
        hook_names=found[0].hook_names,
        member=name,
        d_sae=sae.d_sae,
        definitions=DEFINITIONS,
        everywhere_known=flags is not None,
        shared_latents=sorted(set.intersection(*strongest)) if len(found) > 1 else [],
        texts=described,
    )


def render(fired: Fired) -> str:
    """The same for people."""
    unit = "token" if fired.kind == "text" else "thought"
    lines = [f"{fired.model}, {', '.join(fired.hook_names)}, SAE {fired.member}, {fired.d_sae:,} latents"]
    for one in fired.texts:
        n = one.n_positions
        lines += ["", repr(one.text)]
        if one.answer is not None:
            lines.append(f"  answer: {one.answer!r}")
        lines.append(
            f"  L0 {one.l0:.1f} latents per {unit}, {one.share_active_per_position:.2%} of all "
            f"(n = {n} {unit}s); {one.n_active:,} latents ({one.share_active:.1%}) "
            f"fire on at least one {unit}"
        )
        for row in one.latents:
            mark = f"  everywhere ({row.everywhere})" if row.everywhere else ""
            hook = f" at {row.hook_name}" if len(fired.hook_names) > 1 else ""
            lines.append(
                f"  {row.latent:>7}  max {row.max:8.3f} on {row.position!r:<14}{hook} "
                f"fires on {row.n_positions}/{n} {unit}s{mark}"
            )
        past = ", ".join(f"{row.latent} {row.max:.3g} {row.position!r}" for row in one.latents_past_first)
        lines.append(f"  past the first {unit}: {past or 'none'}")
    if len(fired.texts) > 1:
        names = ", ".join(map(str, fired.shared_latents)) or "none"
        lines += ["", f"Among the strongest of every text: {names}"]
    if not fired.everywhere_known:
        lines.append("Dense latents are not marked: the run has no interpret stage")
    return "\n".join(lines)


def own_sae(run: Path, store: ActivationStore, member: str | None) -> tuple[str, SAE]:
    """The SAE of a run that `pick` takes, of any kind; what it says of its data and the store does not is
    warned of.

    Raises:
        NotThereError: the run has none; says what makes it.
        MismatchError: it was trained on another model than the store's.
    """
    try:
        names = dict.fromkeys(member_names(run / "sae"))
    except NotThereError as error:
        raise NotThereError(f"{error}; make it first: {BY_NAME['train'].first(run)}") from None
    name, _ = pick(names, member)
    sae = load_members(run / "sae", joined=True, hooks=store.meta.d_in, only=[name])[name]
    if sae.provenance.get("model_digest") not in (None, store.meta.model_digest):
        raise MismatchError(f"The SAE in {run / 'sae'} was trained on another model than {store.meta.model}")
    for line in differences({name: sae}, store):
        warn(line)
    return name, sae


def pick(members: dict[str, M], member: str | None) -> tuple[str, M]:
    """The SAE of this name; of none, the pooled one or the first. ConfigError names those that there are."""
    name = member or (POOLED if POOLED in members else next(iter(members)))
    if name not in members:
        raise ConfigError(f"member: expected one of {', '.join(members)}, got {member!r}")
    return name, members[name]


def everywhere(interpret: Path, name: str, d_sae: int) -> list[str | None] | None:
    """Why each latent counts as firing everywhere (None: it does not); None without the table."""
    file = interpret / "latents.parquet"
    if not file.is_file():
        return None
    table = read_parquet(file, columns=["member", "latent", "everywhere_reason"]).to_pylist()
    flags: list[str | None] = [None] * d_sae
    for row in table:
        if row["member"] == name:
            flags[row["latent"]] = row["everywhere_reason"]
    return flags


class Eye:
    """The model behind a store, loaded when first needed and then kept: new texts as its SAEs see them."""

    def __init__(self, store: ActivationStore) -> None:
        self.store = store

    @cached_property
    def reader(self) -> TextReader:
        """Of a store of text."""
        from thoughtlens.latents.codes.reading import TextReader  # here: it loads transformers

        return TextReader.like(self.store)

    @cached_property
    def thinker(self) -> ThoughtModel:
        """Of a store of thoughts."""
        return thought_model(self.store)

    @property
    def max_new_tokens(self) -> int:
        """The longest answer of the store's extraction."""
        return made_with(self.store).max_new_tokens

    def read(self, sae: SAE, texts: Sequence[str]) -> Iterator[Found]:
        """Every text once, in any order.

        Raises:
            DataError: no texts, or one that the model cannot read.
            MismatchError: the model's weights are not those that made the store.
        """
        return (self._texts if self.store.meta.kind == "text" else self._thoughts)(sae, texts)

    def _texts(self, sae: SAE, texts: Sequence[str]) -> Iterator[Found]:
        for reading in self.reader.read(texts, sae.hook_names):
            names = token_texts(self.reader.lm.tokenizer, reading.token_ids)
            tokens = [names[int(t)] for t in reading.token_ids]
            x = torch.stack([reading.acts[hook] for hook in sae.hook_names])
            yield _encoded(sae, x, [None] * len(tokens), tokens, reading.index)

    def _thoughts(self, sae: SAE, questions: Sequence[str]) -> Iterator[Found]:
        places = block_outputs(sae.hook_names, self.thinker.spec.n_layers)
        thoughts = member_thoughts(self.store, sae) or []
        batch = collect(
            self.thinker, questions, places=places, answers=True, max_new_tokens=self.max_new_tokens,
            positions=[t for t in thoughts if t not in self.thinker.spec.thoughts],
        )  # fmt: skip
        answers = batch.answers.text if batch.answers is not None else []
        had = batch.had(len(self.thinker.spec.thoughts))
        for i, question in enumerate(questions):
            own = [t for t in thoughts if had[i, batch.at(t)]]
            if len(own) < len(thoughts) and isinstance(sae, Crosscoder) and sae.cfg.over == "thoughts":
                raise DataError(
                    f"This crosscoder reads thoughts {thoughts[0]} to {thoughts[-1]} together, and "
                    f"{question[:40]!r} stops after thought {len(own) - 1}"
                )
            x = torch.stack([batch[place][i, [batch.at(t) for t in own]] for place in places])
            known = self.thinker.spec.thoughts
            names = [f"thought {t}" if t in known else f"position {t}" for t in own]
            yield _encoded(sae, x, own, names, i, answer=answers[i])


@torch.no_grad()
def _encoded(
    sae: SAE,
    x: Float[Tensor, "hooks positions d_in"],
    thoughts: Sequence[int | None],
    positions: list[str],
    index: int,
    *,
    answer: str | None = None,
) -> Found:
    x = x.to(sae.W_enc.dtype)
    if isinstance(sae, Crosscoder):
        over_layers = sae.cfg.over == "layers"
        acts = sae.encode(x.transpose(0, 1) if over_layers else x)[None].float()
        positions = positions if over_layers else [f"{positions[0]} to {positions[-1]}"]
        return Found(index, positions, acts, ["+".join(sae.hook_names)], answer)
    at = np.arange(len(positions))
    cells = [[(hook, thought) for thought in thoughts] for hook in sae.hook_names]
    acts = [sae.encode(one, sae.cell_index(of, at)).float() for of, one in zip(cells, x, strict=True)]
    return Found(index, positions, torch.stack(acts), list(sae.hook_names), answer)


def describe(one: Found, text: str, flags: list[str | None] | None, top: int) -> TextFirings:
    """The numbers of one text: how many latents fire, and which `top` of them most strongly."""
    d_sae = one.acts.shape[-1]
    fires = (one.acts != 0).any(0)
    n_active = int(fires.any(0).sum())
    per_position = (one.acts != 0).sum(-1).float().mean(0)

    def rows(first: int) -> list[Firing]:
        return [
            Firing(
                latent=latent,
                max=value,
                position=one.positions[at],
                position_idx=at,
                hook_name=one.hook_names[hook],
                n_positions=int(fires[:, latent].sum()),
                everywhere=flags[latent] if flags else None,
            )
            for latent, value, hook, at in _strongest(one, first, top)
        ]

    return TextFirings(
        index=one.index,
        text=text,
        answer=one.answer,
        positions=one.positions,
        n_positions=len(one.positions),
        l0=float(per_position.sum() / max(len(per_position), 1)),
        l0_per_position=per_position.tolist(),
        n_active=n_active,
        share_active=n_active / d_sae,
        share_active_per_position=float(per_position.sum() / max(len(per_position), 1)) / d_sae,
        latents=rows(0),
        latents_past_first=rows(1),
    )


def _strongest(one: Found, first: int, top: int) -> list[tuple[int, float, int, int]]:
    """Latent, activation, hook and position of the strongest latents, of either sign, from `first` on."""
    acts = one.acts[:, first:]
    if not acts.shape[1]:
        return []
    flat = acts.flatten(0, 1)
    size, at = flat.abs().max(0)
    order = np.lexsort((np.arange(len(size)), -size.numpy()))[:top].tolist()
    n = acts.shape[1]
    return [(j, float(flat[at[j], j]), int(at[j]) // n, int(at[j]) % n + first) for j in order if size[j] > 0]
