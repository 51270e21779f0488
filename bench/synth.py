"""Our kinds beside SAELens's on rows whose features are known: a model of SAELens's own `synthetic` code.

    make peers
    .venv-peers/bin/python bench/synth.py [--seeds 0 1] [--rows 400000]

The model is built as SynthSAEBench's are (arXiv:2602.14687: Zipfian firing, hierarchy with exclusive
children, low-rank correlations, firing magnitudes that vary, features in superposition), far smaller, with
a seed of its own: the numbers are not the score of the benchmark. Every SAE sees the same rows once, has as
many latents, the same k (what fires in the model on average, rounded) and the same size of batch; SAELens's
have its default learning rate, and ours. Ours are written in SAELens's format, and all are judged by its
`eval_sae_on_synthetic_data` on rows that none was trained on. JSON goes to `results/`, a table to stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

os.environ["WANDB_MODE"] = "disabled"

import torch
from run import of_today, processor
from sae_lens import SAE
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.synthetic import eval_sae_on_synthetic_data
from sae_lens.synthetic.firing_probabilities import ZipfianFiringProbabilityConfig
from sae_lens.synthetic.hierarchy.config import HierarchyConfig
from sae_lens.synthetic.synthetic_model import (
    LowRankCorrelationConfig,
    OrthogonalizationConfig,
    SyntheticModel,
    SyntheticModelConfig,
)
from sae_lens.training.sae_trainer import SAETrainer

import thoughtlens as tl
from thoughtlens.sae import BatchTopKConfig, MatryoshkaConfig, SAEConfig, TopKConfig, save, settings
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert

FEATURES, D_IN, D_SAE, BATCH, TEST = 1024, 128, 512, 1024, 50_000
KINDS = {"topk": TopKConfig, "batchtopk": BatchTopKConfig}
PREFIXES = (0.125, 0.5, 1.0)
"""Of the Matryoshka SAEs' latents."""
SHOWN = ("mcc", "f1", "uniqueness", "explained_variance", "l0", "dead", "cpu_s")


class Given(NamedTuple):
    """What every SAE of a seed is trained on."""

    rows: torch.Tensor
    k: int
    seed: int


def model_of(seed: int) -> SyntheticModel:
    """A small model with everything that SynthSAEBench's have."""
    return SyntheticModel(
        SyntheticModelConfig(
            num_features=FEATURES,
            hidden_dim=D_IN,
            firing_probability=ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.4, min_prob=0.005),
            hierarchy=HierarchyConfig(
                total_root_nodes=32,
                branching_factor=4,
                max_depth=3,
                mutually_exclusive_portion=1.0,
                compensate_probabilities=True,
            ),
            orthogonalization=OrthogonalizationConfig(num_steps=100),
            correlation=LowRankCorrelationConfig(rank=8, correlation_scale=0.1),
            std_firing_magnitudes=0.5,
            mean_firing_magnitudes=2.0,
            seed=seed,
        )
    )


def config_of(kind: str, given: Given) -> SAEConfig:
    """A kind's settings here."""
    size = {"d_sae": D_SAE, "k": given.k}
    return MatryoshkaConfig(prefixes=PREFIXES, **size) if kind == "matryoshka" else KINDS[kind](**size)


def theirs(kind: str, given: Given, lr: float) -> SAE[Any]:
    """An SAE of SAELens, trained by its own trainer, as it saves it."""
    torch.manual_seed(given.seed)
    common = {"d_in": D_IN, "d_sae": D_SAE, "k": given.k, "device": "cpu"}
    made: Callable[[], Any] = {
        "topk": lambda: TopKTrainingSAE(TopKTrainingSAEConfig(**common)),
        "batchtopk": lambda: BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**common)),
        "matryoshka": lambda: MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(
                matryoshka_widths=[int(share * D_SAE) for share in PREFIXES], **common
            )
        ),
    }[kind]
    cfg = SAETrainerConfig(
        lr=lr,
        lr_end=lr / 10,
        total_training_samples=len(given.rows),
        train_batch_size_samples=BATCH,
        device="cpu",
        logger=LoggingConfig(log_to_wandb=False, eval_every_n_wandb_logs=2**31 - 1),
    )
    sae = made()
    SAETrainer(cfg, sae, data_provider=iter(given.rows.split(BATCH))).fit()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return SAE.load_from_disk(folder)


