"""A sound family passes; one with a fault of each kind is told which."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from tests.models.thought.depth_toy import DepthToy
from tests.models.thought.fake import ALPHA, make_codi
from tests.models.thought.iteration_toy import IterationToy
from thoughtlens.core import ConfigError
from thoughtlens.models.thought import codi, tiny
from thoughtlens.models.thought.check import check_thought_model

SUMS = ["ann +3 *5 -2 ann 7 once", "dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"]


@pytest.mark.parametrize("toy", [DepthToy, IterationToy])
def test_sound_toys_pass(toy):
    assert check_thought_model(toy()) == []


@pytest.mark.parametrize("variant", ["thoughts", "no_cot", "pause"])
def test_the_shipped_models_pass(variant):
    assert check_thought_model(tiny.load("codi-tiny", variant=variant), SUMS) == []


def test_a_checkpoint_passes(tmp_path):
    fake = make_codi(tmp_path, "gpt2")
    model = codi.load(fake.file, base=fake.base, lora_alpha=ALPHA, eos_before=False, eos_after=False)
    assert check_thought_model(model) == []


class Shapeless(DepthToy):
    def readout(self, h, site):
        return super().readout(h, site)[..., :100] if site == "resid" else super().readout(h, site)


class Mixed(DepthToy):
    def _step(self, state, tap):
        return super()._step(
            state, lambda site, x, layer=None: tap(site, x.double() if layer == 0 else x, layer).float()
        )


class Dropping(DepthToy):
    def _step(self, state, tap):
        after = super()._step(state, tap)
        return replace(after, pending=after.pending + 0.1 * torch.randn_like(after.pending))


class Remembering(DepthToy):
    calls = 0

    def encode(self, questions):
        self.calls += 1
        state = super().encode(questions)
        return replace(state, pending=state.pending + self.calls)


class Padded(DepthToy):
    def encode(self, questions):
        state = super().encode(questions)
        return replace(state, mask=torch.ones_like(state.mask))


class InPlace(IterationToy):
    def _step(self, state, tap):
        after = super()._step(state, tap)
        state.cache["question"][0][0].mul_(0.9)
        return after


class Deaf(DepthToy):
    """Shows its first block, and goes on with what it had."""

    def _step(self, state, tap):
        def heard(site, x, layer=None):
            back = tap(site, x, layer)
            return x if layer == 0 else back

        return super()._step(state, heard)


class Gossiping(DepthToy):
    """Problems of a batch act on each other."""

    def _step(self, state, tap):
        def mixed(site, x, layer=None):
            back = tap(site, x, layer)
            return back + back[:, -1:].mean(0, keepdim=True) if layer == 0 else back

        return super()._step(state, mixed)


class Silent(DepthToy):
    def _step(self, state, tap):
        return super()._step(state, lambda site, x, layer=None: x if layer == 1 else tap(site, x, layer))


class Early(DepthToy):
    def answer(self, state, max_new_tokens=256, teacher_ids=None):
        return super().answer(state, max(1, max_new_tokens), teacher_ids)


class Unforced(DepthToy):
    def answer(self, state, max_new_tokens=256, teacher_ids=None):
        return super().answer(state, max_new_tokens)


class LateStart(DepthToy):
    def encode(self, questions):
        return replace(super().encode(questions), next_thought=1)


class Overflowing(DepthToy):
    def _step(self, state, tap):
        after = super()._step(state, tap)
        tap("thought_out", after.pending / 0)
        return after


class ReadsOn(DepthToy):
    """Its answer reads the last thought, and its shape does not say so."""

    def __init__(self):
        super().__init__()
        self.spec = replace(self.spec, reads_last=False)


class Nameless(DepthToy):
    def __init__(self):
        super().__init__()
        self.digest = None
        self.spec = replace(self.spec, feedback_layer=5)


class Wide(DepthToy):
    def __init__(self):
        super().__init__()
        self.spec = replace(self.spec, d=2 * self.spec.d)


class OutOfPlaces(DepthToy):
    """Has places for fewer thoughts than its shape says."""

    def _step(self, state, tap):
        if state.next_thought == self.spec.n_thoughts:
            raise IndexError("index 4 is out of bounds for dimension 0 with size 4")
        return super()._step(state, tap)


class Sampling(DepthToy):
    def answer(self, state, max_new_tokens=256, teacher_ids=None):
        said = super().answer(state, max_new_tokens, teacher_ids)
        drawn = torch.randint(1, 100, (len(said.ids), 1)).tolist()
        return replace(said, ids=drawn, text=["".join(map(chr, ids)) for ids in drawn])


class Shuffled(DepthToy):
    """Takes the questions of a batch in another order."""

    def encode(self, questions):
        return super().encode(list(questions)[::-1])


class FloatMask(DepthToy):
    def encode(self, questions):
        state = super().encode(questions)
        object.__setattr__(state, "mask", state.mask.float())  # as where no types are checked
        return state


@pytest.mark.parametrize(
    ("broken", "rule", "says"),
    [
        (Nameless, "spec", "digest is None"),
        (Nameless, "spec", "feedback_layer is 5"),
        (LateStart, "loop", "next_thought 1"),
        (Silent, "loop", r"layers\.1:out@0"),
        (Shapeless, "shapes", "readout at resid"),
        (Mixed, "dtype", "one floating-point format"),
        (Overflowing, "dtype", "not finite"),
        (Dropping, "determinism", "dropout"),
        (Remembering, "determinism", "keeps from one call to the next"),
        (Padded, "padding", "in a batch than alone"),
        (Gossiping, "padding", "rows of a batch act on each other"),
        (Gossiping, "hooks", "changes another of the batch"),
        (InPlace, "clone", "in place"),
        (Deaf, "hooks", r"layers\.0:out@1: an edit changes nothing that follows"),
        (ReadsOn, "ends", "reads_last is False"),
        (Wide, "shapes", r"thought_in@0 is .*16\]; expected .*32\]"),
        (OutOfPlaces, "loop", "IndexError: index 4 is out of bounds"),
        (Sampling, "determinism", "answers are greedy"),
        (Shuffled, "padding", "in a batch than alone"),
        (FloatMask, "loop", r"a mask of torch\.float32; expected torch\.bool"),
        (Early, "answer", "logits only"),
        (Unforced, "answer", "one forced token"),
    ],
)
def test_a_broken_toy_is_told_what_is_wrong(broken, rule, says):
    found = [fault for fault in check_thought_model(broken()) if fault.rule == rule]
    assert any(re.search(says, fault.says) for fault in found), found
    assert all("\n" not in str(fault) for fault in found)


def test_an_edit_of_keys_that_is_written_nowhere_is_found():
    model = tiny.load("codi-tiny")
    model._write_kv = lambda state, layer, k, v: None
    assert {fault.rule for fault in check_thought_model(model, SUMS)} == {"kv"}


def test_questions_of_one_length_show_no_padding():
    with pytest.raises(ConfigError, match="different lengths"):
        check_thought_model(DepthToy(), ["What is 1?", "What is 2?"])
