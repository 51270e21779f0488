"""A text in a language model: as it is, with single changes, and with all that lies between held still."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from thoughtlens.core import HookError
from thoughtlens.models import LanguageModel, replace
from thoughtlens.tracing.text_graph.sites import EMBED, Site

OUTLIER = 10
"""Times the median norm of a text's words."""
ALL = -1
"""In the place of a position: wherever the latent fires, at all words."""


class Spot(NamedTuple):
    """A node: a latent, what a dictionary leaves unexplained, a word, or the answer."""

    kind: str
    site: int = -1
    """Of the sites in their order; -1: the words; one past the last: the answer."""
    position: int = ALL
    latent: int = -1


class Passed(NamedTuple):
    """What a forward pass gave."""

    read: list[Float[Tensor, "n seq _"]]
    """By site, what it reads."""
    logits: Float[Tensor, "n vocab"]
    """Of the token after the last, about their mean."""


Change = Callable[[int, Tensor], Tensor]
"""What a place (0: the words, then the sites) writes, changed."""


def passed(
    lm: LanguageModel,
    sites: Sequence[Site],
    ids: Int[Tensor, "n seq"],
    change: Change,
    read: dict[int, Tensor] | None = None,
) -> Passed:
    """One forward pass, everything that the words and the sites write being changed; `read` takes up, by
    site, what it reads.

    Raises:
        HookError: a hook that the model does not have, or that is not passed.
    """
    read = {} if read is None else read
    with ExitStack() as stack:
        for i, site in enumerate(sites):
            stack.enter_context(replace(lm.model, site.reads, _keeping(read, i)))
        for place, hook in enumerate([EMBED, *(site.writes for site in sites)]):
            stack.enter_context(replace(lm.model, hook, lambda y, place=place: change(place, y)))
        logits = lm.model(input_ids=ids, use_cache=False, **_last_only(lm)).logits[:, -1].float()
    return Passed([read[i] for i in range(len(sites))], logits - logits.mean(-1, keepdim=True))


def _last_only(lm: LanguageModel) -> dict[str, int]:
    """What spares a model the logits of all other tokens, where it can be told so."""
    return {"logits_to_keep": 1} if "logits_to_keep" in signature(lm.model.forward).parameters else {}


def in_order(lm: LanguageModel, sites: Sequence[Site], ids: Int[Tensor, "1 seq"]) -> list[Site]:
    """The sites in the order in which the model writes there.

    Raises:
        HookError: a transcoder that predicts a hook before the one that it reads.
    """
    order: list[int] = []

    def note(place: int, y: Tensor) -> Tensor:
        if place not in order:
            order.append(place)
        return y

    with torch.no_grad():
        passed(lm, sites, ids, note)
    return [sites[place - 1] for place in order if place]


class Frozen(TorchFunctionMode):
    """Within it softmaxes, attention's among them, and the scales of norms count as constants."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The function's value, with the gradient of its linear part alone."""
        kwargs = kwargs or {}
        if func in (F.layer_norm, torch.layer_norm):
            return _layer_norm(*args, **kwargs)
        if func in (F.rms_norm, torch.rms_norm):
            return _rms_norm(*args, **kwargs)
        found = func(*args, **kwargs)
        return found.detach() if func in (F.softmax, torch.softmax, Tensor.softmax, torch.rsqrt) else found