def ours(kind: str, given: Given, lr: float) -> SAE[Any]:
    """The same kind of this library, in SAELens's format."""
    sae = tl.fit(config_of(kind, given), given.rows, epochs=1, batch_size=BATCH, lr=lr, seed=given.seed)
    with tempfile.TemporaryDirectory() as folder:
        save(sae, Path(folder) / "ours")
        convert(ConvertConfig(source=Path(folder) / "ours", to="sae_lens"), Path(folder) / "theirs")
        return SAE.load_from_disk(str(Path(folder) / "theirs"))


def judged(sae: SAE[Any], model: SyntheticModel, seed: int, cpu_s: float) -> dict[str, float]:
    """What SAELens's own evaluation says, on rows of its own."""
    torch.manual_seed(10_000 + seed)
    found = eval_sae_on_synthetic_data(sae, model.feature_dict, model.activation_generator, TEST, BATCH)
    table = asdict(found)
    return {
        "mcc": table["mcc"],
        "f1": table["classification"]["f1_score"],
        "precision": table["classification"]["precision"],
        "recall": table["classification"]["recall"],
        "uniqueness": table["uniqueness"],
        "explained_variance": table["explained_variance"],
        "l0": table["sae_l0"],
        "true_l0": table["true_l0"],
        "dead": table["dead_latents"],
        "shrinkage": table["shrinkage"],
        "cpu_s": cpu_s,
    }


def measure(seed: int, n_rows: int) -> list[dict[str, Any]]:
    """Every kind of both libraries on the model of one seed."""
    model = model_of(seed)
    torch.manual_seed(seed)
    drawn = torch.empty(n_rows // BATCH * BATCH, D_IN)
    fired = 0
    for part in drawn.split(BATCH):
        x, acts = model.sample_with_features(BATCH)
        part.copy_(x)
        fired += int((acts != 0).sum())
    k = round(fired / len(drawn))
    given = Given(drawn, k, seed)
    rows = []
    for kind in ("topk", "batchtopk", "matryoshka"):
        config = config_of(kind, given)
        lr = settings(config, D_SAE, len(given.rows), epochs=1, batch_size=BATCH, seed=seed).lr
        own = SAETrainerConfig.lr
        for library, train, rate in (
            ("SAELens", theirs, own),
            ("SAELens, our rate", theirs, lr),
            ("thoughtlens", ours, lr),
        ):
            start = time.process_time()
            with contextlib.redirect_stdout(sys.stderr):
                sae = train(kind, given, rate)
            found = judged(sae, model, seed, round(time.process_time() - start, 1))
            rows.append({"seed": seed, "kind": kind, "library": library, "k": k, "lr": rate, **found})
    return rows


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", type=int, default=400_000)
    args = parser.parse_args()
    rows = [row for seed in args.seeds for row in measure(seed, args.rows)]
    size = {"features": FEATURES, "d_in": D_IN, "d_sae": D_SAE, "rows": args.rows, "test_rows": TEST}
    table = {"processor": processor(), "torch": torch.__version__, **size, "runs": rows}
    file = of_today("synth")
    file.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    print("| kind | library | " + " | ".join(SHOWN) + " |")
    for kind, library in dict.fromkeys((row["kind"], row["library"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["library"]) == (kind, library)]
        cells = [[row[name] for row in own] for name in SHOWN]
        shown = [f"{sum(one) / len(one):.3g} ({min(one):.3g} to {max(one):.3g})" for one in cells]
        print(f"| {kind} | {library} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
