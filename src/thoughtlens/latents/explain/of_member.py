"""One SAE's latents, batch by batch, so that an interrupted stage loses one batch at most."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from thoughtlens.core import (
    CheckpointError,
    ConfigError,
    HookError,
    MismatchError,
    NotThereError,
    Number,
    Parts,
    ResourceError,
    StoreError,
    progress,
    to_table,
)
from thoughtlens.latents.codes.labels import not_told_apart
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.codes.tokens import load_tokenizer, token_texts
from thoughtlens.latents.explain.columns import Columns
from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.corpus import Corpus
from thoughtlens.latents.explain.endpoint import Endpoint
from thoughtlens.latents.explain.llm import Explainer
from thoughtlens.latents.explain.meanings import METHOD, WELL, Meanings, n_live
from thoughtlens.latents.explain.methods import LLM, Acts, Fitted, Graphs, Lookup, Method, OverColumns
from thoughtlens.latents.explain.probes import probe_of
from thoughtlens.latents.explain.records import (
    ExplainedMember,
    ExplainedPart,
    ExplanationRow,
    GraphRow,
    PartSize,
)
from thoughtlens.latents.explain.scores import auprc, best_threshold, interval, score, verdict_of
from thoughtlens.latents.explain.statements import Known
from thoughtlens.numerics import give_back_freed_memory

TIE = 0.01
"""Validation AUPRC within which the shorter text is shown."""
NO_MODEL = (
    CheckpointError, ConfigError, HookError, MismatchError, NotThereError, ResourceError, StoreError,
)  # fmt: skip
"""Why a store's model may be out of reach; the other methods need none."""


