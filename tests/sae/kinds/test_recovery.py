"""Planted dictionaries: every architecture finds the atoms, a frozen random one does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from thoughtlens import sae as saes
from thoughtlens.sae.fit.trainer import Settings, Trainer
from thoughtlens.sae.kinds.base import counts

pytestmark = pytest.mark.slow

D_IN, N_ATOMS, D_SAE, DENSITY = 16, 20, 32, 0.1
L0 = DENSITY * N_ATOMS


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def incoherent(n: int, d: int, seed: int) -> Tensor:
    """Unit directions pushed apart, so that a code's atoms can be told from their sums."""
    atoms = unit(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))
    for _ in range(100):
        atoms = unit(atoms - 0.5 * (atoms @ atoms.T - torch.eye(n)) ** 3 @ atoms)
    return atoms


ATOMS = incoherent(N_ATOMS, D_IN, seed=0)


def codes(n: int, seed: int) -> Tensor:
    """Independent codes, each uniform on [0.5, 1.5] with probability DENSITY, else 0."""
    generator = torch.Generator().manual_seed(seed)
    fires = torch.rand(n, N_ATOMS, generator=generator) < DENSITY
    return fires * (0.5 + torch.rand(n, N_ATOMS, generator=generator))


def fit(cfg: saes.SAEConfig, x: Tensor, y: Tensor | None = None, labels: Tensor | None = None, n_steps=500):
    """An SAE trained on all rows, with the default learning rate of its architecture."""
    sae = saes.create(cfg, x.shape[-1], seed=0, d_out=None if y is None else y.shape[1])
    sae.initialize(x, y=y)
    settings = Settings(
        n_steps=n_steps, batch_size=256, lr=cfg.default_lr(D_SAE, n_steps),
        warmup=0.05, decay=0.2, grad_clip=1.0,
        dead_after_rows=5000, eval_every=1, checkpoint_every_s=60, seed=0,
    )  # fmt: skip
    trainer = Trainer(sae, settings)
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_steps):
        rows = torch.randint(len(x), (256,), generator=generator)
        trainer.step(x[rows], None, None if y is None else y[rows], None if labels is None else labels[rows])
    return sae


def share_found(W_dec: Tensor, atoms: Tensor) -> float:
    """Share of the atoms that some decoder row matches with a cosine of at least 0.95."""
    return float(((unit(W_dec.detach()) @ unit(atoms).T).max(0).values >= 0.95).double().mean())


TRAIN, TEST = codes(8192, 1), codes(4096, 2)
X, X_TEST = TRAIN @ ATOMS + 3, TEST @ ATOMS + 3
CONFIGS = [
    saes.TopKConfig(d_sae=D_SAE, k=2),
    saes.ReLUConfig(d_sae=D_SAE, l1=2.0),
    saes.PAnnealConfig(d_sae=D_SAE, l1=2.0),
    saes.GatedConfig(d_sae=D_SAE, l1=2.0),
    saes.BatchTopKConfig(d_sae=D_SAE, k=2),
    saes.JumpReLUConfig(d_sae=D_SAE, target_l0=L0),
    saes.MatryoshkaConfig(d_sae=D_SAE, k=2, prefixes=(0.75, 1.0)),
    saes.HierarchicalTopKConfig(d_sae=D_SAE, k=2),
]


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: c.kind)
def test_atoms_are_recovered(cfg):
    sae = fit(cfg, X, n_steps=900 if cfg.kind == "gated" else 500)
    assert share_found(sae.W_dec, ATOMS) >= 0.95
    l0 = counts(sae.encode(X_TEST), D_SAE).sum().item() / len(X_TEST)
    if cfg.kind in ("batchtopk", "jumprelu", "matryoshka", "hierarchical_topk"):
        assert l0 == pytest.approx(L0, rel=0.05)
    else:
        assert 0.5 * L0 < l0 < 2 * L0


