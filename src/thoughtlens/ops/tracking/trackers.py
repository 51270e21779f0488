"""One class a tracker, each for the run of one SAE; a library is imported when its first run begins."""

from __future__ import annotations

import contextvars
import importlib.util
import os
import re
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from thoughtlens.core import ConfigError, NotThereError

TIMEOUT_S = 30.0
"""How long a tracker's service may keep a training waiting before it is given up."""


@dataclass(frozen=True)
class Place:
    """Where a run goes and what it is called."""

    project: str
    name: str
    group: str
    """What the SAEs of one training have in common."""
    settings: dict[str, Any]
    folder: Path | None
    """For the files; None: where the tracker keeps them by itself."""


@runtime_checkable
class Tracker(Protocol):
    """A run in a tracker, made from a `Place`."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Numbers after `step` vectors."""
        ...

    def finish(self, step: int, headline: dict[str, float]) -> None:
        """End the run with the numbers that say most."""
        ...


class WandB:
    """Weights & Biases; WANDB_MODE=offline needs no network, `wandb sync` sends it later."""

    package = "wandb"

    def __init__(self, place: Place) -> None:
        import wandb

        quiet = wandb.Settings(
            console="off",
            silent=True,
            x_disable_stats=True,
            login_timeout=TIMEOUT_S,
            init_timeout=TIMEOUT_S,
            finish_timeout=TIMEOUT_S,
        )
        if place.folder is not None:
            place.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=place.project,
            name=place.name,
            group=place.group,
            config=place.settings,
            dir=place.folder,
            reinit="create_new",
            settings=quiet,
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(values, step=step)

    def finish(self, step: int, headline: dict[str, float]) -> None:
        """See `Tracker`."""
        self._run.summary.update(headline)
        self._run.finish()


class TensorBoard:
    """Event files for TensorBoard, one folder per run."""

    package = "tensorboard"

    def __init__(self, place: Place) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = (place.folder or Path.cwd()) / "tensorboard" / re.sub(r"[^\w.-]", "-", place.name)
        self._writer = SummaryWriter(folder, purge_step=0)
        settings = "\n".join(f"    {name} = {value}" for name, value in place.settings.items())
        self._writer.add_text("settings", settings, 0)

    def log(self, step: int, values: dict[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, step: int, headline: dict[str, float]) -> None:
        """See `Tracker`."""
        self.log(step, headline)
        self._writer.close()


class Trackio:
    """trackio, which keeps its runs in a local database; `trackio show` opens them."""

    package = "trackio"

    def __init__(self, place: Place) -> None:
        if place.folder is not None:  # read when trackio is first imported
            os.environ.setdefault("TRACKIO_DIR", str(place.folder / "trackio"))
        with redirect_stdout(sys.stderr):
            import trackio  # pyright: ignore[reportMissingImports]

            # A context of its own: in a shared one, init ends the run before it.
            self._run = contextvars.Context().run(
                trackio.init,
                project=place.project,
                name=place.name,
                group=place.group,
                config=place.settings,
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: dict[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(values, step=step)

    def finish(self, step: int, headline: dict[str, float]) -> None:
        """See `Tracker`."""
        with redirect_stdout(sys.stderr):
            if headline:
                self._run.log(headline, step=step)
            self._run.finish()


TRACKERS: dict[str, Any] = {"wandb": WandB, "tensorboard": TensorBoard, "trackio": Trackio}


def require(name: str) -> None:
    """See that a tracker exists and is installed.

    Raises:
        ConfigError: no such tracker.
        NotThereError: its package is missing; names the extra that brings it.
    """
    if name not in TRACKERS:
        raise ConfigError(f"Expected a tracker among {', '.join(TRACKERS)}, got {name!r}")
    package = TRACKERS[name].package
    if importlib.util.find_spec(package) is None:
        raise NotThereError(f"{package} is not installed: pip install 'thoughtlens[{name}]'")