def _layer_norm(
    x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    about = x - x.mean(-1, keepdim=True)
    y = about * (about.square().mean(-1, keepdim=True) + eps).rsqrt().detach()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _rms_norm(x: Tensor, shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    y = x * (x.square().mean(-1, keepdim=True) + eps).rsqrt().detach()
    return y if weight is None else y * weight


@dataclass(frozen=True, eq=False)
class Text:
    """A text as the model reads it untouched."""

    lm: LanguageModel
    sites: Sequence[Site]
    ids: Int[Tensor, " seq"]
    known: Bool[Tensor, " seq"]
    """Tokens that dictionaries were trained on, and no outliers; of others all counts as error."""
    target: int
    """Token whose logit is the answer."""
    written: list[Float[Tensor, "seq _"]]
    """By place (the words, then the sites)."""
    read: list[Float[Tensor, "seq _"]]
    acts: list[Float[Tensor, "seq _"]]
    logits: Float[Tensor, " vocab"]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        lm: LanguageModel,
        sites: Sequence[Site],
        ids: Int[Tensor, " seq"],
        known: Bool[Tensor, " seq"],
        target: int | None,
    ) -> Text:
        """Run it; `target` None: the likeliest token."""
        written: dict[int, Tensor] = {}

        def keep(place: int, y: Tensor) -> Tensor:
            written[place] = y[0].clone()
            return y

        run = passed(lm, sites, ids[None], keep)
        read = [x[0] for x in run.read]
        known = known & ~torch.stack([_outliers(x) for x in read]).any(0)
        seen = {site.reads: x for site, x in zip(sites, read, strict=True)}
        acts = [torch.where(known[:, None], site.encode(seen), 0) for site in sites]
        chosen = int(run.logits[0].argmax()) if target is None else target
        places = [written[i] for i in range(len(sites) + 1)]
        return cls(lm, sites, ids, known, chosen, places, read, acts, run.logits[0])

    @property
    def probability(self) -> float:
        """Of the answer."""
        return float(self.logits.softmax(-1)[self.target])

    @cached_property
    def errors(self) -> list[Float[Tensor, "seq _"]]:
        """By site, what its dictionary leaves unexplained."""
        parts = zip(self.sites, self.written[1:], self.acts, self.read, strict=True)
        return [y - site.decode(acts, x) for site, y, acts, x in parts]

    @cached_property
    def usual(self) -> Float[Tensor, " d"]:
        """The mean of all words as they enter."""
        embed = self.lm.model.get_input_embeddings()
        ids = torch.arange(embed.weight.shape[0], device=self.ids.device)  # type: ignore[union-attr,index]
        parts = [embed(part).float().sum(0) for part in ids.split(4096)]  # type: ignore[operator]
        return torch.stack(parts).sum(0) / len(ids)

    def positions(self, spot: Spot) -> Int[Tensor, " n"]:
        """Where a node is."""
        if spot.position != ALL:
            return torch.tensor([spot.position])
        if spot.kind == "latent":
            return self.acts[spot.site][:, spot.latent].nonzero()[:, 0]
        return torch.arange(len(self.ids))

    def removal(self, spot: Spot) -> Float[Tensor, "seq d"]:
        """The change of what its place writes when a node is taken away: a latent set to 0, an error set to
        0, a word replaced by the mean of all words."""
        at, place = self.positions(spot), spot.site + 1
        change = torch.zeros_like(self.written[place])
        if spot.kind == "token":
            change[at] = self.usual - self.written[0][at]
        elif spot.kind == "error":
            change[at] = -self.errors[spot.site][at]
        elif len(at):
            site, acts, x = self.sites[spot.site], self.acts[spot.site][at], self.read[spot.site][at]
            without = acts.clone()
            without[:, spot.latent] = 0
            change[at] = site.decode(without, x) - site.decode(acts, x)
        return change

    def readings(self, run: Passed, targets: Sequence[Spot]) -> Float[Tensor, "n targets"]:
        """What each target has in a run: pre-activations where it fires, added up; the answer's logit."""
        n = len(run.logits)
        found = run.logits.new_zeros(n, len(targets))
        by_site: dict[int, list[int]] = {}
        for i, spot in enumerate(targets):
            by_site.setdefault(spot.site, []).append(i)
        for site, which in by_site.items():
            if targets[which[0]].kind == "answer":
                found[:, which] = run.logits[:, [self.target]]
                continue
            where = found.new_zeros(len(self.ids), len(which))
            for column, i in enumerate(which):
                where[self.positions(targets[i]), column] = 1
            pre = self.sites[site].pre(run.read[site], [targets[i].latent for i in which])
            found[:, which] = (pre * where).sum(1)
        return found

    @cached_property
    def untouched(self) -> Passed:
        """The run as it is."""
        return Passed([x[None] for x in self.read], self.logits[None])

    def has(self, targets: Sequence[Spot]) -> Float[Tensor, " targets"]:
        """What each target has in the untouched run; of a crosscoder's site the whole activation, 0 where it
        is not there."""
        found = self.readings(self.untouched, targets)[0]
        for i, spot in enumerate(targets):
            if spot.kind == "latent" and self.sites[spot.site].shares_code:
                found[i] = self.acts[spot.site][self.positions(spot), spot.latent].sum()
        return found

    def run(self, changes: Sequence[tuple[int, Tensor]], *, held: bool) -> Passed:
        """A row for each change (place, and what is added there).

        Held, every place writes what it writes in the untouched run but for the change: what a later site
        then reads, and the answer, has come straight from there.
        """
        rows: dict[int, Tensor] = {}
        for i, (place, change) in enumerate(changes):
            rows.setdefault(place, change.new_zeros(len(changes), *change.shape))[i] = change

        def write(place: int, y: Tensor) -> Tensor:
            y = self.written[place].expand_as(y) if held else y
            return y + rows[place] if place in rows else y

        return passed(self.lm, self.sites, self.ids.expand(len(changes), -1), write)

    @torch.no_grad()
    def skipped(self, layers: Sequence[int]) -> float:
        """Share of the answer that goes when these blocks pass on what comes in, and every dictionary's hook
        is held as it was: what the blocks give it straight."""
        came = dict[int, Tensor]()
        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(replace(self.lm.model, f"layers.{layer}:in", _keeping(came, layer)))
                stack.enter_context(
                    replace(self.lm.model, f"layers.{layer}:out", lambda _, layer=layer: came[layer])
                )
            run = passed(
                self.lm, self.sites, self.ids[None], lambda place, y: self.written[place].expand_as(y)
            )
        return 1 - float(run.logits[0, self.target] / self.logits[self.target])

    def slopes(self, targets: Sequence[Spot]) -> list[Float[Tensor, "targets seq _"]]:
        """By place, the gradient of what targets read straight from there, attention and norms frozen."""
        leaves = [
            y.new_zeros(len(targets), *y.shape).requires_grad_(True)  # a row for each target
            for y in self.written
        ]
        with torch.enable_grad(), Frozen():
            run = passed(
                self.lm,
                self.sites,
                self.ids.expand(len(targets), -1),
                lambda place, y: self.written[place].expand_as(y) + leaves[place],
            )
            total = self.readings(run, targets).diagonal().sum()
            found = torch.autograd.grad(total, leaves, allow_unused=True)
        return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]

    def foretold(
        self, target: Spot, slopes: Sequence[Float[Tensor, "seq _"]], merged: bool
    ) -> Iterator[tuple[Spot, float]]:
        """What the slope says that each source gives a target, in its units; `merged`: over positions."""
        words = ((self.written[0] - self.usual) * slopes[0]).sum(-1)
        yield from _spots("token", -1, words, merged)
        for i, site in enumerate(self.sites[: max(target.site, 0)]):
            yield from _spots("error", i, (self.errors[i] * slopes[i + 1]).sum(-1), merged)
            acts = self.acts[i].detach().requires_grad_(True)
            with torch.enable_grad():
                wrote = (site.decode(acts, self.read[i]) * slopes[i + 1]).sum()
                (by_latent,) = torch.autograd.grad(wrote, acts)
            given = (by_latent * self.acts[i]).to_sparse().coalesce()
            sums: dict[Spot, float] = {}
            for (position, latent), value in zip(
                given.indices().T.tolist(), given.values().tolist(), strict=True
            ):
                spot = Spot("latent", i, ALL if merged else position, latent)
                sums[spot] = sums.get(spot, 0.0) + value
            yield from sums.items()


