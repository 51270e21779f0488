"""Supervised SAEs by hand: what labels train, what they do not, and what they bought."""

from __future__ import annotations

import math

import pytest
import torch

from tests.sae.kinds.each import inputs, make
from tests.sae.toy import X, by_hand, directional_error
from thoughtlens import sae as saes
from thoughtlens.core import ConfigError, DataError, MismatchError

CFG = saes.SupervisedConfig(
    d_sae=3, k=1, normalization="none", label_columns=("op",), label_classes=(("+", "-"),)
)
WIDE = saes.SupervisedConfig(
    d_sae=20,
    k=3,
    normalization="none",
    label_columns=("op", "big"),
    label_classes=(("+", "-", "*"), ("n", "y")),
)


def test_loss_by_hand():
    # latents 0 and 1 are tied: acts 3, 0 and 1, 2; the free latent 2: 1.8 and 2.2
    # x_hat (4.08, 1.44) and (2.32, 3.76): squared errors 3.24 and 4.84, mean over 4 entries 2.02
    # only row 0 is labelled, with class 0: ln(1 + e^-3) + ln 2, mean over 2 classes, times 0.1
    loss = by_hand(CFG).loss(saes.Batch(torch.tensor(X), labels=torch.tensor([[0], [-1]])))
    assert loss.acts.tolist() == [[3.0, 0.0, pytest.approx(1.8)], [1.0, 2.0, pytest.approx(2.2)]]
    assert loss.terms["reconstruction"].item() == pytest.approx(2.02, rel=1e-5)
    expected = 0.1 * (math.log1p(math.exp(-3)) + math.log(2)) / 2
    assert loss.terms["label"].item() == pytest.approx(expected, rel=1e-5)


def test_unlabelled_rows_cost_nothing():
    loss = by_hand(CFG).loss(saes.Batch(torch.tensor(X), labels=torch.tensor([[-1], [-1]])))
    assert loss.terms["label"].item() == 0
    with pytest.raises(MismatchError, match=r"Batch\.labels"):
        by_hand(CFG).loss(saes.Batch(torch.tensor(X)))


def batch():
    x = inputs(WIDE, 32)["x"]
    return saes.Batch(x, labels=torch.stack([torch.arange(32) % 4 - 1, torch.arange(32) % 2], dim=1))


def test_what_trains_what():
    sae = make(WIDE)
    sae.loss(batch()).terms["reconstruction"].backward()
    assert not sae.W_enc.grad[:, :5].any() and not sae.b_enc.grad[:5].any()
    assert sae.W_enc.grad[:, 5:].any() and (sae.W_dec.grad[:5].norm(dim=1) > 0).any()
    sae.zero_grad()
    sae.loss(batch()).terms["label"].backward()
    assert (sae.W_enc.grad[:, :5].norm(dim=0) > 0).all() and not sae.W_enc.grad[:, 5:].any()
    assert sae.W_dec.grad is None or not sae.W_dec.grad.any()


def test_gradients_match_finite_differences():
    sae = make(WIDE)
    assert directional_error(sae, lambda: sae.loss(batch()).terms["label"]) < 1e-5
    with torch.no_grad():
        sae.b_enc[:5] = -1e3  # tied latents silent: no gradient is cut
    assert directional_error(sae, lambda: sae.loss(batch()).terms["reconstruction"]) < 1e-5


def test_tied_rows_have_no_fixed_length():
    sae = saes.create(WIDE, 6, seed=0)
    assert not sae.W_dec[:5].any()
    with torch.no_grad():
        sae.W_dec.mul_(3)
        sae.W_dec[0, 0] = 2
    sae.normalize_decoder()
    assert sae.W_dec[0, 0] == 2
    assert torch.allclose(sae.W_dec[5:].norm(dim=1), torch.ones(15))
    assert sae.unit_from == 5


@torch.no_grad()
def test_the_free_part_is_a_topk_sae():
    sae = make(WIDE.model_copy(update={"normalization": "global"}), sample=inputs(WIDE, 100))
    x, free = inputs(WIDE, 32)["x"], sae.free_part()
    assert type(free) is saes.TopKSAE and free.d_sae == 15 and free.cfg.k == 3
    acts = sae.encode(x)
    assert torch.allclose(free.encode(x), acts[:, 5:])
    acts[:, :5] = 0
    assert torch.allclose(free(x), sae.decode(acts))


def test_labels_by_hand():
    table = {"op": ["-", "+", None, "*"], "n": [1, 2, 1, 1], "same": ["a"] * 4}
    classes, codes = saes.encode_labels(table, ["op", "n"])
    assert classes == (("*", "+", "-"), ("1", "2"))
    assert codes.tolist() == [[2, 0], [1, 1], [-1, 0], [0, 0]]
    _, codes = saes.encode_labels(table, ["op"], [("+", "-")])
    assert codes.tolist() == [[1], [0], [-1], [-1]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [(["oop"], "among op, same, wide, none, got 'oop'"), (["same"], "'same', got 1: it is constant"),
     (["wide"], "2 to 64 different values in 'wide', got 65"), (["none"], "got 0: no row has a value"),
     ([], "at least one label column"), (["op", "op"], "each column once, got op, op")],
)  # fmt: skip
def test_unusable_labels_are_refused(columns, message):
    table = {"op": ["+", "-"] * 33, "same": ["a"] * 66, "wide": [*range(65), 0], "none": [None] * 66}
    with pytest.raises(ConfigError, match=message):
        saes.encode_labels(table, columns)


def test_what_labels_bought_by_hand():
    # logits = acts of latents 0 and 1: (3, 0), (1, 2), (0, 3); truth -, -, -: right on the last two rows
    x = torch.tensor([[3.0, 0.0], [1.0, 2.0], [0.0, 3.0], [9.0, 9.0]])
    labels = torch.tensor([[1], [1], [0], [-1]])
    (line,) = saes.labels_bought(by_hand(CFG), x, labels)
    assert line["column"] == "op" and line["n"] == 3
    assert line["accuracy"] == pytest.approx(1 / 3) and line["majority"] == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="op"):
        saes.labels_bought(by_hand(CFG), x, torch.full((4, 1), -1))


def test_fvu_with_and_without_the_tied_latents_by_hand():
    # the free latent silent, so x_hat = tied acts: exact on positive rows. Held at their mean (2, 2),
    # every row becomes the mean
    sae = by_hand(CFG)
    with torch.no_grad():
        sae.b_enc[2] = -100
    x = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    (line,) = saes.labels_bought(sae, x, torch.tensor([[0], [1]]))
    assert line["fvu"] == pytest.approx(0, abs=1e-9) and line["fvu_free"] == pytest.approx(1)