def test_the_atoms_are_incoherent():
    assert float((ATOMS @ ATOMS.T - torch.eye(N_ATOMS)).abs().max()) < 0.3


def test_random_directions_do_not_recover_them():
    sae = saes.create(saes.TopKConfig(d_sae=D_SAE, k=2), D_IN, seed=0)
    assert share_found(sae.W_dec, ATOMS) <= 0.05


def test_a_supervised_sae_recovers_atoms_and_labels():
    labels, truth = (TRAIN[:, :1] > 0).long(), (TEST[:, :1] > 0).long()
    cfg = saes.SupervisedConfig(d_sae=D_SAE, k=2, label_columns=("a",), label_classes=(("no", "yes"),))
    sae = fit(cfg, X, labels=labels, n_steps=1000)
    (line,) = saes.labels_bought(sae, X_TEST, truth)
    assert line["majority"] == pytest.approx(1 - DENSITY, abs=0.02)
    assert line["accuracy"] > 0.96
    assert share_found(sae.W_dec, ATOMS) >= 19 / 20
    # the label's atom is what the latent tied to "yes" writes, so that no free latent needs to
    assert share_found(sae.W_dec[1:2], ATOMS[:1]) == 1
    # one of the 19 may be missed: last digits of sums decide between optima
    assert share_found(sae.free_part().W_dec, ATOMS[1:]) >= 18 / 19


def test_a_transcoder_recovers_what_the_input_s_atoms_write():
    written = incoherent(N_ATOMS, 18, seed=5)
    sae = fit(saes.TranscoderConfig(d_sae=D_SAE, k=2), X, 3 * TRAIN @ written + 1)
    assert share_found(sae.W_dec, written) >= 0.95
    reads = unit(sae.W_enc.detach().T) @ ATOMS.T
    match = (unit(sae.W_dec.detach()) @ written.T).argmax(0)
    assert (reads.argmax(1)[match] == torch.arange(N_ATOMS)).float().mean() >= 0.95


def test_a_skip_transcoder_leaves_what_is_linear_to_its_linear_map():
    y, y_test = (x @ incoherent(D_IN, 18, seed=5) for x in (X, X_TEST))
    fvu = []
    for skip in (False, True):
        sae = fit(saes.TranscoderConfig(d_sae=D_SAE, k=2, skip=skip), X, y)
        error = (y_test - sae(X_TEST).detach()).square().sum()
        fvu.append(float(error / (y_test - y_test.mean(0)).square().sum()))
    assert fvu[1] < 0.02 < 0.1 < fvu[0]


@pytest.mark.parametrize("sparsity", ["batchtopk", "l1"])
def test_a_crosscoder_recovers_atoms_and_where_they_live(sparsity):
    on = torch.ones(N_ATOMS, 3)
    on[:4, 0], on[4:8, 2], on[8:12, 1:] = 0, 0, 0
    atoms = torch.stack([incoherent(N_ATOMS, D_IN, seed) for seed in (5, 6, 7)], 1) * on[:, :, None]
    scale = torch.tensor([1.0, 20.0, 0.1])[:, None]
    x, x_test = (torch.einsum("nf,fsd->nsd", c, atoms) * scale + 1 for c in (TRAIN, TEST))
    cfg = saes.CrosscoderConfig(d_sae=D_SAE, k=2, over="thoughts", sites=("1", "2", "3"), sparsity=sparsity)
    sae = fit(cfg, x)
    truth = (atoms * scale / sae.normalization.spread[:, None]).flatten(1)
    assert share_found(sae.W_dec.flatten(1), truth) >= 0.95
    found = saes.persistence(sae, x_test)
    match = (unit(sae.W_dec.detach().flatten(1)) @ unit(truth).T).argmax(0)
    expected = ["appears"] * 4 + ["vanishes"] * 8 + ["persists"] * 8
    right = sum(found.status[int(f)] == e for f, e in zip(match, expected, strict=True))
    assert right >= 19
