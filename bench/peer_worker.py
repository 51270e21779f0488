"""One library's own training step, in that library's environment: started by `peers.py` and `quality.py`.

    python peer_worker.py SETTINGS.json

SETTINGS names the library, kind, sizes, dtype and a file of rows (`.npy`, float32). For every line on
stdin, one step on the next batch; its milliseconds are the answer on stdout. With `members` in SETTINGS it is
a step of that many SAEs, each on a batch of its own: a peer takes `share` of them, and its milliseconds are
those of all at the same speed. With `test` and `out` in SETTINGS, it takes all its steps at once, over the
rows in their order, and writes what its SAE makes of the rows of `test`. With `warm`, ours has trained that
many of `steps` before the first that is timed: how many latents fire decides how long it takes. The peers'
products are dense, and take as long whatever fires. `device` is where all of it is done: the CPU unless
SETTINGS say otherwise. Everything a library prints goes to
stderr. What a step is, is each library's own: the loop around it (data, logging, checkpoints) is left out for
all alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

os.environ["WANDB_MODE"] = "disabled"

import numpy as np
import torch


class Library(NamedTuple):
    """A training step, and what the SAE says of rows after training: its code and its reconstruction."""

    step: Callable[[torch.Tensor], Any]
    read: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None


def thoughtlens(s: dict[str, Any], x: torch.Tensor) -> Library:
    """The step alone; its SAEs are trained for `quality.py` by its own train stage."""
    from thoughtlens.ops.bench.train_step import new_trainer

    own = {"l1": s["l1"]} if "l1" in s else {}
    trainer = new_trainer(x, s["kind"], s["d_sae"], s["k"], dtype=s["dtype"], steps=s["steps"], **own)
    return Library(trainer.step, lambda rows: (trainer.sae.encode(rows), trainer.sae(rows)))


def thoughtlens_stack(s: dict[str, Any], x: torch.Tensor) -> Library:
    """Many SAEs as the train stage trains them: in groups, the groups side by side."""
    from thoughtlens.ops.bench.stack import grouped_steps, new_trainers, side_by_side, stage_size

    trainers = new_trainers(x, s["kind"], s["d_sae"], s["k"], dtype=s["dtype"], steps=s["steps"])
    return Library(side_by_side(grouped_steps(trainers, stage_size(x, s["d_sae"])), x.device))


def thoughtlens_loop(s: dict[str, Any], x: torch.Tensor) -> Library:
    """Many SAEs one after another."""
    return one_by_one(thoughtlens, s, x)


def thoughtlens_reference(s: dict[str, Any], x: torch.Tensor) -> Library:
    """The same with the kernels' definitions in plain torch."""
    os.environ["THOUGHTLENS_KERNELS"] = "reference"
    return one_by_one(thoughtlens, s, x)


def one_by_one(library: Callable[..., Library], s: dict[str, Any], x: torch.Tensor) -> Library:
    """A step of an SAE on each batch of `x`."""
    each = [library(s, rows) for rows in x]

    def step(x: torch.Tensor) -> None:
        for one, rows in zip(each, x, strict=True):
            one.step(rows)

    return Library(step)


