"""What is served, to whom, and what may be asked."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict, Field, model_validator

from thoughtlens.core import Config

MAX_CHARS = 20_000


class ServeConfig(Config):
    """A run, an address, and limits."""

    run: Path
    """The run's directory."""
    host: str = "127.0.0.1"
    """Address to listen on; others than this machine can reach it only if it is not a loopback address."""
    port: int = Field(0, ge=0, le=65_535)
    """Port; 0: any that is free."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which browsers may ask for this server, besides localhost and addresses."""
    max_body_bytes: int = Field(65_536, ge=1)
    """Longest request."""
    timeout_s: float = Field(30.0, gt=0)
    """Seconds in which a request must have arrived, and for which one waits for the model."""
    max_connections: int = Field(32, ge=1)
    """Requests at the same time; more are turned away."""


class Request(Config):
    """Of a browser: nothing is converted, unknown keys are refused."""

    model_config = ConfigDict(strict=True)

    text: str = Field(min_length=1, max_length=MAX_CHARS)
    """A text, or a problem for a thought model."""
    member: str | None = Field(None, max_length=256)
    """Which SAE; unset: the only one."""


class FireRequest(Request):
    """Which latents fire on a text?"""

    top: int = Field(8, ge=1, le=64)
    """Latents listed for each position."""
    test: bool = False
    """Whether each thought is also tried out with those of other problems in its place."""


class PatchRequest(Request):
    """What does the model answer with thoughts of another problem?"""

    other: str = Field(min_length=1, max_length=MAX_CHARS)
    """The problem whose thoughts are put in."""
    thoughts: list[int] = Field(min_length=1, max_length=64)
    """Which: what enters these thoughts is what enters them of the other problem."""


class SteerRequest(Request):
    """What does the model answer if one latent is changed?"""

    latent: int = Field(ge=0)
    """The latent."""
    scale: float | None = Field(None, ge=-1e4, le=1e4, allow_inf_nan=False)
    """Multiply its activation; 0 removes it."""
    value: float | None = Field(None, ge=-1e6, le=1e6, allow_inf_nan=False)
    """Set its activation, in the SAE's units. One of scale and value."""
    thoughts: list[int] | None = Field(None, min_length=1, max_length=64)
    """Thoughts at which it is changed; unset: all that the SAE was trained on."""
    max_new_tokens: int = Field(32, ge=1, le=128)
    """Tokens of a continued text; answers of thought models end by themselves."""

    @model_validator(mode="after")
    def _one_edit(self) -> SteerRequest:
        if (self.scale is None) == (self.value is None):
            raise ValueError("give scale or value, one of them; scale 0 removes the latent")
        return self
