"""Transcoders, crosscoders and supervised SAEs on held-out rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.evals.reconstruction.planted import ATOMS, HOOKS, D, atoms, codes, config, in_test, write
from thoughtlens import metrics
from thoughtlens import sae as saes
from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.core import ConfigError, DataError, HookError, MismatchError, digest
from thoughtlens.evals.reconstruction.stage import validate
from thoughtlens.sae.baselines.reduced_rank import CrossCovariance

N = 4000


def save(sae, root, acts, hooks, **provenance):
    sae.hook_names = list(hooks)
    sae.provenance = {"split": "train", "acts_digest": digest(acts), "thoughts": None} | provenance
    saes.save(sae, root)
    return root


def transcoder(root, acts, W_out, hooks=HOOKS):
    """Reads the atoms, writes the rows of W_out."""
    cfg = saes.TranscoderConfig(
        d_sae=ATOMS, k=ATOMS, normalization="none", hook_in=hooks[0], hook_out=hooks[1], auxk=0
    )
    sae = saes.create(cfg, D, seed=0, d_out=W_out.shape[1])
    with torch.no_grad():
        sae.W_enc.copy_(atoms().T)
        sae.W_dec.copy_(W_out)
        sae.b_enc.fill_(-0.5)
        sae.b_dec.zero_()
    return save(sae, root, acts, hooks[:1])


def test_a_transcoder_is_judged_on_its_output(tmp_path):
    c = codes(N)
    W = torch.randn(ATOMS, 6, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(N, 6, generator=torch.Generator().manual_seed(4))
    x, y = c @ atoms(), c @ W + 0.3 * noise
    acts = write(tmp_path / "acts", {HOOKS[0]: x, HOOKS[1]: y})
    sae_dir = transcoder(tmp_path / "sae", acts, W)
    result = validate(config(acts, sae_dir), tmp_path / "out")
    member = result["members"][0]
    rows = in_test(N)
    expected = metrics.FVU()
    with torch.no_grad():
        expected.update(y[rows], saes.load(sae_dir)(x[rows]))
    found = member["reconstruction"]
    assert found["sae"]["fvu"] == pytest.approx(expected.compute(), rel=1e-5)
    assert (member["kind"], member["n"], member["n_problems"]) == ("transcoder", 1200, 120)
    # y is linear in x up to noise: the full map is best, rank l0 (about 2 of 6 directions) is not, mean is 1
    ones = torch.ones(N, 1, dtype=torch.float64)
    design = torch.cat([x.double(), ones], 1)
    solved = torch.linalg.lstsq(design[~rows], y[~rows].double(), rcond=1e-5, driver="gelsd").solution
    residual = y[rows] - design[rows] @ solved
    whole = float(residual.square().sum() / (y[rows] - y[rows].mean(0)).square().sum())
    assert found["linear_live"]["fvu"] == pytest.approx(whole, rel=1e-4)
    assert found["linear_live"]["fvu"] < found["linear_l0"]["fvu"] < found["mean"]["fvu"]
    assert found["mean"]["fvu"] == pytest.approx(1, abs=0.01)
    assert "one vector" in member["fidelity_skipped"]
    assert {c["baseline"] for c in member["comparisons"]} == {"mean", "linear_l0", "linear_live"}


def test_a_transcoder_of_another_hook_or_width_is_refused(tmp_path):
    x = codes(N) @ atoms()
    acts = write(tmp_path / "acts", {HOOKS[0]: x, HOOKS[1]: x[:, :5]})
    W = torch.randn(ATOMS, 6, generator=torch.Generator().manual_seed(3))
    with pytest.raises(MismatchError, match="writes width 6"):
        validate(config(acts, transcoder(tmp_path / "a", acts, W)), tmp_path / "out")
    elsewhere = transcoder(tmp_path / "b", acts, W, (HOOKS[0], "layers.9:out"))
    with pytest.raises(HookError, match=r"layers\.9:out"):
        validate(config(acts, elsewhere), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("over", ["layers", "thoughts"])
def test_a_crosscoder_is_judged_on_each_site_and_on_all(tmp_path, over):
    n, sites = 1200, 2
    c = codes(n)
    scale = torch.tensor([1.0, 5.0])
    x = (c @ atoms())[None] * scale[:, None, None]  # site, row, d
    # the second site holds something that no latent knows
    x[1] += torch.randn(n, D, generator=torch.Generator().manual_seed(1))
    if over == "layers":
        acts = write(tmp_path / "acts", dict(zip(HOOKS, x, strict=True)))
        hooks, names, rows, n_rows = HOOKS, HOOKS, in_test(n), 360
    else:
        acts = write(tmp_path / "acts", {HOOKS[0]: x.transpose(0, 1).flatten(0, 1)}, thoughts=sites)
        hooks, names, rows, n_rows = HOOKS[:1], ("t0", "t1"), in_test(n, 1), 360
    cfg = saes.CrosscoderConfig(over=over, sites=names, d_sae=ATOMS, k=3, normalization="none")
    sae = saes.create(cfg, D, seed=0)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.W_enc[0] = atoms().T
        sae.b_enc.fill_(-0.5)
        sae.W_dec.copy_(atoms()[:, None] * scale[None, :, None])
        sae.b_dec.zero_()
    sae_dir = save(sae, tmp_path / "sae", acts, hooks)
    result = validate(config(acts, sae_dir, force=True), tmp_path / "out")
    member = result["members"][0]
    test = x[:, rows]
    with torch.no_grad():
        x_hat = saes.load(sae_dir)(test.transpose(0, 1)).transpose(0, 1)
    assert member["n"] == sites * n_rows
    assert member["sparsity"]["n"] == n_rows
    assert member["sparsity"]["l0"] == pytest.approx(float((c[rows] != 0).sum() / n_rows))
    table = pq.read_table(tmp_path / "out" / "reconstruction.parquet").to_pylist()
    mine = [row for row in table if row["reconstructor"] == "sae"]
    own = [(hook, None) for hook in HOOKS] if over == "layers" else [(HOOKS[0], 0), (HOOKS[0], 1)]
    assert [(row["hook_name"], row["thought_idx"]) for row in mine] == [(None, None), *own]
    for i, row in enumerate(mine[1:]):
        error = (test[i] - x_hat[i]).square().sum() / (test[i] - test[i].mean(0)).square().sum()
        assert row["fvu"] == pytest.approx(float(error), rel=1e-5)
        assert row["n"] == n_rows
    whole = metrics.FVU()
    whole.update(test.flatten(0, 1), x_hat.flatten(0, 1))
    assert mine[0]["fvu"] == pytest.approx(whole.compute(), rel=1e-5)
    assert set(member["reconstruction"]) == {"sae", "pca_l0", "pca_live", "mean", "cell_mean"}
    # the principal components of both sites side by side, as many as the code's L0 of about 2
    flat = x.transpose(0, 1).flatten(1)
    pca = torch.linalg.svd(flat[~rows] - flat[~rows].mean(0), full_matrices=False).Vh[:2]
    left = flat[rows] - flat[~rows].mean(0)
    back = (left @ pca.T @ pca + flat[~rows].mean(0)).unflatten(1, (2, D)).transpose(0, 1)
    joint = metrics.FVU()
    joint.update(test.flatten(0, 1), back.flatten(0, 1))
    assert member["reconstruction"]["pca_l0"]["fvu"] == pytest.approx(joint.compute(), rel=1e-3)


def test_reduced_rank_regression_by_hand():
    # x has two independent directions of variance 4 and 1; y = (x1, 3 x2): the fitted variance is 4 and 9,
    # so the best map of rank 1 keeps y2
    x = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]], dtype=torch.float64)
    y = x * torch.tensor([1.0, 3.0], dtype=torch.float64)
    cross = CrossCovariance(2, 2)
    for part in (slice(0, 1), slice(1, 4)):
        cross.update(x[part], y[part])
    zero = torch.zeros(1, 2)
    one = cross.map(1, zero, zero + 7)
    assert torch.allclose(
        one(x.float()), torch.stack([torch.zeros(4), 3 * x[:, 1].float()], 1) + 7, atol=1e-5
    )
    assert torch.allclose(cross.map(5, zero, zero)(x.float()), y.float(), atol=1e-5)
    assert one.d_sae == 1
    assert torch.allclose(cross.map(2, zero, zero).first(1)(x.float()) + 7, one(x.float()), atol=1e-5)
    with pytest.raises(ConfigError, match="rank of at least 1"):
        cross.map(0, zero, zero)
    with pytest.raises(DataError, match="without variance"):
        CrossCovariance(2, 2).map(1, zero, zero)


def supervised(tmp_path, c, labels):
    """A store whose first atom is the label, and the SAE that knows it."""
    n = len(c)
    x = c @ atoms()
    meta = StoreMeta(kind="text", model="planted", hook_names=[HOOKS[0]], d_in={HOOKS[0]: D}, dtype="float32")
    writer = StoreWriter(tmp_path / "acts", meta)
    ids = [f"p{i}" for i in range(n)]
    writer.append(
        {HOOKS[0]: x}, {"problem_id": ids, "token_id": np.zeros(n, int), "position": np.zeros(n, int)}
    )
    splits = ["test" if i % 10 >= 7 else "train" for i in range(n)]
    writer.finish(pa.table({"problem_id": ids, "group_id": ids, "split": splits, "first": labels}))
    cfg = saes.SupervisedConfig(
        d_sae=ATOMS + 1,
        k=ATOMS - 1,
        normalization="none",
        label_columns=("first",),
        label_classes=(("no", "yes"),),
    )
    sae = saes.create(cfg, D, seed=0)
    with torch.no_grad():
        rows = torch.cat([torch.zeros(1, D), atoms()])  # no, yes, then the other atoms
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(rows.T)
        sae.W_enc[:, 0] = -atoms()[0]
        sae.b_enc.fill_(-0.5)
        sae.b_enc[0] = 0.5
        sae.b_dec.zero_()
    return x, save(sae, tmp_path / "sae", tmp_path / "acts", HOOKS[:1])


def test_validate_says_what_the_labels_bought(tmp_path):
    c = codes(N)
    truth = (c[:, 0] > 0).numpy()
    said = truth.copy()
    said[::10] ^= True  # in the training split only, and one labelled wrongly in the test split
    said[7] ^= True
    labels = [None if i % 10 == 8 else "yes" if value else "no" for i, value in enumerate(said)]
    x, sae_dir = supervised(tmp_path, c, labels)
    result = validate(config(tmp_path / "acts", sae_dir), tmp_path / "out")
    (line,) = result["members"][0]["labels"]
    rows = torch.arange(N) % 10 >= 7
    known = np.array([i for i in range(N) if i % 10 in (7, 9)])
    assert (line["column"], line["n"], line["n_problems"]) == ("first", 800, 800)
    assert line["accuracy"] == pytest.approx(799 / 800)
    assert line["low"] < 799 / 800 <= line["high"]
    assert line["majority"] == pytest.approx(1 - said[known].mean())
    codes_of = torch.tensor([[-1 if v is None else int(v == "yes")] for v in labels])
    (expected,) = saes.labels_bought(saes.load(sae_dir), x[rows], codes_of[rows])
    for name in ("fvu", "fvu_free", "accuracy", "majority"):
        assert line[name] == pytest.approx(expected[name], rel=1e-5)
    # without its latent the first of twelve atoms is missing: its share of the variance
    assert line["fvu_free"] - line["fvu"] == pytest.approx(1 / ATOMS, rel=0.2)


def test_labels_that_no_held_out_row_has_are_refused(tmp_path):
    c = codes(400)
    labels = ["yes" if v > 0 else "no" for v in c[:, 0]]
    labels = [None if i % 10 >= 7 else v for i, v in enumerate(labels)]
    _, sae_dir = supervised(tmp_path, c, labels)
    with pytest.raises(DataError, match="all 120 are unlabelled"):
        validate(config(tmp_path / "acts", sae_dir), tmp_path / "out")
