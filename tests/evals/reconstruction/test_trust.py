"""What validate says of its own numbers: groups, few documents, cells that hardly vary, rows seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.evals.reconstruction.planted import HOOKS, D, atoms, codes, config, oracle, write
from thoughtlens import sae as saes
from thoughtlens.core import DataError, digest
from thoughtlens.evals.reconstruction.stage import validate


def explained(root, acts, **changes):
    cfg = config(acts, oracle(root / "sae", acts), baselines=("mean",), **changes)
    result = validate(cfg, root / "out")
    return result["members"][0]["reconstruction"]["sae"], result["warnings"]


def test_copies_in_a_group_do_not_narrow_the_interval(tmp_path):
    strength = torch.linspace(0.2, 2, 400)[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    noise = torch.randn(400, 10, D, generator=torch.Generator().manual_seed(1)) * strength[:, None, None]
    x = (codes(4000) @ atoms()).reshape(400, 10, D) + 0.3 * noise
    x[8::10] = x[9::10] = x[7::10]  # the test documents of each ten are copies
    widths = []
    for name, group in (("alone", lambda i: f"g{i}"), ("copies", lambda i: f"g{i - max(0, i % 10 - 7)}")):
        root = tmp_path / name
        acts = write(root / "acts", {HOOKS[0]: x.reshape(-1, D)}, groups=[group(i) for i in range(400)])
        found, _ = explained(root, acts)
        widths.append(found["explained_variance_high"] - found["explained_variance_low"])
    assert widths[1] / widths[0] == pytest.approx(3**0.5, rel=0.2)


def test_few_documents_are_said_and_many_are_not(tmp_path):
    few = write(tmp_path / "few", {HOOKS[0]: codes(400) @ atoms()})
    found, warnings = explained(tmp_path / "a", few, force=True)
    assert any("explained variance rests on 12 groups, fewer than 20" in line for line in warnings)
    many = write(tmp_path / "many", {HOOKS[0]: codes(4000) @ atoms()})
    assert explained(tmp_path / "b", many)[1] == []
    assert found["explained_variance_low"] < found["explained_variance"]


def test_vectors_that_were_seen_count_and_not_those_stored(tmp_path):
    acts = write(tmp_path / "acts", {HOOKS[0]: codes(4000) @ atoms()})
    for seen, says in ((120, "trained on 120 vectors of width 16"), (161, None), (10**6, None)):
        sae = oracle(tmp_path / f"sae{seen}", acts, rows_seen=seen)
        if says:
            with pytest.raises(DataError, match=says):
                validate(config(acts, sae), tmp_path / "out")
        else:
            found = validate(config(acts, sae), tmp_path / f"out{seen}")["members"][0]
            assert found["n_train"] == min(seen, 2800)


def test_fewer_vectors_than_latents_are_refused(tmp_path):
    acts = write(tmp_path / "acts", {HOOKS[0]: codes(4000) @ atoms()})
    wide = saes.create(saes.TopKConfig(d_sae=400, k=2), D, seed=0)
    wide.hook_names = [HOOKS[0]]
    for seen in (300, 500):
        wide.provenance = {"split": "train", "acts_digest": digest(acts), "thoughts": None, "rows_seen": seen}
        saes.save(wide, tmp_path / str(seen))
        cfg = config(acts, tmp_path / str(seen), baselines=())
        if seen < 400:
            with pytest.raises(DataError, match="300 vectors for 400 latents"):
                validate(cfg, tmp_path / "out")
        else:
            validate(cfg, tmp_path / "out")


def with_flat_cell(scale, offset):
    x = (codes(3000) @ atoms()).reshape(1000, 3, D)
    x[:, 1] = scale * x[:, 1] + offset
    return x.reshape(3000, D)


def members(root, acts):
    """An SAE for each thought; that of thought 1 gives back everything."""
    for thought in range(3):
        sae = saes.create(saes.ReLUConfig(d_sae=2 * D, normalization="none"), D, seed=0)
        eye = torch.eye(D) * (1.0 if thought == 1 else 0.5)
        with torch.no_grad():
            sae.W_enc.copy_(torch.cat([torch.eye(D), -torch.eye(D)]).T)
            sae.W_dec.copy_(torch.cat([eye, -eye]))
            sae.b_enc.zero_()
            sae.b_dec.zero_()
        sae.hook_names = [HOOKS[0]]
        sae.provenance = {"split": "train", "acts_digest": digest(acts), "thoughts": [thought]}
        saes.save(sae, root / f"thought_{thought}")
    return root


@pytest.mark.parametrize(("scale", "offset", "flat"), [(1e-3, 0, True), (1e-2, 5, True), (0.2, 1, False)])
def test_a_cell_that_hardly_varies_is_left_out_of_the_headline_and_said(tmp_path, scale, offset, flat):
    acts = write(tmp_path / "acts", {HOOKS[0]: with_flat_cell(scale, offset)}, thoughts=3)
    cfg = config(acts, members(tmp_path / "sae", acts), baselines=("mean",), force=True, answer_problems=0)
    result = validate(cfg, tmp_path / "out")
    said = [line for line in result["warnings"] if "hardly vary" in line]
    headline = result["headline"]["explained_variance"]["value"]
    values = [m["reconstruction"]["sae"]["explained_variance"] for m in result["members"]]
    assert values[1] > 0.99
    counted = [values[0], values[2]] if flat else values
    assert headline == pytest.approx(np.mean(counted))
    if flat:
        assert "layers.0:out thought 1" in said[0] and "left out of the headline: thought_1" in said[0]
    else:
        assert said == []
