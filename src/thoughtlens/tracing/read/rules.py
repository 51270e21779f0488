"""What a step of a model's problems is."""

from __future__ import annotations

import pyarrow as pa

from thoughtlens.core import DataError, HookError
from thoughtlens.latents import of_thoughts
from thoughtlens.models import ThoughtModel, tiny
from thoughtlens.problems import HopsRule, Rule, SumsRule, are_graphs, are_sums, rule_of
from thoughtlens.tracing.read.lenses import first_token


def rule_for(model: ThoughtModel, table: pa.Table) -> Rule | None:
    """What a step of these problems is, told from their words; of word problems, how numbers are read."""
    modulus = model.modulus if isinstance(model, tiny.TinyThoughts) else None
    questions = table["question"].to_pylist()
    found = rule_of(questions, modulus)
    answers = table["answer"].to_pylist() if "answer" in table.column_names else []
    if found is None and are_graphs(questions):
        return HopsRule(first_token(of_thoughts(model), model.tokenizer, " "), questions)
    if found is None and answers and are_sums(questions, answers):
        return SumsRule(first_token(of_thoughts(model), model.tokenizer))
    return found


def can_read(model: ThoughtModel, question: str) -> bool:
    """Whether a model takes a question, such as a twin whose number its words may lack."""
    try:
        model.read_ids(question)
    except DataError:
        return False
    except HookError:  # a model of somebody's own need not say what it reads
        return True
    return True