class MemberExplainer:
    """Explains one SAE; its batches are parts of the stage.

    Raises:
        ConfigError: a latent that the SAE does not have.
    """

    def __init__(self, corpus: Corpus, endpoint: Endpoint | None, known: Known, *, shown: bool) -> None:
        self.corpus, self.cfg, self.member, self.shown = corpus, corpus.cfg, corpus.member, shown
        self.eligible = corpus.eligible()
        self.names = _names(corpus)
        self.meanings = Meanings(corpus, self.names, known) if METHOD in self.cfg.methods else None
        self.said = self._say()
        well = [i for i, row in self.said.items() if row.validation_auprc >= WELL]
        self.latents, self.warnings = chosen_latents(corpus.cfg, corpus.member, self.eligible, well)
        if not set(self.cfg.methods) - {METHOD}:
            self.latents = []
        self.lookup = Lookup(corpus, self.names)
        self.methods = self._methods(endpoint) if self.latents else {}

    def explain(self, parts: Parts, number: int) -> ExplainedPart:
        """Write a pair of tables for each batch of latents, and say what was done."""
        for key in parts.todo([said_part(number)]):
            rows = [row for latent, row in self.said.items() if latent not in self.latents]
            parts.write_table(key, "graphs", to_table(GraphRow, []))
            parts.write_table(key, "explanations", to_table(ExplanationRow, rows))
            parts.finish(key, {})
        own = batches(number, len(self.latents), self.cfg.batch_latents)
        unit = "latents" if self.member.sae.directions is None else "ends"
        with progress(f"explain {self.member.name}", len(self.latents), unit) as bar:
            for key in parts.todo(own):
                self._write(self.latents[own[key]], parts, key)
                bar.advance(len(self.latents[own[key]]))
        if n := sum(parts.summary(key).get("unreadable", 0) for key in own):
            self.warnings.append(
                f"{self.member.name}: the LLM's replies to {n} questions could not be read; what they were "
                f"about is left out of its scores"
            )
        sizes = zip(("fit", "validation", "test"), self.corpus.parts, strict=True)
        summary = ExplainedMember(
            member=self.member.name,
            hook_names=self.member.hook_names,
            d_sae=self.member.sae.d_sae,
            n_eligible=int(self.eligible.sum()),
            n_explained=len({*self.said, *self.latents}),
            n_graphs=len(self.latents) if "token_graph" in self.methods else 0,
            parts={name: PartSize(split=p.split, n=p.n, n_units=p.n_units) for name, p in sizes},
            n_refined=len(self.latents),
            n_live=n_live(self.corpus.parts),
            n_live_thinking=n_live(self.corpus.parts, [self.corpus.thinking(p) for p in self.corpus.parts]),
            n_fires_thinking=int(self.corpus.thinking(self.corpus.test)[self.corpus.test.acts.indices].sum()),
            nulls=self._nulls(),
        )
        return ExplainedPart(summary=summary, warnings=self.warnings)

    def _nulls(self) -> dict[str, Number]:
        """Of the SAE that is shown; one of the methods may hold a model, whose memory they need."""
        if self.meanings is None or not self.shown:
            return {}
        self.methods = {}
        gc.collect()  # a model refers to itself
        give_back_freed_memory()
        return self.meanings.nulls()

    def _say(self) -> dict[int, ExplanationRow]:
        """What every latent says, or each of those asked for."""
        if self.meanings is None:
            return {}
        asked = (
            range(self.member.sae.d_sae) if self.cfg.latents is None else {*self.cfg.latents, *self.cfg.also}
        )
        latents = [i for i in asked if i < len(self.eligible) and self.eligible[i]]
        return {row.latent: row for row in self.meanings.rows(latents)}

    def _methods(self, endpoint: Endpoint | None) -> dict[str, Method]:
        """Those asked for, by name: first those that need neither a model nor an endpoint."""
        cfg, found = self.cfg, dict[str, Method]()
        columns = Columns(self.corpus, self.names) if {"windows", "rules"} & set(cfg.methods) else None
        self.warnings += not_told_apart(columns.labels) if columns is not None else []
        for name in cfg.methods:
            if name == "token":
                found[name] = self.lookup
            elif columns is not None and name in ("windows", "rules"):
                found[name] = OverColumns(name, columns)
        if "token_graph" in cfg.methods:
            try:
                found["token_graph"] = Graphs(self.corpus, self.names, probe_of(self.corpus))
            except NO_MODEL as error:
                self.warnings.append(
                    f"{self.member.name}: no token graphs, the model cannot be run on edited text: {error}"
                )
        if endpoint is not None:
            explainer = Explainer(endpoint, self.corpus, self.names)
            found["llm"] = LLM(explainer, self.latents[: endpoint.cfg.max_latents])
        return found

    def _write(self, batch: list[int], parts: Parts, key: str) -> None:
        for method in self.methods.values():
            method.prepare(batch)
        rows = [row for latent in batch for row in self._rows(latent)]
        graphs, member = self.methods.get("token_graph"), self.member.name
        drawn = [
            GraphRow(member=member, latent=i, graph=json.dumps(graph.drawing(self.names), ensure_ascii=False))
            for i, graph in (graphs.graphs.items() if isinstance(graphs, Graphs) else ())
        ]
        parts.write_table(key, "graphs", to_table(GraphRow, drawn))
        parts.write_table(key, "explanations", to_table(ExplanationRow, rows))
        llm = self.methods.get("llm")
        parts.finish(key, {"unreadable": llm.take_unreadable() if isinstance(llm, LLM) else 0})

    def _rows(self, latent: int) -> list[ExplanationRow]:
        """A row for each method that explains this latent; the best by the validation problems is shown."""
        own = Acts.of(self.corpus, latent)
        other = own.twin(self.corpus)
        lookup = self.lookup.explain(own, other).test.auprc(own.test)
        rows = [self.said[latent]] if latent in self.said else []
        for name, method in self.methods.items():
            if (fitted := method.explain(own, other)) is not None:
                of_twin = method.explain(other, own) if method.explains_twins else fitted
                assert of_twin is not None
                rows.append(self._row(name, fitted, own, lookup, of_twin.test.auprc(other.test)))
        return choose(rows)

    def _thinking(self, fitted: Fitted, acts: Acts) -> dict[str, Any]:
        """What a row says of the test vectors outside of begin-of-thought."""
        where, test = self.corpus.thinking(self.corpus.test), fitted.test
        among, fires = test.of(where), test.of(acts.test != 0)
        weight = None if test.weight is None else test.weight[among]
        value = auprc(fires[among], test.values[among], weight) if fires[among].any() else None
        return {"n_fires_thinking": int(where[acts.test != 0].sum()), "auprc_thinking": value}

    def _row(
        self, method: str, fitted: Fitted, acts: Acts, token_auprc: float, random_auprc: float
    ) -> ExplanationRow:
        part, held, test = self.corpus.test, fitted.validation, fitted.test
        threshold = best_threshold(held.of(acts.validation) != 0, held.values, held.weight)
        own = test.of(acts.test)
        measured = score(own, test.values, test.of(part.unit), threshold, test.weight)
        spread = interval(
            own != 0, test.values, test.of(part.cluster[part.unit]), weight=test.weight,
            n_resamples=self.cfg.n_resamples, seed=self.cfg.seed,
        )  # fmt: skip
        return ExplanationRow(
            member=self.member.name,
            latent=acts.latent,
            method=method,
            text=fitted.text,
            **vars(measured),
            **self._thinking(fitted, acts),
            split=part.split,
            auprc_low=spread.low,
            auprc_high=spread.high,
            token_auprc=token_auprc,
            random_auprc=random_auprc,
            validation_auprc=held.auprc(acts.validation),
            chosen=False,
            verdict=verdict_of(
                measured.auprc,
                spread.low,
                max(measured.base_rate, random_auprc),
                None if method == "token" else token_auprc,
            ),
        )


