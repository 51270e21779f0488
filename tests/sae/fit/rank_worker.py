"""What the ranks of test_parallel.py do; an assertion that fails ends the process with an error."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import joined, load_config
from thoughtlens.sae.fit.parallel import DataParallelTrainer
from thoughtlens.sae.fit.sharded import LatentParallelTrainer
from thoughtlens.sae.fit.trainer import Settings, Trainer
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train

SETTINGS = Settings(
    n_steps=24, batch_size=50, lr=3e-3, warmup=0.1, decay=0.2, grad_clip=0.05, dead_after_rows=100,
    eval_every=7, checkpoint_every_s=1e9, seed=4,
)  # fmt: skip
TOPK = saes.TopKConfig(d_sae=34, k=3, k_aux=2)  # of 34 latents, three ranks hold 11, 11 and 12


def new(cfg, view) -> saes.SAE:
    sae = saes.create(cfg, view.d_in, seed=1)
    sae.initialize(view.sample(400, 0).x)
    with torch.no_grad():
        sae.b_enc[::3] = -9.0  # a third never fires, so that the auxiliary loss has work
    return sae


def go(trainer, view, stop: int) -> None:
    stream = view.batches(50, seed=4, start=trainer.rows_seen, epochs=None, share=trainer.share)
    for batch in islice(stream, stop - trainer.step_idx):
        trainer.step(batch.x)


def same(mine, theirs, tolerance: float) -> None:
    tensors, table = mine
    expected, expected_table = theirs
    assert tensors.keys() == expected.keys() and table["step"] == expected_table["step"]
    for name, t in tensors.items():
        torch.testing.assert_close(
            t, expected[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    for name, value in table["sums"].items():
        assert abs(value - expected_table["sums"][name]) <= tolerance * abs(value) + 1e-6, name


def copied(trainer):
    tensors, table = trainer.state()
    return {n: t.clone() for n, t in tensors.items()}, {**table, "sums": dict(table["sums"]), "curve": []}


def compare(root: Path) -> None:
    """Every way of sharing against one process: from the start, and from another number of ranks' state."""
    view = ActivationStore.open(root).view(split="train")
    with joined() as ranks:
        makers = {
            "data": lambda cfg: DataParallelTrainer(new(cfg, view), SETTINGS, ranks),
            "latents": lambda cfg: LatentParallelTrainer(
                new(cfg, view), SETTINGS, ranks, torch.device("cpu")
            ),
        }
        relu = saes.ReLUConfig(d_sae=34, l1=0.5, decoder_norm="free", penalty_by_decoder_norm=True)
        gated = saes.GatedConfig(d_sae=34, l1=0.02)
        unbiased = TOPK.model_copy(update={"pre_bias": False, "normalization": "none"})
        for how, cfg in (
            ("data", TOPK), ("data", relu), ("data", gated), ("latents", TOPK), ("latents", unbiased)
        ):  # fmt: skip
            alone = Trainer(new(cfg, view), SETTINGS)
            go(alone, view, 12)
            middle = copied(alone)
            go(alone, view, 24)
            end = copied(alone)
            assert cfg.kind != "topk" or end[1]["sums"]["loss_auxk"] > 0
            shared = makers[how](cfg)
            go(shared, view, 12)
            half = copied(shared)
            resumed = makers[how](cfg)
            resumed.restore(*middle)
            go(resumed, view, 24)
            whole, done = resumed.whole(), copied(resumed)
            if not ranks.first:
                assert half[0] == done[0] == {}
                continue
            same(half, middle, 2e-4)
            same(done, end, 2e-4)
            back = Trainer(new(cfg, view), SETTINGS)
            back.restore(*half)
            go(back, view, 24)
            same(copied(back), end, 2e-4)
            x = view.sample(20, 0).x
            torch.testing.assert_close(whole(x), alone.sae(x), rtol=1e-3, atol=1e-3)


def narrow(sae, which) -> None:
    """Let these parameters' gradients be bfloat16."""

    def shorten(p) -> None:
        p.grad = p.grad.bfloat16()

    for name in which:
        sae.get_parameter(name).grad_dtype = None
        sae.get_parameter(name).register_post_accumulate_grad_hook(shorten)


def gradients(root: Path) -> None:
    """What the optimizer gets is the sum of the ranks' gradients in float32, though some are bfloat16."""
    view = ActivationStore.open(root).view(split="train")
    x = next(view.batches(50, seed=0)).x
    with joined() as ranks:
        for some in ([["W_enc", "W_dec"]] * ranks.size, [["W_enc"], [], ["b_enc", "b_dec"]]):
            expected = {}
            for rank in range(ranks.size):
                sae, mine = new(TOPK, view), x[rank :: ranks.size]
                narrow(sae, some[rank])
                terms = sae.loss(saes.Batch(mine, dead=torch.zeros(34, dtype=torch.bool))).terms
                (terms["reconstruction"] * len(mine) / len(x)).backward()
                for name, p in sae.named_parameters():
                    expected[name] = expected.get(name, 0) + p.grad.float()
            trainer = DataParallelTrainer(new(TOPK, view), SETTINGS, ranks)
            narrow(trainer.sae, some[ranks.rank])
            trainer.step(x[ranks.rank :: ranks.size])
            for name, p in trainer.optimizer.parameters.items():
                axis = trainer.sae.latent_axis.get(name)
                part = expected[name] if axis is None else expected[name].movedim(axis, 0)[trainer.own]
                mine = p.grad if axis is None else p.grad.movedim(axis, 0)
                assert mine.dtype == torch.float32
                torch.testing.assert_close(mine, part, rtol=1e-6, atol=1e-7)


def one_loss(root: Path) -> None:
    """Before any update, the sum of the ranks' losses is the loss of one process, and the gradients' too."""
    view = ActivationStore.open(root).view(split="train")
    with joined() as ranks:
        for how in ("data", "latents"):
            alone = Trainer(new(TOPK, view), replace(SETTINGS, dead_after_rows=1))
            alone.tracker.silent_rows += torch.arange(34) % 2
            shared = (
                DataParallelTrainer(new(TOPK, view), alone.settings, ranks) if how == "data"
                else LatentParallelTrainer(new(TOPK, view), alone.settings, ranks, torch.device("cpu"))
            )  # fmt: skip
            shared.restore(*copied(alone))
            go(alone, view, 1)
            go(shared, view, 1)
            for name, value in alone.means.sums.items():
                assert abs(shared.means.sums[name] / value - 1) < 1e-5, (how, name)


def main() -> None:
    scenario, root = sys.argv[1], Path(sys.argv[2])
    if scenario == "train":
        train(load_config(TrainConfig, root / "train.toml"), root / sys.argv[3])
    else:
        one_loss(root)
        gradients(root)
        compare(root)


if __name__ == "__main__":
    main()