def _outliers(x: Float[Tensor, "seq d"]) -> Bool[Tensor, " seq"]:
    """Words whose norm is far from that of the others, as the first one's is in many models."""
    norm = x.norm(dim=-1)
    return norm > OUTLIER * norm.median()


def _spots(kind: str, site: int, given: Float[Tensor, " seq"], merged: bool) -> Iterator[tuple[Spot, float]]:
    if merged:
        yield Spot(kind, site), float(given.sum())
    else:
        yield from ((Spot(kind, site, position), value) for position, value in enumerate(given.tolist()))


def _keeping(read: dict[int, Tensor], i: int) -> Callable[[Tensor], Tensor]:
    def keep(x: Tensor) -> Tensor:
        read[i] = x.float()
        return x

    return keep


def require_floats(text: Text) -> None:
    """Refuse a text on which the model gives no numbers, or the answer no logit of its own.

    Raises:
        HookError: logits that are not finite, or an answer whose logit is the mean of all.
    """
    if not bool(torch.isfinite(text.logits).all()):
        raise HookError("The model's logits are not finite on this text: no edge of it can be measured")
    if not text.logits[text.target]:
        raise HookError(
            "The answer's logit is the mean of all logits on this text, so nothing makes it: ask about "
            "another token with --target"
        )