def batches(number: int, n_latents: int, size: int) -> dict[str, slice]:
    """Which latents each batch of member `number` has, by the name of its part."""
    return {f"{number}.{low:08d}": slice(low, low + size) for low in range(0, n_latents, size)}


def said_part(number: int) -> str:
    """The part with those latents of member `number` that `roles` alone explains."""
    return f"{number}.roles"


def choose(rows: list[ExplanationRow]) -> list[ExplanationRow]:
    """The rows with the best one by the validation problems marked; of those that tie, the shortest."""
    best = max((row.validation_auprc for row in rows), default=0.0)
    tied = [i for i, row in enumerate(rows) if row.validation_auprc >= best - TIE]
    shown = min(tied, key=lambda i: (len(rows[i].text), i), default=-1)
    return [replace(row, chosen=i == shown) for i, row in enumerate(rows)]


def chosen_latents(
    cfg: ExplainConfig, member: Member, eligible: np.ndarray, well: Sequence[int] = ()
) -> tuple[list[int], list[str]]:
    """Those asked for, or a seeded draw of those that fire enough; and what is to be said about them.

    Args:
        cfg: What is asked for.
        member: The SAE.
        eligible: Which latents fire enough.
        well: Latents that are explained well already, and are not drawn.
    """
    d_sae, name = member.sae.d_sae, member.name
    need = (
        f"fire in {cfg.min_units} fitting, {cfg.min_held_units} validation and {cfg.min_held_units} test "
        f"problems, and not everywhere"
    )
    asked = sorted({*(cfg.latents or ()), *cfg.also})
    if outside := [i for i in asked if not 0 <= i < d_sae]:
        raise ConfigError(f"latents: expected some of 0..{d_sae - 1} of {name}, got {outside[0]}")
    short = ", ".join(str(i) for i in asked if not eligible[i])
    said = [f"{name}: not explained, as they do not {need}: {short}"] if short else []
    named = [i for i in asked if eligible[i]]
    if cfg.latents is not None:
        return named, said
    found = np.flatnonzero(eligible)
    if not len(found):
        return [], [f"{name}: nothing to explain, as no latents {need}"]
    found = np.setdiff1d(found, np.array(well, int))
    if cfg.n_latents is not None and len(found) > cfg.n_latents:
        found = np.random.default_rng(cfg.seed).choice(found, cfg.n_latents, replace=False)
    return sorted({*found.tolist(), *named}), said


def _names(corpus: Corpus) -> dict[int, str]:
    """What each token of the corpus reads as."""
    if corpus.vocabulary is not None:
        return dict(enumerate(corpus.vocabulary))
    ids = np.unique(np.concatenate([part.tokens.ids for part in corpus.parts]))
    meta = corpus.member.store.meta
    return token_texts(load_tokenizer(meta.model, meta.model_revision), ids)