def sae_lens(s: dict[str, Any], x: torch.Tensor) -> Library:
    """`SAETrainer.step`, as `fit` calls it; read through the inference SAE that it saves."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import SAE, SAEMetadata
    from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    device = str(x.device)
    common = {"d_in": s["d_in"], "d_sae": s["d_sae"], "device": device, "metadata": SAEMetadata()}
    if s["kind"] == "topk":
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(k=s["k"], **common))
    elif s["kind"] == "batchtopk":
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=s["k"], **common))
    else:
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(**common))
    batch = len(x)
    lr = s.get("lr") or SAETrainerConfig.lr
    cfg = SAETrainerConfig(
        total_training_samples=s["steps"] * batch,
        train_batch_size_samples=batch,
        lr=lr,
        lr_end=lr / 10,
        autocast=s["dtype"] == "bfloat16",
        device=device,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg, sae, data_provider=iter(()))

    def step(x: torch.Tensor) -> None:
        output = trainer.step(x)
        trainer.n_training_steps += 1
        trainer._update_pbar(output, _NoBar())

    def read(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            saved = SAE.load_from_disk(folder)
        acts = saved.encode(rows)
        return acts, saved.decode(acts)

    return Library(step, read)


class _NoBar:
    def set_description(self, *_: Any) -> None: ...
    def update(self, *_: Any) -> None: ...


def sparsify(s: dict[str, Any], x: torch.Tensor) -> Library:
    """The body of `Trainer.fit` for one hookpoint, with the optimizer it takes by default."""
    from schedulefree import ScheduleFreeWrapper
    from sparsify.config import SparseCoderConfig
    from sparsify.sign_sgd import SignSGD
    from sparsify.sparse_coder import SparseCoder

    cfg = SparseCoderConfig(num_latents=s["d_sae"], k=s["k"])
    sae = SparseCoder(s["d_in"], cfg, device=x.device, dtype=torch.float32)
    sae.b_dec.data = x.mean(0)
    lr = s.get("lr") or 5e-3 / (s["d_sae"] / 2**14) ** 0.5
    optimizer = ScheduleFreeWrapper(SignSGD(sae.parameters(), lr=lr), momentum=0.95)
    optimizer.train()
    since_fired = torch.zeros(s["d_sae"], dtype=torch.long, device=x.device)
    did_fire = torch.zeros(s["d_sae"], dtype=torch.bool, device=x.device)

    def step(x: torch.Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        variance = (x - x.mean(0)).pow(2).sum()
        with _autocast(s, x):
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

    def read(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        optimizer.eval()
        values, indices, _ = sae.encode(rows)
        return rows.new_zeros(len(rows), s["d_sae"]).scatter(1, indices, values), sae.decode(values, indices)

    return Library(step, read)


def dictionary_learning(s: dict[str, Any], x: torch.Tensor) -> Library:
    """`Trainer.update`, as `trainSAE` calls it."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    common = {
        "steps": s["steps"], "activation_dim": s["d_in"], "dict_size": s["d_sae"], "layer": 0,
        "lm_name": "none", "device": str(x.device), "seed": 0,
    }  # fmt: skip
    if s.get("lr"):
        common["lr"] = s["lr"]
    if s["steps"] < 2_000:  # the defaults, 1,000 steps each, are made for longer runs
        common["warmup_steps"] = s["steps"] // 20
        if s["kind"] != "relu":
            common["threshold_start_step"] = s["steps"] // 5
    sparse = {"topk": TopKTrainer, "batchtopk": BatchTopKTrainer}
    kind = sparse.get(s["kind"])
    trainer = StandardTrainer(**common) if kind is None else kind(k=s["k"], **common)
    n = iter(range(10**9))

    def step(x: torch.Tensor) -> None:
        with _autocast(s, x):
            trainer.update(next(n), x)

    def read(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        threshold = {} if s["kind"] == "relu" else {"use_threshold": s["kind"] == "batchtopk"}
        acts = trainer.ae.encode(rows, **threshold)
        return acts, trainer.ae.decode(acts)

    return Library(step, read)


def _autocast(s: dict[str, Any], x: torch.Tensor) -> contextlib.AbstractContextManager:
    return torch.autocast(x.device.type, torch.bfloat16, enabled=s["dtype"] == "bfloat16")


PEERS = {f.__name__: f for f in (sae_lens, sparsify, dictionary_learning)}
MANY = {f.__name__: f for f in (thoughtlens_stack, thoughtlens_loop, thoughtlens_reference)}
LIBRARIES = {"thoughtlens": thoughtlens, **PEERS, **MANY}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with open(sys.argv[1]) as file:
        s = json.load(file)
    torch.manual_seed(s.get("seed", 0))
    torch.set_num_threads(s["threads"])
    device = torch.device(s.get("device", "cpu"))
    if device.type == "cpu":
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it would ask for a GPU
    rows = torch.from_numpy(np.load(s["rows"], mmap_mode="c")).to(device)
    batches, build, scale = rows.split(s["batch"]), LIBRARIES[s["library"]], 1.0
    if "members" in s:
        n = s["members"] if s["library"] in MANY else s["share"]
        batches = [b.view(s["members"], s["batch"], -1)[:n] for b in rows.split(s["members"] * s["batch"])]
        build = build if s["library"] in MANY else partial(one_by_one, build)
        scale = s["members"] / n
    library = build(s, batches[0])
    if s["library"] == "thoughtlens":
        for i in range(s.get("warm", 0)):
            library.step(batches[i % len(batches)])
    if "out" in s:
        train(library, batches, s)
        return
    answers.write("ready\n")
    for i, _ in enumerate(sys.stdin):
        wait(device)
        start = time.perf_counter()
        library.step(batches[i % len(batches)])
        wait(device)
        answers.write(f"{1e3 * scale * (time.perf_counter() - start)}\n")


def wait(device: torch.device) -> None:
    """Let a GPU finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train(library: Library, batches: Sequence[torch.Tensor], s: dict[str, Any]) -> None:
    """Every step; then the reconstruction of the test rows and how often each latent fires on them."""
    for i in range(s["steps"]):
        library.step(batches[i % len(batches)])
        print(f"{s['library']} {i + 1}/{s['steps']}", file=sys.stderr)
    assert library.read is not None
    test = torch.from_numpy(np.load(s["test"]))
    with torch.no_grad():
        parts = [library.read(part) for part in test.split(2048)]
    np.savez(
        s["out"],
        x_hat=torch.cat([x_hat for _, x_hat in parts]).numpy(),
        fires=sum((acts != 0).sum(0) for acts, _ in parts).numpy(),
    )


if __name__ == "__main__":
    main()
