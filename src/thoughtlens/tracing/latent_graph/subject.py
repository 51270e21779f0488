"""One problem, those beside it, and the nodes that its run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thoughtlens.acts import ActivationStore, made_with
from thoughtlens.core import DataError, NotThereError
from thoughtlens.latents import UNKNOWN, Readout, chosen, of_thoughts
from thoughtlens.models import Place, ThoughtModel
from thoughtlens.tracing.graphs.records import GraphNode
from thoughtlens.tracing.latent_graph.cells import Cell, Cover, order
from thoughtlens.tracing.latent_graph.config import GraphConfig
from thoughtlens.tracing.latent_graph.origins import OfCell, OfWords, Origin, by_position
from thoughtlens.tracing.latent_graph.runs import ALIKE, Runs, answered, thought_through
from thoughtlens.tracing.latent_graph.trials import ANSWER, Target, Trials
from thoughtlens.tracing.read.lenses import logit_lens
from thoughtlens.tracing.read.rules import can_read, rule_for
from thoughtlens.tracing.read.seen import seen


@dataclass(frozen=True, eq=False)
class Subject:
    """One problem, those beside it, and the nodes that its run has."""

    cfg: GraphConfig
    store: ActivationStore
    model: ThoughtModel
    cover: Cover

    @cached_property
    def row(self) -> int | None:
        """Of the problem in the store; None: it is a question that the store does not have."""
        for column in ("problem_id", "question"):
            names = [str(one) for one in self.store.problems.column(column).to_pylist()]
            if self.cfg.problem in names:
                return names.index(self.cfg.problem)
        if " " not in self.cfg.problem:
            ids = ", ".join(map(str, self.store.problems.column("problem_id").to_pylist()[:3]))
            raise NotThereError(
                f"problem: expected a problem_id of {self.store.root} ({ids} ..) or a question, got "
                f"{self.cfg.problem!r}"
            )
        return None

    @cached_property
    def question(self) -> str:
        return self.cfg.problem if self.row is None else self._column("question")[self.row]

    def _column(self, name: str) -> list[str]:
        return self.store.problems.column(name).to_pylist()

    def told(self, column: str) -> str | None:
        """What the store says of the problem; None of a question that it does not have."""
        return None if self.row is None else str(self.store.problems.column(column)[self.row].as_py())

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng((self.cfg.seed, 94))

    @cached_property
    def others(self) -> list[str]:
        """Other problems, those of the split that is held out first; of the own length first."""
        asked, splits = self._column("question"), self._column("split")
        drawn = self.rng.permutation(len(asked))[: 16 * self.cfg.n_others].tolist()
        texts = dict.fromkeys(asked[i] for i in sorted(drawn, key=lambda i: splits[i] != "test"))
        found = [text for text in texts if text != self.question]
        if not found:
            raise DataError(f"graph: expected other problems beside this one in {self.store.root}, got none")
        return sorted(found, key=lambda text: not self.fits(text))[: self.cfg.n_others]

    def fits(self, text: str) -> bool:
        """Whether a question has as many tokens as the own one."""
        return can_read(self.model, text) and len(self.model.read_ids(text)) == self.n_words

    @cached_property
    def n_words(self) -> int:
        return len(self.model.read_ids(self.question))

    @cached_property
    def twins(self) -> list[str]:
        """The question with another start value or operand, as long as it."""
        rule = rule_for(self.model, self.store.problems.slice(0, 256))
        if rule is None or not self.cfg.n_twins:
            return []
        lens = logit_lens(of_thoughts(self.model), self.model.spec.thoughts)
        own = seen(self.model, lens, [self.question], max_new_tokens=made_with(self.store).max_new_tokens)
        chain = rule.join(self.question, own.said(0), own.answers[0])
        made = [
            text
            for _ in range(self.cfg.n_twins)
            for text in (
                rule.restarted(self.question, self.rng),
                *(
                    twin and twin.question
                    for k in range(len(chain))
                    for twin in [rule.twin(self.question, chain[: k + 1], self.rng)]
                ),
            )
        ]
        return [text for text in dict.fromkeys(made) if text and text != self.question and self.fits(text)]

    @cached_property
    def runs(self) -> Runs:
        """The own problem, then its twins."""
        return Runs.of(self.model, self.cover.cells, [self.question, *self.twins], self.cover.bare)

    @cached_property
    def readout(self) -> Readout:
        return of_thoughts(self.model)

    @cached_property
    def answer(self) -> int:
        """The answer's first token."""
        return int(self.runs.logits[0].argmax())

    @cached_property
    def usual(self) -> tuple[Tensor, float]:
        """What other problems remember at each position, and their logit of the own answer, mean."""
        model = self.model
        state = model.encode(self.others)
        memory = by_position([model._memory(state, layer) for layer in range(model.spec.n_layers)])
        mask = state.mask.to(memory)[:, :, None, None]
        mean, n = self.runs.states[0].mask.shape[1], mask.sum(0)
        found = torch.where(
            n > 0, (memory * mask).sum(0) / n.clamp_min(1), (memory * mask).sum((0, 1)) / n.sum()
        )
        found = torch.cat([found[:1].expand(max(0, mean - len(found)), -1, -1), found[-mean:]])
        logits = answered(model, thought_through(model, state, []))
        return found, float(logits[:, self.answer].mean())

    @cached_property
    def above(self) -> float:
        """How far the answer's logit is above that of other problems.

        Raises:
            DataError: it is theirs, but for rounding, or is no number.
        """
        own, found = self.runs.logits[0], float(self.runs.logits[0, self.answer]) - self.usual[1]
        if abs(found) > ALIKE * float(own.abs().max()):
            return found
        raise DataError(
            f"graph: the logit of the answer, {self.readout.read([self.answer])[self.answer]!r}, is the same "
            f"in other problems, so nothing of this problem makes it; ask about a problem that the model "
            f"answers otherwise than others"
        )

    @cached_property
    def nodes(self) -> dict[str, GraphNode]:
        """Words, latents that fire, errors, and the answer, by id and in the order of the run."""
        ids = self.model.read_ids(self.question)
        texts = self.readout.read([*ids, self.answer])
        words = [
            GraphNode(id=f"word {i}", kind="token", column=i, text=texts[token], token_id=token)
            for i, token in enumerate(ids)
        ]
        cells = [node for cell in self.cover.cells for node in self._of_cell(cell)]
        end = GraphNode(
            id=ANSWER,
            kind="answer",
            column=self.n_words + self.runs.last,
            text=texts[self.answer],
            token_id=self.answer,
            probability=float(self.runs.logits[0].softmax(0)[self.answer]),
        )
        return {node.id: node for node in (*words, *cells, end)}

    def _of_cell(self, cell: Cell) -> list[GraphNode]:
        x = self.runs.x[cell.place][:1]
        acts, said = cell.acts(x)[0], self._said(cell.member)
        at = {
            "column": self.n_words + cell.thought,
            "row": self.rows.index(cell.place.hook_name),
            "thought_idx": cell.thought,
            "hook_name": cell.place.hook_name,
            "member": cell.member,
        }
        return [
            *(
                GraphNode(
                    id=f"{cell.place} {latent}",
                    kind="latent",
                    latent=latent,
                    says=said.get(latent),
                    activation=float(acts[latent]),
                    **at,
                )
                for latent in torch.nonzero(acts)[:, 0].tolist()
            ),
            GraphNode(id=f"{cell.place} error", kind="error", activation=float(cell.error(x).norm()), **at),
        ]

    def _said(self, member: str) -> Mapping[int, str]:
        run = None if self.cfg.explain is None else Path(self.cfg.explain).parent
        found = {} if run is None else chosen(run, member)
        return {latent: row.text for latent, row in found.items() if row.text != UNKNOWN}

    @cached_property
    def rows(self) -> list[str]:
        """Hooks, from the input to the output."""
        places = sorted((cell.place for cell in self.cover.cells), key=lambda p: order(self.model.spec, p)[1])
        return list(dict.fromkeys(place.hook_name for place in places))

    @property
    def columns(self) -> list[str]:
        """Words of the question, thoughts, and the answer."""
        words = [node.text for node in self.nodes.values() if node.kind == "token"]
        return [*words, *(f"thought {p}" for p in self.model.spec.thoughts), ANSWER]

    @cached_property
    def trials(self) -> Trials:
        usual, _ = self.usual
        named = [*self.nodes.values()]
        words = [node.id for node in named if node.kind == "token"]
        origins: list[Origin] = [OfWords(self.runs, words, usual)]
        targets: dict[Place | None, Sequence[Target]] = {}
        for cell in self.cover.cells:
            own = [one for one in named if Place(one.hook_name or "", one.thought_idx) == cell.place]
            origins.append(OfCell(self.runs, [one.id for one in own], cell, [one.latent for one in own]))
            targets[cell.place] = [
                Target(one.id, one.latent, one.activation or 1.0) for one in own if one.latent is not None
            ]
        targets[None] = [Target(ANSWER, self.answer, self.above)]
        return Trials(self.runs, origins, targets, self.cfg.batch_size)

    @cached_property
    def backwards(self) -> list[str]:
        """Nodes from the answer to the words."""
        return [*self.nodes][::-1]
