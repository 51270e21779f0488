"""A lens on what is no state of the stream."""

from __future__ import annotations

import pytest
import torch

from thoughtlens.core import MismatchError
from thoughtlens.latents import of_thoughts
from thoughtlens.models import load_model


def test_a_head_is_not_read_as_a_state_of_the_stream():
    readout = of_thoughts(load_model("codi-tiny"))
    assert readout.unembed(torch.zeros(2, 96), "layers.1.attn:out").shape == (2, 111)
    with pytest.raises(MismatchError, match=r"layers\.1\.head\.2:out is 32 wide") as error:
        readout.unembed(torch.zeros(2, 32), "layers.1.head.2:out")
    assert "\n" not in str(error.value)
