"""The extraction benchmark runs, and measures the model cut off where it says."""

from __future__ import annotations

import torch

from thoughtlens.models.hf.capture import capture
from thoughtlens.models.hf.load import load
from thoughtlens.ops.bench.extract import _cut_after, bench_extract


def test_bench_extract_runs(tiny_lm_dir, tmp_path):
    (tmp_path / "a.txt").write_text("some words to read\n\n" * 40)
    result = bench_extract(
        model=str(tiny_lm_dir),
        layer=1,
        tokens=500,
        context_length=32,
        batch_tokens=128,
        dtype="float32",
        source=str(tmp_path / "a.txt"),
        repeats=2,
    )
    assert len(result["pairs"]) == 2
    assert result["bare_tokens_per_s"] > 0
    assert result["extract_tokens_per_s"] > 0


def test_the_bare_pass_ends_after_the_block(tiny_lm_dir):
    model = load(str(tiny_lm_dir), dtype="float32").model
    ids = torch.tensor([[5, 6, 7]])
    at_block = capture(model, ids, None, ["layers.1:out"])["layers.1:out"]
    with torch.no_grad(), _cut_after(model, 1):
        cut = model.base_model(ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(cut, model.model.norm(at_block))
    assert len(model.model.layers) == 4
