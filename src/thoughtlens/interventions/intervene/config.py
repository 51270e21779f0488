"""What to change in the running thought loop, on which problems."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, field_validator

from thoughtlens.acts import ExtractConfig, load_meta, places_said
from thoughtlens.core import (
    Config,
    ConfigError,
    Json,
    NotThereError,
    load_config,
    read_recipe,
    validate_config,
)
from thoughtlens.models import ModelConfig, ThoughtModelConfig
from thoughtlens.problems import GeneratedConfig, ProblemsConfig

NAMED = {"question": (-(10**9), -1), "begin": (0, 0), "thoughts": (1, 10**9)}
"""Positions by name, first and last."""
POSITIONS = re.compile(r"(-?\d+)(?:\.\.(-?\d+))?")
WORDS = ("changed words", "other words")
"""Of a question beside its twin."""
SiteName = (
    Literal["thought_in", "resid", "thought_out", "kv", "keys", "values", "attn", "mlp", "all"]
    | Annotated[str, StringConstraints(pattern=r"^head\.\d+$")]
)
Scope = Literal["cell", "thought", "all"]
Basis = Literal["pca", "latents", "probe", "random"]
Arm = Literal["sae", "pca", "random_sae", "mean", "shuffled"]


class AblateConfig(Config):
    """The state becomes one that does not depend on the problem."""

    kind: Literal["ablate"] = "ablate"
    """Ablation by the mean, by another problem's state, or by zeros."""
    method: Literal["mean", "resample", "zero"] = "mean"
    """By the mean over the problems, by the state of a random other problem, or by zeros."""


class SwapConfig(Config):
    """The state of another problem with the same, and with another, value of a column."""

    kind: Literal["swap"] = "swap"
    """States swapped between problems."""
    column: str = "v1"
    """Label column whose value the donor shares, or does not."""


class _Twins(Config):
    change: Literal["start", "op1", "op2", "op3", "secret_start", "mark", "release"] = "start"
    """What differs between twins of generated problems. Of others it stays as it is: where the chain is
    annotated, as in GSM8K, an operand differs, of ProsQA and ProntoQA an edge, with as many tokens."""
    twins: Path | None = None
    """A Parquet table of problems whose line i is the twin of line i of `problems`, for problems of which no
    twins are made."""


class PatchConfig(_Twins):
    """The state of the problem's counterfactual twin."""

    kind: Literal["patch"] = "patch"
    """States patched in from the twin."""


class RouteConfig(_Twins):
    """Of the twin the state alone, keys and values alone, and both: which way does the effect take?"""

    kind: Literal["route"] = "route"
    """The twin's state with the own keys and values, and the other way round."""


class _Latents(Config):
    latents: tuple[int, ...] = ()
    """edit_latents: edited together. steer: each one's decoder row is a direction."""
    n_control_latents: int = Field(3, ge=1)
    """Latents of about the same density, each edited in place of the ones asked for."""

    @field_validator("latents", "doses", check_fields=False)
    @classmethod
    def _different(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"expected different ones, got {list(values)}")
        return values


class SteerConfig(_Latents):
    """A direction is added in several doses; one of a file can be set or taken out, too."""

    kind: Literal["steer"] = "steer"
    """Directions of latents, or from a file, in doses."""
    directions: Path | None = None
    """.npy or .safetensors with directions as rows, as wide as the site's states; named as the file names
    them, and with its offsets."""
    value: float | None = Field(None, allow_inf_nan=False)
    """directions: instead of doses, what the projection on each is set to, in the units of the states and
    counted from the file's offset."""
    scale: float | None = Field(None, allow_inf_nan=False)
    """directions: instead of doses, what that projection is multiplied by; 0 takes the direction out."""
    column: str | None = None
    """Label column: directions from the other values to each of `classes`, by the difference of class means
    and by a ridge probe, both of training problems."""
    classes: tuple[str, ...] | None = Field(None, min_length=1)
    """Values of `column` that are steered to; unset: the four most frequent."""
    n_fit: int = Field(2000, ge=2)
    """Problems of split train that directions of `column` are fitted on, at most."""
    doses: tuple[float, ...] = Field((-2.0, -1.0, -0.5, 0.5, 1.0, 2.0), min_length=1)
    """Lengths of what is added, in standard deviations of the states at the place."""


