"""One library's own training step, timed on request: started by `peers.py` in that library's environment.

    python peer_worker.py SETTINGS.json

SETTINGS names the library, kind, sizes, dtype and a file of rows (`.npy`, float32). For every line on
stdin, one step on the next batch; its milliseconds are the answer on stdout. Everything a library prints
goes to stderr. What a step is, is each library's own: the loop around it (data, logging, checkpoints) is
left out for all alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it would ask for a GPU
os.environ["WANDB_MODE"] = "disabled"

import numpy as np
import torch

Step = Callable[[torch.Tensor], Any]


def thoughtlens(s: dict[str, Any], x: torch.Tensor) -> Step:
    from thoughtlens.bench.train_step import new_trainer

    return new_trainer(x, s["kind"], s["d_sae"], s["k"], s["dtype"], s["steps"]).step


def sae_lens(s: dict[str, Any], x: torch.Tensor) -> Step:
    """`SAETrainer.step`, as `fit` calls it."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    common = {"d_in": s["d_in"], "d_sae": s["d_sae"], "metadata": SAEMetadata()}
    if s["kind"] == "topk":
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(k=s["k"], **common))
    else:
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(**common))
    batch = len(x)
    cfg = SAETrainerConfig(
        total_training_samples=s["steps"] * batch,
        train_batch_size_samples=batch,
        lr_end=3e-5,
        autocast=s["dtype"] == "bfloat16",
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg, sae, data_provider=iter(()))

    def step(x: torch.Tensor) -> None:
        output = trainer.step(x)
        trainer.n_training_steps += 1
        trainer._update_pbar(output, _NoBar())

    return step


class _NoBar:
    def set_description(self, *_: Any) -> None: ...
    def update(self, *_: Any) -> None: ...


def sparsify(s: dict[str, Any], x: torch.Tensor) -> Step:
    """The body of `Trainer.fit` for one hookpoint, with the optimizer it takes by default."""
    from schedulefree import ScheduleFreeWrapper
    from sparsify.config import SparseCoderConfig
    from sparsify.sign_sgd import SignSGD
    from sparsify.sparse_coder import SparseCoder

    sae = SparseCoder(s["d_in"], SparseCoderConfig(num_latents=s["d_sae"], k=s["k"]), dtype=torch.float32)
    sae.b_dec.data = x.mean(0)
    lr = 5e-3 / (s["d_sae"] / 2**14) ** 0.5
    optimizer = ScheduleFreeWrapper(SignSGD(sae.parameters(), lr=lr), momentum=0.95)
    optimizer.train()
    since_fired = torch.zeros(s["d_sae"], dtype=torch.long)
    did_fire = torch.zeros(s["d_sae"], dtype=torch.bool)

    def step(x: torch.Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        variance = (x - x.mean(0)).pow(2).sum()
        with _autocast(s):
            out = sae(x=x, y=x, dead_mask=None, total_variance=variance)
        did_fire[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        (out.fvu + out.multi_topk_fvu / 8).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        since_fired.add_(len(x))
        since_fired[did_fire] = 0
        did_fire.zero_()

    return step


def dictionary_learning(s: dict[str, Any], x: torch.Tensor) -> Step:
    """`Trainer.update`, as `trainSAE` calls it."""
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    common = {
        "steps": s["steps"], "activation_dim": s["d_in"], "dict_size": s["d_sae"], "layer": 0,
        "lm_name": "none", "device": "cpu", "seed": 0,
    }  # fmt: skip
    trainer = TopKTrainer(k=s["k"], **common) if s["kind"] == "topk" else StandardTrainer(**common)
    n = iter(range(10**9))

    def step(x: torch.Tensor) -> None:
        with _autocast(s):
            trainer.update(next(n), x)

    return step


def _autocast(s: dict[str, Any]) -> contextlib.AbstractContextManager:
    return torch.autocast("cpu", torch.bfloat16, enabled=s["dtype"] == "bfloat16")


LIBRARIES = {f.__name__: f for f in (thoughtlens, sae_lens, sparsify, dictionary_learning)}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with open(sys.argv[1]) as file:
        s = json.load(file)
    torch.manual_seed(0)
    torch.set_num_threads(s["threads"])
    batches = torch.from_numpy(np.load(s["rows"])).split(s["batch"])
    step = LIBRARIES[s["library"]](s, batches[0])
    answers.write("ready\n")
    for i, _ in enumerate(sys.stdin):
        start = time.perf_counter()
        step(batches[i % len(batches)])
        answers.write(f"{1e3 * (time.perf_counter() - start)}\n")


if __name__ == "__main__":
    main()
