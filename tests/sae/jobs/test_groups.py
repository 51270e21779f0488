"""Which SAEs stand in one stack, and what is said where they do not fit. Nothing is trained here."""

from __future__ import annotations

import pytest
import torch

from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import Ranks, ResourceError, free_bytes
from thoughtlens.sae.fit.groups import MOST_ACTS, memory_bytes, plan_groups, require_memory, stack_size
from thoughtlens.sae.fit.job import Job, plan_jobs
from thoughtlens.sae.fit.run import Team
from thoughtlens.sae.train.config import TrainConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    x, _ = planted(600, 8, 16, 2 / 16, seed=0)
    hooks = {f"layers.{i}:out": x for i in range(5)}
    return ActivationStore.open(write_store(tmp_path_factory.mktemp("acts") / "acts", hooks))


def jobs(store, **changes) -> list[Job]:
    given = {"sae": saes.TopKConfig(d_sae=32, k=2), "batch_size": 50, "members": ("per_layer",)} | changes
    return plan_jobs(TrainConfig(acts=store.root, **given), store)


def sizes(groups: list[list[Job]]) -> list[int]:
    return [len(group) for group in groups]


def test_equal_shapes_stand_together_in_order_and_every_thread_has_work(store):
    five = jobs(store)
    assert sizes(plan_groups(five, CPU, "auto", n_threads=2)) == [3, 2]
    assert sizes(plan_groups(five, CPU, "auto", n_threads=2, n_ranks=2)) == [2, 2, 1]
    assert sizes(plan_groups(five, CPU, 4, n_threads=1)) == [4, 1]
    other = jobs(store, sae=saes.TopKConfig(d_sae=16, k=2))
    mixed = plan_groups([five[0], other[0], five[1], other[1]], CPU, "auto", n_threads=1)
    assert mixed == [five[:2], other[:2]]


def test_kinds_and_ways_of_training_that_cannot_be_stacked_stand_alone(store):
    gated = jobs(store, sae=saes.GatedConfig(d_sae=32))
    resampled = jobs(store, resample_every=100)
    for alone in (gated, resampled):
        assert sizes(plan_groups(alone, CPU, "auto", n_threads=1)) == [1] * 5


def test_large_steps_stand_alone_on_a_cpu_and_together_on_a_gpu():
    assert stack_size(42, MOST_ACTS // 4, CPU, 2) == 4
    assert stack_size(42, MOST_ACTS, CPU, 2) == stack_size(42, 2 * MOST_ACTS, CPU, 2) == 1
    assert stack_size(42, 2 * MOST_ACTS, CUDA, 1) == 42


def test_a_stack_that_does_not_fit_says_how_much_and_what_does(store):
    small, double = (memory_bytes(jobs(store, sae=saes.TopKConfig(d_sae=d))[0]) for d in (32, 64))
    per_latent = (double - small) / 32
    large = jobs(store, sae=saes.TopKConfig(d_sae=int(free_bytes(CPU) / per_latent / 2.5), k=2))
    with pytest.raises(
        ResourceError, match=r"A stack of 5 SAEs needs about \d.* free; set train.group_size="
    ):
        plan_groups(large, CPU, 5, n_threads=1)
    assert max(sizes(plan_groups(large, CPU, "auto", n_threads=1))) < 5


def test_an_sae_that_does_not_fit_alone_is_refused_before_anything_is_allocated(store):
    huge = jobs(store, sae=saes.TopKConfig(d_sae=10**11, k=2))  # 16 weights a latent, 16 bytes each: 25.6 TB
    with pytest.raises(ResourceError, match=r"needs 25600.0 GB for weights, gradient and moments.* lower"):
        plan_groups(huge[:1], CPU, "auto", n_threads=1)
    require_memory(huge[0], CPU, bytes_per_weight=1e-8)
    # weights and gradient everywhere, three parts of a quarter received, moments shared out: 8 + 3 + 8 / 4
    assert Team(Ranks(0, 4), "data").bytes_per_weight == 13
    assert Team(Ranks(0, 4), "latents").bytes_per_weight == 4
