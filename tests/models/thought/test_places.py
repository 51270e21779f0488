from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from thoughtlens.core import HookError
from thoughtlens.models.thought import tiny
from thoughtlens.models.thought.places import Place, block_outputs
from thoughtlens.models.thought.thoughts import collect

TEXTS = {
    "layers.1:out@3": ("resid", 1, 3),
    "thought_in@0": ("thought_in", None, 0),
    "thought_out": ("thought_out", None, None),
    "layers.0:kv@2": ("kv", 0, 2),
    "layers.12:keys@6": ("keys", 12, 6),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_place_prints_as_it_parses(text):
    site, layer, thought = TEXTS[text]
    place = Place.parse(text)
    assert (place.site, place.layer, place.thought) == TEXTS[text] and str(place) == text
    assert place == Place.at(site, layer, thought) == (place.hook_name, thought)


@pytest.mark.parametrize("text", ["", "layers.1:out@", "layers.1:out@x", "thought_in@1@2", "thought in@1"])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(HookError, match="such as thought_in@3"):
        Place.parse(text)


def test_hooks_of_a_store():
    assert block_outputs(None, 2) == [Place("layers.0:out"), Place("layers.1:out")]
    assert block_outputs(["thought_in", "layers.0:out"], 2) == [("thought_in", None), ("layers.0:out", None)]
    for strange in ("layers.2:out", "layers.0:kv", "resid", "embed:out"):
        with pytest.raises(HookError, match=r"layers\.0:out \.\. layers\.1:out, thought_in or thought_out"):
            block_outputs([strange], 2)


def test_a_place_picks_its_states_from_a_batch():
    model, questions = tiny.load("codi-tiny"), ["p0 a b c", "p1 c b a"]
    questions = [" ".join(model.cfg.words[i] for i in (0, 1, 2 + k)) for k in range(2)]
    batch = collect(model, questions, sites=("thought_in", "resid", "kv"), layers=[1])
    assert batch.resid is not None and batch.keys is not None and batch.values is not None
    assert torch.equal(batch[Place("layers.1:out", 3)], batch.resid[:, 3, 0, 0])
    assert torch.equal(batch[Place("layers.1:out")], batch.resid[:, :, 0, 0])
    keys, values = batch.keys[:, 2, 0, 0].flatten(1), batch.values[:, 2, 0, 0].flatten(1)
    assert torch.equal(batch[Place("layers.1:kv", 2)], torch.cat([keys, values], 1))
    assert torch.equal(batch[Place("layers.1:values", 2)], values)
    own = collect(model, questions, places=[Place("layers.1:keys", 2), Place("thought_in", 1)])
    assert own.layers == (1,) and own.resid is None
    assert torch.equal(own[Place("layers.1:keys", 2)], keys)
    for strange, says in (("layers.0:out", "was collected"), ("thought_out", "ask collect"), ("x", "ask")):
        with pytest.raises(HookError, match=says):
            batch[Place(strange, 1)]


def test_places_cost_no_torch():
    code = "import sys, thoughtlens.models.thought.places; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
