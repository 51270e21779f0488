"""The study's pipeline as switches, each from how it was to how it is corrected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from thoughtlens.evals.first_study.config import ReplayConfig
from thoughtlens.evals.first_study.data import Problems
from thoughtlens.evals.probing import probes
from thoughtlens.evals.probing.matrices import compact
from thoughtlens.evals.probing.probes import Folds
from thoughtlens.problems import CLASSES, SEED
from thoughtlens.sae import SAE, ReLUConfig, TopKConfig, settings, train_rows

TEST_SHARE = 0.2


@dataclass(frozen=True)
class Protocol:
    """How two arms are scored; the defaults are the study's."""

    test: Literal["two splits", "one split", "folds", "grouped folds"] = "two splits"
    scaler: Literal["raw", "both"] = "raw"
    sae_pooling: Literal["all", "per hook"] = "all"
    choose_c: bool = False
    sae_sees: Literal["all", "training folds"] = "all"
    labels: Literal["first", "checked"] = "first"
    thoughts: Literal["0 to 5", "1 to 6"] = "0 to 5"
    sae: Literal["relu", "topk"] = "relu"


LADDER: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("as it was", "one 80/20 split of its own for each arm; raw scaled, SAE not; other poolings", {}),
    ("test set", "the same 20 % of the problems are tested in both arms", {"test": "one split"}),
    ("number tested", "every problem is tested once, in five folds", {"test": "folds"}),
    ("grouped twins", "problems of one group are never on both sides of a fold", {"test": "grouped folds"}),
    ("scaling", "both arms scaled to unit variance on the training fold", {"scaler": "both"}),
    ("pooling", "both: mean over thoughts for each hook, hooks side by side", {"sae_pooling": "per hook"}),
    ("choice of C", "C chosen in inner folds, instead of 1", {"choose_c": True}),
    ("test-set SAE", "the SAE is trained on the training folds only", {"sae_sees": "training folds"}),
    ("label noise", "labels from annotations; problems without one left out", {"labels": "checked"}),
    ("thoughts", "thoughts 1 to 6, instead of begin-of-thought and 1 to 5", {"thoughts": "1 to 6"}),
    ("architecture", "a TopK SAE with normalised input, instead of ReLU with L1", {"sae": "topk"}),
)
"""(name, what changed, the switch), each on top of those before."""


class Change(NamedTuple):
    """One line of the ladder."""

    name: str
    what: str
    protocol: Protocol


def protocols() -> list[Change]:
    """The ladder as complete protocols."""
    own, out = Protocol(), []
    for name, what, switch in LADDER:
        own = replace(own, **switch)
        out.append(Change(name, what, own))
    return out


@dataclass(frozen=True, eq=False)
class Scored:
    """One arm: predictions of the problems that were tested."""

    tested: Int[np.ndarray, " m"]
    """Which problems, by number."""
    y: Int[np.ndarray, " m"]
    pred: Int[np.ndarray, " m"]


class Scores(NamedTuple):
    """Both arms under one protocol."""

    raw: Scored
    sae: Scored


