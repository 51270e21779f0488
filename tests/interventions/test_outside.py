"""Edits of the question's tokens and of the answer's cue, in one run with those of thoughts."""

from __future__ import annotations

import pytest
import torch

from thoughtlens.core import HookError
from thoughtlens.interventions.edits.changes import given, mean_of
from thoughtlens.interventions.edits.places import places_of
from thoughtlens.interventions.edits.run import Edit, run_edits
from thoughtlens.models import Hook, Place, collect, tiny
from thoughtlens.models.thought.thoughts import run
from thoughtlens.problems import words


@pytest.fixture(scope="module")
def asked():
    model = tiny.load("codi-words")
    return model, words.problems(12, seed=8, p=model.modulus)["question"].to_pylist()


def test_edits_before_at_and_behind_the_thoughts_are_those_of_hooks(asked):
    model, questions = asked
    places = [Place("thought_in", -2), Place("layers.0:out", 2), Place("layers.0:out", 8)]
    states = collect(model, questions, places=places)
    edits = [Edit.at(f"one {place}", [place], lambda p: given(states[p].roll(1, 0))) for place in places] + [
        Edit.at("all", places, lambda p: given(states[p].roll(1, 0)))
    ]
    plain, found = run_edits(model, questions, edits, batch_size=5)
    assert plain.text == run(model, questions).text
    for edit, answers in zip(edits, found, strict=True):
        hooks = [
            Hook(place, lambda x, new: new[:, None], states[place].roll(1, 0)) for place, _ in edit.changes
        ]
        assert answers.text == run(model, questions, hooks).text
        assert answers.reached.all() and (answers.changed_site > 0).any() and answers.moved.any()
    assert found[0].text != plain.text


def test_a_token_that_a_question_does_not_have_is_not_reached(asked):
    model, questions = asked
    longest = max(len(question.split()) for question in questions)
    place = Place("thought_in", -longest)
    states = collect(model, questions, places=[place])[place]
    _, (found,) = run_edits(model, questions, [Edit.at("first", [place], lambda p: mean_of(states + 1))])
    assert found.reached.tolist() == (~states.isnan().any(1)).tolist() and not found.reached.all()


def test_places_by_number(asked):
    model, questions = asked
    assert places_of(model.spec, "resid", [-1, 7], [0]) == [("layers.0:out", -1), ("layers.0:out", 7)]
    with pytest.raises(HookError, match=r"thoughts 0..6 .*7..8 the answer's cue"):
        places_of(model.spec, "resid", [9], [0])
    far = Edit.at("far", [Place("thought_in", -99)], lambda p: mean_of(torch.ones(3, 96)))
    with pytest.raises(HookError, match="the longest of these questions has"):
        run_edits(model, questions, [far])
