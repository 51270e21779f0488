"""What a thought model promises, and whether it keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thoughtlens.core import ConfigError, Record
from thoughtlens.models import CHECKED, Fault, ThoughtModel, check_thought_model, load_model, tiny
from thoughtlens.problems import GeneratedConfig, source

N_OWN = 12
"""Problems of a shipped model's own; of fewer, none may read a key or value that is edited."""


@dataclass(frozen=True, kw_only=True)
class Examined(Record):
    """A thought model's shape, and what is wrong with it."""

    model: str
    n_thoughts: int
    n_layers: int
    d: int
    sites: list[str]
    digest: str | None
    rules: dict[str, str]
    """What was tested: rule -> what holds where nothing is found."""
    faults: list[Fault]

    def text(self) -> str:
        """A line for each rule; for one that is broken, what is wrong."""
        lines = [
            f"{self.model}: thoughts 0..{self.n_thoughts}, {self.n_layers} blocks, d = {self.d}, "
            f"sites {', '.join(self.sites)}"
        ]
        for rule, promise in self.rules.items():
            said = [fault.says for fault in self.faults if fault.rule == rule]
            lines += [f"WRONG {rule:<12}{line}" for line in said] or [f"ok    {rule:<12}{promise}"]
        return "\n".join(lines)


def examine(name: str, questions: Sequence[str] | None = None, options: Sequence[str] = ()) -> Examined:
    """Open a thought model and test it.

    Args:
        name: As of `load_model`.
        questions: What it can read; None: problems of the kind that a shipped model was trained on, for
            others short texts about numbers.
        options: `name=value` of its loader.

    Raises:
        ConfigError: it is a language model; or see `load_model`.
    """
    model = load_model(name, options=list(options)) if options else load_model(name)
    if not isinstance(model, ThoughtModel):
        raise ConfigError(f"{name} is a language model, which has no thoughts to test")
    own = tiny.own_problems(GeneratedConfig(source="generated", n=N_OWN), model)
    if not questions and own.source != "generated":
        questions = source.problems(own)["question"].to_pylist()
    faults = check_thought_model(model, questions) if questions else check_thought_model(model)
    stopped = any(fault.rule == "loop" for fault in faults)
    return Examined(
        model=name,
        n_thoughts=model.spec.n_thoughts,
        n_layers=model.spec.n_layers,
        d=model.spec.d,
        sites=list(model.spec.sites),
        digest=model.digest,
        rules={rule: says for rule, says in CHECKED.items() if not stopped or rule in ("spec", "loop")},
        faults=faults,
    )