class Replay:
    """Scores both arms under any protocol; SAEs are trained once for each way of training them."""

    def __init__(self, cfg: ReplayConfig, data: Problems) -> None:
        self.cfg, self.data = cfg, data
        y = self._codes(data.first)
        self.folds = {
            "folds": self._loose_folds(y),
            "grouped folds": probes.make_folds(
                y, data.groups, n_splits=cfg.folds, seed=cfg.seed, classes=CLASSES
            ),
        }
        self._saes: dict[tuple, SAE] = {}

    def score(self, p: Protocol) -> Scores:
        """Raw activations and SAE latents under a protocol."""
        labels = self.data.first if p.labels == "first" else self.data.checked
        kept = np.array([i for i, own in enumerate(labels) if own is not None])
        y = self._codes([labels[i] for i in kept.tolist()])
        if p.test in ("two splits", "one split"):
            return Scores(self._split(p, kept, y, "raw"), self._split(p, kept, y, "sae"))
        return Scores(self._folded(p, kept, y, "raw"), self._folded(p, kept, y, "sae"))

    def sae(self, p: Protocol, fold: int | None) -> SAE:
        """The SAE of a protocol that sees all problems, or those outside of one fold."""
        key = (p.sae, p.thoughts, fold)
        if key not in self._saes:
            seen = np.arange(self.data.n) if fold is None else np.flatnonzero(self._grouped.outer != fold)
            self._saes[key] = self._train(p, seen)
        return self._saes[key]

    def vectors(self, p: Protocol) -> tuple[Float[Tensor, "n thoughts hooks d_in"], list]:
        """The six positions that a protocol looks at, and their cells."""
        own = slice(0, 6) if p.thoughts == "0 to 5" else slice(1, 7)
        n_hooks = len(self.data.hook_names)
        return self.data.x[:, own], self.data.cells[own.start * n_hooks : own.stop * n_hooks]

    @property
    def _grouped(self) -> Folds:
        return self.folds["grouped folds"]

    def _split(self, p: Protocol, kept: np.ndarray, y: np.ndarray, arm: str) -> Scored:
        # The study stratified by the labels' names in one script, and by numbers in order of first
        # appearance in the other, which draws two different test sets from one seed.
        names = np.array(CLASSES)[y]
        seen = {name: i for i, name in enumerate(dict.fromkeys(names.tolist()))}
        numbers = np.array([seen[name] for name in names.tolist()])
        by = names if arm == "raw" or p.test == "one split" else numbers
        parts = train_test_split(np.arange(len(y)), test_size=TEST_SHARE, random_state=SEED, stratify=by)
        train, test = map(np.asarray, parts)
        X = self._features(p, arm, None)[kept]
        return Scored(kept[test], y[test], _plain((X[train], y[train]), X[test], _scaled(p, arm)))

    def _folded(self, p: Protocol, kept: np.ndarray, y: np.ndarray, arm: str) -> Scored:
        whole = self.folds[p.test]
        folds = Folds(whole.outer[kept], whole.inner[:, kept])
        pred = np.zeros(len(y), int)
        for fold in range(folds.n_splits):
            X = self._features(p, arm, fold if p.sae_sees == "training folds" else None)[kept]
            train, test = np.flatnonzero(folds.outer != fold), np.flatnonzero(folds.outer == fold)
            if p.choose_c:
                found = probes.probe(compact(X), y, folds, n_classes=len(CLASSES), only=(fold,))
                pred[test] = found.pred[test]
            else:
                pred[test] = _plain((X[train], y[train]), X[test], _scaled(p, arm))
        return Scored(kept, y, pred)

    @torch.no_grad()
    def _features(self, p: Protocol, arm: str, fold: int | None) -> np.ndarray:
        x, cells = self.vectors(p)
        if arm == "raw":
            return x.mean(1).flatten(1).numpy()
        sae, total = self.sae(p, fold), []
        for part in x.split(64):
            index = sae.cell_index(cells, np.tile(np.arange(len(cells)), len(part)))
            acts = sae.encode(part.flatten(0, 2), index).unflatten(0, part.shape[:3])
            total.append(acts.mean((1, 2)) if p.sae_pooling == "all" else acts.mean(1).flatten(1))
        return torch.cat(total).numpy()

    def _train(self, p: Protocol, seen: np.ndarray) -> SAE:
        cfg, (x, cells) = self.cfg, self.vectors(p)
        rows = x[torch.from_numpy(seen)].flatten(0, 2)
        cell = torch.arange(len(cells)).repeat(len(seen))
        if p.sae == "topk":
            kind = TopKConfig(expansion=cfg.expansion, k=cfg.k)
            schedule = {}
        else:
            kind = first_sae(cfg)
            schedule = {"lr": 1e-3, "warmup": 0.0, "decay": 0.0, "grad_clip": 0.0}
        d_sae = kind.width(rows.shape[1])
        s = settings(kind, d_sae, len(rows), epochs=cfg.epochs, batch_size=256, seed=cfg.seed, **schedule)
        return train_rows(kind, rows, cell, cells, s)

    def _codes(self, labels: list) -> np.ndarray:
        return np.array([CLASSES.index(own) for own in labels])

    def _loose_folds(self, y: np.ndarray) -> Folds:
        """Stratified folds that do not look at groups."""
        outer = np.zeros(len(y), int)
        splitter = StratifiedKFold(self.cfg.folds, shuffle=True, random_state=self.cfg.seed)
        for fold, (_, test) in enumerate(splitter.split(y, y)):
            outer[test] = fold
        return Folds(outer, np.zeros((self.cfg.folds, len(y)), int))


def first_sae(cfg: ReplayConfig) -> ReLUConfig:
    """The study's SAE: ReLU, L1 on mean squared error, nothing normalised, no constraint on the decoder."""
    return ReLUConfig(
        expansion=cfg.expansion, l1=cfg.l1, l1_warmup=0.0, reconstruction="mean", penalty="sum",
        decoder_norm="free", pre_bias=False, init="linear", normalization="none",
    )  # fmt: skip


def _scaled(p: Protocol, arm: str) -> bool:
    return arm == "raw" or p.scaler == "both"


def _plain(train: tuple[np.ndarray, np.ndarray], test: np.ndarray, scaled: bool) -> np.ndarray:
    """The study's classifier: C = 1, scaled or not."""
    X, y = train
    if scaled:
        scaler = StandardScaler().fit(X)
        X, test = (np.asarray(scaler.transform(part)) for part in (X, test))
    with threadpool_limits(1, "blas"):
        return LogisticRegression(max_iter=1000, C=1.0).fit(X, y).predict(test)
