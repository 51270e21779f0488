"""What to explain, with which methods, on how many rows; and the settings for a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from thoughtlens.core import Config, ConfigError, Json, identity, load_config, require_run

LEAST_GROUPS = 30
"""Independent problems without which nothing can be fitted, chosen and scored on different ones."""
MethodName = Literal["roles", "token", "token_graph", "windows", "rules", "llm"]


class LLMConfig(Config):
    """An OpenAI-compatible endpoint that writes explanations and guesses activations from them."""

    base_url: str
    """Address up to, not including, `/chat/completions`: `http://127.0.0.1:8000/v1`."""
    model: str
    """Name of the model there."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; where it is not set, none is sent."""
    max_tokens: int | None = Field(400, ge=1)
    """Tokens of a reply; more for models that think before they reply. Unset: as the endpoint has it."""
    temperature: float | None = Field(0.0, ge=0)
    """How freely it writes; unset: as the endpoint has it."""
    parallel: int = Field(4, ge=1, le=64)
    """Questions asked at once."""
    timeout_s: float = Field(60.0, gt=0, le=86_400)
    """Seconds to wait for one whole reply."""
    retries: int = Field(2, ge=0, le=100)
    """Further attempts after a reply that failed or could not be read."""
    pause_s: float = Field(0.5, ge=0, le=3600)
    """Seconds before the first further attempt; twice as long before each one after it. Longer where the
    endpoint asks for it (`Retry-After`)."""
    n_examples: int = Field(10, ge=1)
    """Examples shown to the explainer, all from the fitting problems."""
    n_scored: int = Field(60, ge=6)
    """Vectors of each of validation and test that it rates by its own explanation: a third where the latent
    fires, a third where its random twin does, the rest anywhere. Scores weigh them back to the true rate."""
    max_latents: int = Field(20, ge=1)
    """Latents explained by it, the first of those that the stage explains."""


