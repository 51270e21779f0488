"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from thoughtlens.core import ConfigError, ResourceError, choose_device


def test_names_and_those_that_are_none():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="device: expected auto, cpu, cuda, cuda:N or mps, got 'gpu'"):
        choose_device("gpu")
    for name in ("meta", "", "  ", "cuda:-1", "cuda:" + "9" * 20):
        with pytest.raises(ConfigError, match=f"got '{name}'"):
            choose_device(name)
    with pytest.raises(ResourceError, match=r"device 'cuda:99' is not available here \(.+\); use cpu"):
        choose_device("cuda:99")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is such a device")
def test_the_reason_is_one_sentence():
    with pytest.raises(ResourceError, match="device 'mps' is not available here") as caught:
        choose_device("mps")
    assert len(str(caught.value)) < 200


def test_auto_takes_a_macs_gpu_for_a_model_whose_format_it_has(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: False)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    assert choose_device("auto", torch.float32).type == "mps"
    assert choose_device("auto").type == "cpu"  # SAEs and their metrics need float64
    for dtype in (torch.float64, torch.bfloat16):
        assert choose_device("auto", dtype).type == "cpu"
        with pytest.raises(
            ConfigError, match=f"'mps' does not compute in {str(dtype)[6:]} here; use float32"
        ):
            choose_device("mps", dtype)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: True)
    assert choose_device("auto", torch.bfloat16).type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto", torch.float32).type == "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_each_process_has_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count() - 1))
    assert choose_device("cuda") == torch.device("cuda", torch.cuda.device_count() - 1)