class LatentsConfig(_Latents):
    """Latents are set or scaled, the SAE's residual kept."""

    kind: Literal["edit_latents"] = "edit_latents"
    """Latents changed, and what the SAE does not explain left as it is."""
    value: float | None = Field(None, allow_inf_nan=False)
    """What the latents are set to, in the SAE's units."""
    scale: float | None = Field(None, allow_inf_nan=False)
    """What the latents are multiplied by; 0 removes them. One of value and scale."""


class RankConfig(Config):
    """Of a state only k directions are kept, or k are removed."""

    kind: Literal["rank"] = "rank"
    """How few directions carry what a thought is needed for."""
    bases: tuple[Basis, ...] | None = Field(None, min_length=1)
    """Principal components; the SAE's latents, strongest first; directions of a ridge probe of `column`; and
    random ones. Unset: those that can be had."""
    ks: tuple[int, ...] = Field((1, 2, 4, 8, 16, 32), min_length=1)
    """Numbers of directions; where there are fewer, all of them."""
    column: str | None = None
    """Label column of the probe."""
    n_fit: int = Field(2000, ge=2)
    """Problems of split train that directions are fitted on, at most."""

    @field_validator("ks")
    @classmethod
    def _sorted(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if min(ks) < 1:
            raise ValueError(f"expected numbers of directions from 1 on, got {min(ks)}; 0 is the mean")
        return tuple(sorted(set(ks)))


class ExitConfig(Config):
    """The model answers after k thoughts."""

    kind: Literal["exit"] = "exit"
    """Early exit."""


class SpliceConfig(Config):
    """The SAE's reconstruction, beside its baselines."""

    kind: Literal["splice"] = "splice"
    """States replaced by reconstructions."""
    arms: tuple[Arm, ...] = ("sae", "pca", "random_sae", "mean")
    """The SAE; principal components, as many as its L0; an SAE that learned nothing; the mean; shuffled: the
    SAE with each latent decoded by another one's direction."""
    n_fit: int = Field(2000, ge=2)
    """Problems of split train that the baselines are fitted on, at most."""


class CutConfig(Config):
    """Edges of attention are cut: a thought, or the answer, no longer looks at some positions."""

    kind: Literal["cut"] = "cut"
    """Attention without some of its edges, beside as many others drawn at random."""
    to: tuple[str, ...] = Field(("question",), min_length=1)
    """What is no longer looked at: `question`, `begin`, `thoughts`, or positions: -1 is the token before the
    begin-of-thought position 0, 1.. the thoughts; `-5..-1` is a range."""
    heads: tuple[int, ...] | None = Field(None, min_length=1)
    """Heads, counted from 0; unset: all."""
    answer: bool = True
    """Whether the answer no longer looks there either: its cue, and what is said after it."""

    @field_validator("to")
    @classmethod
    def _known(cls, to: tuple[str, ...]) -> tuple[str, ...]:
        for one in to:
            if one not in NAMED and not POSITIONS.fullmatch(one):
                raise ValueError(f"expected question, begin, thoughts, -1, or -5..-1, got {one!r}")
        return to

    def ranges(self, n_thoughts: int) -> tuple[tuple[int, int], ...]:
        """First and last position of each part of `to`."""
        named = NAMED | {"thoughts": (1, n_thoughts)}
        pairs = (POSITIONS.fullmatch(one) for one in self.to)
        return tuple(
            named[one] if pair is None else (int(pair[1]), int(pair[2] or pair[1]))
            for one, pair in zip(self.to, pairs, strict=True)
        )


class PathConfig(_Twins):
    """Path patching: one thought, or the answer, reads one place of the twin, and all else is untouched."""

    kind: Literal["path"] = "path"
    """The twin's state, or keys and values of one block, on one edge alone."""
    sources: tuple[str, ...] = Field(("changed words", "other words", "thoughts"), min_length=1)
    """Where each edge begins: the words of the question that the twin has not, its other words, each thought,
    or thoughts by number, such as `2`."""
    answer: bool = True
    """Whether edges into the answer are tried, too."""

    @field_validator("sources")
    @classmethod
    def _known(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for one in sources:
            if one not in WORDS and one != "thoughts" and not one.isdecimal():
                raise ValueError(f"expected {', '.join(WORDS)}, thoughts, or such as '2', got {one!r}")
        return sources


Edit = (
    AblateConfig
    | SwapConfig
    | PatchConfig
    | RouteConfig
    | SteerConfig
    | LatentsConfig
    | ExitConfig
    | RankConfig
    | SpliceConfig
    | CutConfig
    | PathConfig
)


class InterveneConfig(ThoughtModelConfig):
    """One kind of edit at every place asked for, with its controls."""

    aliases: ClassVar[Mapping[str, str]] = {"steps": "thoughts", **ThoughtModelConfig.aliases} | {
        name: f"edit.{name}"
        for name in (
            "method", "column", "change", "twins", "latents", "n_control_latents", "directions", "doses",
            "value", "scale", "arms", "n_fit", "to", "heads", "classes", "bases", "ks", "sources",
        )
    }  # fmt: skip

    model: ModelConfig = ModelConfig(name="codi-tiny", dtype="float32")
    """The thought model."""
    problems: ProblemsConfig = GeneratedConfig(source="generated")
    """What it thinks about."""
    split: Literal["train", "validation", "test", "any"] = "test"
    """Split of the problems."""
    n: int = Field(1000, ge=2)
    """Problems, at most."""
    edit: Edit = Field(AblateConfig(), discriminator="kind")
    """ablate, swap, patch, steer, edit_latents, exit, splice, rank, route, cut or path, with its settings."""
    site: SiteName = "thought_in"
    """thought_in, resid, thought_out, kv, keys, values, attn or mlp (what attention and MLP add), head.0
    (what one head brings), or all: everything that a thought leaves behind.
    splice, edit_latents, and steer by latents take the places that the SAE was trained on instead."""
    thoughts: tuple[int, ...] | None = Field(None, min_length=1)
    """Thoughts, 0 the begin-of-thought position; exit: numbers of thoughts. Unset: all thoughts that
    something reads there."""
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    """Blocks, counted from 0; unset: all."""
    scope: tuple[Scope, ...] = Field(("cell", "all"), min_length=1)
    """What is edited in one run: a cell (one layer of one thought), a thought (all its layers), or all."""
    sae: Path | None = None
    """The SAE(s): splice, edit_latents, steer."""
    member: str | None = None
    """Which SAE of the directory; unset: all of them, if no two are for the same place."""
    controls: bool = True
    """Also run the controls: random directions of the same length, latents of the same density, the same
    edit at thoughts that were not asked for."""
    seed: int = Field(0, ge=0)
    """Fixes problems, donors and random directions."""
    batch_size: int = Field(512, ge=1)
    """Problems at a time."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer."""


class EffectsConfig(Config):
    """What several kinds of edits do at each thought, on the problems of a store."""

    acts: Path
    """The activation store, whose model and problems are taken."""
    edits: tuple[str, ...] = Field(
        ("ablate resample", "swap v1", "swap v2", "patch start", "patch op1", "patch op2", "patch op3"),
        min_length=1,
    )
    """Kinds of edits: `ablate` by `mean`, `resample` or `zero`, `swap` of states between problems with
    another value of a column, `patch` from twins that differ in `start`, `op1`, `op2` or `op3`. Those that
    the model or its problems do not allow are left out, and the result says why."""
    n: int = Field(100, ge=2)
    """Problems of each kind of edit, at most."""
    scope: tuple[Scope, ...] = InterveneConfig.model_fields["scope"].default
    """What is edited in one run, as for `intervene`."""
    controls: bool = False
    """Also make changes as large in random directions."""
    split: Literal["train", "validation", "test", "any"] = "test"
    """Split of the problems."""
    seed: int = Field(0, ge=0)
    """Fixes problems, donors and random directions."""
    batch_size: int = Field(512, ge=1)
    """Problems at a time."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer."""

    @field_validator("edits")
    @classmethod
    def _known(cls, edits: tuple[str, ...]) -> tuple[str, ...]:
        for edit in edits:
            edit_of(edit)
        return edits


SETTING_OF = {"ablate": "method", "swap": "column", "patch": "change"}
"""By kind of edit, the setting that its second word is."""


def edit_of(text: str) -> Json:
    """The settings of an edit in two words, such as `swap v1`.

    Raises:
        ValueError: no such kind of edit, or a setting that it does not have.
    """
    kind, _, setting = text.partition(" ")
    if kind not in SETTING_OF or not setting:
        raise ValueError(f"expected such as 'ablate mean', 'swap v1' or 'patch op1', got {text!r}")
    table = {"kind": kind, SETTING_OF[kind]: setting}
    validate_config(InterveneConfig, {"edit": table})
    return table


def of_run(run: str | Path) -> Json:
    """The settings that a run's own model, problems and SAEs amount to, for `InterveneConfig`.

    Raises:
        NotThereError: no store of activations in the run.
        ConfigError: a run of texts.
    """
    table = of_store(Path(run) / "acts")
    if (Path(run) / "sae").is_dir():
        table["sae"] = str(Path(run) / "sae")
    return table


def of_store(acts: Path) -> Json:
    """The settings that the model and the problems of a store amount to."""
    run, file = acts.parent, acts / "config.toml"
    if not file.is_file():
        raise NotThereError(f"Expected a run with a store of activations, found no {file}")
    if "files" in (stated := read_recipe(acts)):
        return _of_files(acts)
    cfg = load_config(ExtractConfig, stated)
    if cfg.problems.kind == "text":
        raise ConfigError(
            f"{run} is a run of texts, and interventions change the thoughts of thought models. A latent of "
            f"a text is changed on the page of: thoughtlens serve {shlex.quote(str(run))}"
        )
    table: Json = {"model": cfg.model.model_dump(exclude_none=True), "max_new_tokens": cfg.max_new_tokens}
    table["problems"] = {"source": str(acts / "problems.parquet")}
    return table | cfg.thought_options()


def _of_files(acts: Path) -> Json:
    """The same of imported activations, where somebody said which model and hooks they are of."""
    import pyarrow.parquet as pq

    meta, texts = load_meta(acts), pq.read_schema(acts / "problems.parquet").names
    if meta.kind == "text":
        raise ConfigError(
            f"{acts.parent} holds activations of texts, and interventions change thoughts of thought models"
        )
    if not meta.model or meta.unresolved:
        raise ConfigError(
            f"the activations in {acts} were imported from files, and nobody said of which model, or where "
            f"in it {', '.join(meta.unresolved or meta.hook_names)} are; with a thought model's name and "
            f"places its thoughts can be changed: {places_said(meta, acts)}"
        )
    if missing := [name for name in ("question", "answer") if name not in texts]:
        raise ConfigError(
            f"the activations in {acts} were imported without the column {' and '.join(missing)}, so the "
            f"model has nothing to read; import again into another folder, with a table that has them"
        )
    own = [name for name in ("question", "answer", "split", "problem_id", "group_id") if name in texts]
    problems = {"source": str(acts / "problems.parquet"), "columns": {name: name for name in own}}
    return {"model": {"name": meta.model, "dtype": "float32"}, "problems": problems}
