"""What to change in the running thought loop, on which problems."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from thoughtlens.interventions.places import SiteName
from thoughtlens.models.hf.config import ModelConfig
from thoughtlens.models.thought.config import ThoughtModelConfig
from thoughtlens.problems.config import GeneratedConfig, ProblemsConfig

EditName = Literal["ablate", "swap", "patch", "steer", "edit_latents", "exit", "splice", "route"]
Scope = Literal["cell", "thought", "all"]
Arm = Literal["sae", "pca", "random_sae", "mean", "shuffled"]


class InterveneConfig(ThoughtModelConfig):
    """One kind of edit at every place asked for, with its controls."""

    model: ModelConfig = ModelConfig(name="codi-tiny", dtype="float32")
    """The thought model."""
    problems: ProblemsConfig = GeneratedConfig(source="generated")
    """What it thinks about."""
    split: Literal["train", "validation", "test", "any"] = "test"
    """Split of the problems."""
    n: int = Field(1000, ge=2)
    """Problems, at most."""
    edit: EditName = "ablate"
    """ablate: mean, resample or zero. swap: the state of another problem with the same, and with another,
    value of `column`. patch: the state of the problem's counterfactual twin. steer: add a direction in
    several doses. edit_latents: set or scale latents, the SAE's residual kept. exit: answer after k
    thoughts. splice: the SAE's reconstruction, beside its baselines. route: swap the state and keep keys
    and values, and the other way round."""
    site: SiteName = "thought_in"
    """thought_in, resid, thought_out, kv, keys, values, or all: everything that a pass leaves behind. splice,
    edit_latents, and steer by latents take the places that the SAE was trained on instead."""
    steps: tuple[int, ...] | None = Field(None, min_length=1)
    """Passes, 0 the begin-of-thought position; exit: numbers of thoughts. Unset: all thoughts that something
    reads there."""
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    """Blocks, counted from 0; unset: all."""
    scope: tuple[Scope, ...] = Field(("cell", "all"), min_length=1)
    """What is edited in one run: a cell (one layer of one thought), a thought (all its layers), or all."""
    method: Literal["mean", "resample", "zero"] = "mean"
    """ablate: by the mean over the problems, by the state of a random other problem, or by zeros."""
    column: str = "v1"
    """swap: label column whose value the donor shares, or does not."""
    change: Literal["start", "op1", "op2", "op3"] = "start"
    """patch, route: what differs between twins of generated problems."""
    twins: Path | None = None
    """patch, route: a Parquet table of problems whose line i is the twin of line i of `problems`, for
    problems that are not generated."""
    sae: Path | None = None
    """The SAE(s): splice, edit_latents, steer."""
    member: str | None = None
    """Which SAE of the directory; unset: all of them, if no two are for the same place."""
    latents: tuple[int, ...] = ()
    """edit_latents: edited together. steer: each one's decoder row is a direction."""
    value: float | None = Field(None, allow_inf_nan=False)
    """edit_latents: what the latents are set to, in the SAE's units."""
    scale: float | None = Field(None, allow_inf_nan=False)
    """edit_latents: what the latents are multiplied by; 0 removes them. One of value and scale."""
    directions: Path | None = None
    """steer: .npy or .safetensors (one tensor) with directions as rows, as wide as the site's states."""
    doses: tuple[float, ...] = Field((-2.0, -1.0, -0.5, 0.5, 1.0, 2.0), min_length=1)
    """steer: lengths of what is added, in standard deviations of the states at the place."""
    arms: tuple[Arm, ...] = ("sae", "pca", "random_sae", "mean")
    """splice: the SAE; principal components, as many as its L0; an SAE that learned nothing; the mean;
    shuffled: the SAE with each latent decoded by another one's direction."""
    n_fit: int = Field(2000, ge=2)
    """Problems of split train that the baselines of splice are fitted on, at most."""
    controls: bool = True
    """Also run the controls: random directions of the same length, latents of the same density, the same
    edit at passes that were not asked for."""
    n_control_latents: int = Field(3, ge=1)
    """Latents of about the same density, each edited in place of the ones asked for."""
    seed: int = Field(0, ge=0)
    """Fixes problems, donors and random directions."""
    batch_size: int = Field(512, ge=1)
    """Problems at a time."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer."""