class ExplainConfig(Config):
    """Explanations of latents, each fitted, chosen and scored on problems that the other steps do not see."""

    acts: Path
    """The activation store."""
    sae: Path
    """The SAE(s), trained on it or on a store with the same hooks."""
    interpret: Path | None = None
    """A finished interpret stage of them, whose codes save encoding again; unset or without codes: encode."""
    methods: tuple[MethodName, ...] = Field(
        ("roles", "token", "token_graph", "windows", "rules"), min_length=1
    )
    """What to fit: `roles` for all latents at once, the others for `n_latents` of those that it does not
    explain well. `llm` also needs the table `llm`."""
    latents: tuple[int, ...] | None = Field(None, min_length=1)
    """Latents to explain; unset: a seeded draw of `n_latents` of those that fire in enough problems."""
    n_latents: int | None = Field(64, ge=1)
    """Latents drawn of each SAE for the methods other than `roles`, of those that fire in enough problems and
    that `roles`, if asked for, leaves below 0.8; unset: all of them."""
    also: tuple[int, ...] = ()
    """Latents explained beside those drawn."""
    min_units: int = Field(10, ge=2)
    """Fitting problems in which a latent must fire to be explained."""
    min_held_units: int = Field(3, ge=2)
    """Validation problems, and test problems, in which it must fire."""
    split: str | None = None
    """Read only this split and divide its problems 3 : 1 : 1. Unset: fit on train, choose on validation and
    score on test, or divide all problems where the store lacks one of these splits."""
    fit_vectors: int = Field(100_000, ge=1)
    """Vectors of the fitting problems, at most; whole problems are drawn."""
    validation_vectors: int = Field(30_000, ge=1)
    """The same for the problems by which settings, thresholds and the explanation shown are chosen."""
    test_vectors: int = Field(60_000, ge=1)
    """The same for the problems on which explanations are scored."""
    window: int = Field(4, ge=0)
    """windows, rules: tokens before a token whose identity and distance count."""
    near: int = Field(8, ge=0)
    """windows, rules: tokens before a token that count wherever they stand."""
    labels: tuple[str, ...] | None = None
    """roles, windows, rules: label columns of the problems; unset: all."""
    max_levels: int = Field(32, ge=2)
    """Values of a label column up to which each is told apart. Of one with more, those of at least 5 problems
    are (the 256 most frequent), numbers of which some are rarer in this many bins; a column of numbers counts
    as a number as well."""
    graph_examples: int = Field(8, ge=1)
    """token_graph: examples of each latent that are taken apart."""
    graph_context: int = Field(16, ge=1)
    """token_graph: tokens of an example's context at most, its strongest token included; the widest gap."""
    graph_substitutes: int = Field(5, ge=0)
    """token_graph: other tokens tried in place of each important one."""
    importance: float = Field(0.5, gt=0, le=1)
    """token_graph: share of the activation that masking a token must take away for it to count; an edit that
    leaves more than the rest is one that the latent survives."""
    batch_tokens: int = Field(4096, ge=1)
    """token_graph: tokens of one forward pass, padding included."""
    batch_latents: int = Field(16, ge=1)
    """Latents explained at once; an interrupted stage continues after the last finished batch."""
    llm: LLMConfig | None = None
    """An endpoint for the method `llm`; unset: none is called."""
    n_resamples: int = Field(400, ge=50)
    """Resamples behind the intervals."""
    seed: int = Field(0, ge=0)
    """Fixes the problems, the latents drawn, their random twins and all sampling."""

    def covers(self, asked: Config) -> bool:
        """Whether as many latents were drawn or more, those asked for are there, and all else is the same."""
        if not isinstance(asked, ExplainConfig) or self.latents is not None or asked.latents is not None:
            return False
        more = self.n_latents is None or (asked.n_latents is not None and self.n_latents >= asked.n_latents)
        same = self.model_copy(update={"n_latents": asked.n_latents, "also": asked.also})
        return more and set(asked.also) <= set(self.also) and identity(same) == identity(asked)

    def beside(self, there: ExplainConfig) -> ExplainConfig:
        """These settings, made to add to what was explained with others: latents named join those drawn."""
        if there.latents is not None:
            return self
        named = {"latents": None, "n_latents": there.n_latents} if self.latents is not None else {}
        also = tuple(sorted({*there.also, *self.also, *(self.latents or ())}))
        return self.model_copy(update={"also": also, **named})


def settings(
    run: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    acts: Path | None = None,
    sae: Path | None = None,
    out: Path | None = None,
    own: Json | None = None,
) -> tuple[ExplainConfig, Path]:
    """Config and directory: inputs, place and `own` settings are those of the run, unless named.

    Raises:
        NotThereError: no such run.
        ConfigError: neither a run nor what would stand for it; a setting that is not known; another SAE or
            store than the run's, without a place of its own.
    """
    table: Json = dict(own or {})
    if run is not None:
        root = Path(run)
        require_run(root)
        table |= {"acts": str(root / "acts"), "sae": str(root / "sae")}
        named = [(name, path) for name, path in (("acts", acts), ("sae", sae)) if path is not None]
        others = [(name, path) for name, path in named if path.resolve() != (root / name).resolve()]
        if others and out is None:
            name, path = others[0]
            raise ConfigError(
                f"--{name} is not that of {root}, and {root / 'explain'} is for the run's own; say where its "
                f"explanations go, as in: --out {shlex.quote(str(root / f'explain-{path.name}'))}"
            )
        if not others and (root / "interpret" / "result.json").is_file():
            table["interpret"] = str(root / "interpret")
        out = out or root / "explain"
    table |= {name: str(path) for name, path in (("acts", acts), ("sae", sae)) if path is not None}
    if out is None or not {"acts", "sae"} <= set(table):
        raise ConfigError("Expected a run, as in: thoughtlens explain RUN; or all of --acts, --sae and --out")
    return load_config(ExplainConfig, table, overrides), out
