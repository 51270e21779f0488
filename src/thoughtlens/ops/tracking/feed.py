"""From training curves to trackers, while they grow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

from thoughtlens.core import ConfigError, say, warn
from thoughtlens.ops.tracking.names import NAMES, Facts, Names, Row
from thoughtlens.ops.tracking.trackers import TRACKERS, Place, Tracker, require
from thoughtlens.sae import followed


class Feed:
    """Takes curves, and passes on what is new in them; one run in each tracker for every SAE.

    A tracker that fails is left out from then on, and said once: nothing that it does stops a training.

    Args:
        to: Trackers by name.
        group: What the SAEs have in common; names of runs start with it.
        project: Project to use; None: that of `names`.
        names: A key of `NAMES`.
        folder: For the trackers' files; None: wherever they keep them, TensorBoard's in the current one.

    Raises:
        ConfigError: an unknown tracker or way of naming.
        NotThereError: a tracker that is not installed.
    """

    def __init__(
        self,
        to: Sequence[str],
        *,
        group: str = "thoughtlens",
        project: str | None = None,
        names: str = "own",
        folder: str | Path | None = None,
    ) -> None:
        for name in to:
            require(name)
        if names not in NAMES:
            raise ConfigError(f"Expected names among {', '.join(NAMES)}, got {names!r}")
        self.names: Names = NAMES[names]
        self.project, self.group = project or self.names.project, group
        self.folder = None if folder is None else Path(folder).resolve()
        self.headline: dict[str, float] = {}
        self.working = list(dict.fromkeys(to))
        """Trackers that have not failed."""
        self.n_runs = 0
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()

    def __call__(self, facts: Facts, curve: list[Row]) -> None:
        """Pass on the rows of an SAE's curve that are new."""
        with self._lock:
            key = repr(sorted(facts.items(), key=str))
            if key not in self._runs:
                self._runs[key] = self._begin(facts)
            self._runs[key].catch_up(curve, self._attempt)

    def summarise(self, stages: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the headline numbers of stages, by stage: they stand at the end of the run of the only SAE, or
        in a run of their own."""
        for stage, result in stages.items():
            for name, entry in (result.get("headline") or {}).items():
                value = entry.get("value") if isinstance(entry, Mapping) else entry
                if isinstance(value, int | float):
                    self.headline[f"{stage}/{name}"] = value

    def finish(self) -> None:
        """End all runs."""
        with self._lock:
            if self.headline and len(self._runs) != 1:
                place = Place(self.project, f"{self.group} headline", self.group, {}, self.folder)
                self._runs["headline"] = self._open(place, {})
            self.n_runs += len(self._runs)
            for run in self._runs.values():
                run.finish(self.headline if len(self._runs) == 1 or not run.facts else {}, self._attempt)
            self._runs.clear()

    def later(self, name: str) -> str:
        """The command that shows the run to a tracker when it is finished."""
        run = str(self.folder).removesuffix(".tracking") if self.folder else self.group
        return f"thoughtlens track {quote(run)} --to {name}"

    def _begin(self, facts: Facts) -> _Run:
        settings = self.names.settings(facts)
        place = Place(self.project, self.names.run(self.group, facts), self.group, settings, self.folder)
        return self._open(place, facts)

    def _open(self, place: Place, facts: Facts) -> _Run:
        trackers = {}
        for name in tuple(self.working):
            self._attempt(name, lambda name=name: trackers.update({name: TRACKERS[name](place)}))
        return _Run(facts, self.names, trackers)

    def _attempt(self, name: str, act: Callable[[], Any]) -> None:
        """Do it, unless the tracker has failed before."""
        if name not in self.working:
            return
        try:
            act()
        except (
            Exception
        ) as error:  # a service of others, inside a training that must go on whatever it raises
            self.working.remove(name)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            warn(
                f"{name} takes no more numbers ({reason}); everything else goes on. "
                f"When it works again: {self.later(name)}"
            )


class _Run:
    """One SAE in every tracker."""

    def __init__(self, facts: Facts, names: Names, trackers: dict[str, Tracker]) -> None:
        self.facts, self.names, self.trackers = facts, names, trackers
        self.n_rows, self.step = 0, 0

    def catch_up(self, curve: list[Row], attempt: Callable[[str, Callable[[], Any]], None]) -> None:
        for row in curve[self.n_rows :]:
            self.step = row["rows_seen"]
            values = self.names.values(self.facts, row)
            for name, tracker in self.trackers.items():
                attempt(name, lambda t=tracker, v=values: t.log(self.step, v))
        self.n_rows = len(curve)

    def finish(self, headline: dict[str, float], attempt: Callable[[str, Callable[[], Any]], None]) -> None:
        for name, tracker in self.trackers.items():
            attempt(name, lambda t=tracker: t.finish(self.step, headline))


@contextmanager
def live(to: Sequence[str], **settings: Any) -> Iterator[Feed]:
    """Feed trackers with every SAE that is trained inside the block.

    Args:
        to: `wandb`, `tensorboard`, `trackio`; none: nothing happens.
        settings: As for `Feed`.

    Raises:
        ConfigError, NotThereError: as `Feed`, before anything is trained.
    """
    feed = Feed(to, **settings)
    try:
        with followed(feed):
            yield feed
    finally:
        feed.finish()
        for name in feed.working:
            none = "" if feed.n_runs else f"; nothing was trained here, what is there: {feed.later(name)}"
            say(f"track: {feed.n_runs} runs in {name}, project {feed.project}{none}")
