"""Stages of a run side by side, where none waits for another."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from thoughtlens.core import (
    BY_NAME,
    Beside,
    Config,
    Cost,
    Result,
    Room,
    Stage,
    add_costs,
    profiled,
    read_result,
    say,
    taken_costs,
)
from thoughtlens.models import allow, allowed

MOST = 4
"""Stages at once where nobody says how many: few recipes have more that need not wait."""
OWN = "THOUGHTLENS_"
"""How the variables of the environment begin that stages read."""


class Workers:
    """Do stages in processes beside this one, each with its share of the processors."""

    def __init__(self, beside: Beside, out: Path, jobs: int) -> None:
        self._beside, self._out, self._jobs = beside, out, jobs

    def do(self, stages: Sequence[Stage], settings: Callable[[Stage], Config]) -> dict[str, Result]:
        """Each stage when what it reads is there; those that most wait for, or that waited, go first.

        Where one fails, no other is begun, and those beside it are finished before it is raised.
        """
        before = {stage.name: stage.waits_for(stages) for stage in stages}
        wanted = Counter(name for names in before.values() for name in names)
        waiting = sorted(stages, key=lambda one: (-wanted[one.name], -len(before[one.name])))
        results: dict[str, Result] = {}
        error: BaseException | None = None
        while True:
            for stage in [one for one in waiting if before[one.name] <= results.keys()]:
                if error or len(self._beside.names) >= self._jobs:
                    break
                waiting.remove(stage)
                self._begin(stage, settings(stage), results)
            if not self._beside.names:
                break
            for one in self._beside.ended():
                if one.error is None:
                    add_costs(one.value)
                    results[one.name] = read_result(self._out / BY_NAME[one.name].directory)
                elif error is None:
                    error = one.error
                    self._say_what_is_left(one.name)
                else:
                    say(f"{one.name}: {one.error}")
        if error:
            raise error
        return results

    def _begin(self, stage: Stage, cfg: Config, results: dict[str, Result]) -> None:
        target = self._out / stage.directory
        if target.exists():
            results[stage.name] = stage.run(cfg, target)
        else:
            self._beside.start(stage.name, _do, stage.name, cfg, target, _Asked.of_now())

    def _say_what_is_left(self, failed: str) -> None:
        if names := self._beside.names:
            say(f"{failed} failed; what was begun beside it is finished first: {', '.join(names)}")


@contextmanager
def workers(stages: Sequence[Stage], out: Path, jobs: int | None) -> Iterator[Workers | None]:
    """For stages of the run at `out`; None where one after the other is what was asked for, or all there is.

    Args:
        stages: Of the run; what is done already, or keeps every processor busy alone, needs none.
        out: The run.
        jobs: How many at once; None: one on a GPU, which they would share, else one for each processor.
    """
    todo = [stage for stage in stages if not (stage.alone or (out / stage.directory).exists())]
    if jobs == 1 or len(todo) < 2 or os.environ.get("WORLD_SIZE", "1") != "1":
        yield None
        return
    import torch  # here, since a recipe is checked without it

    jobs = jobs or (1 if torch.cuda.is_available() else min(MOST, torch.get_num_threads()))
    if jobs == 1:
        yield None
        return
    modules = [f"thoughtlens.{stage.room}.stage" for stage in todo]
    with Beside(modules, max(1, torch.get_num_threads() // jobs)) as beside:
        yield Workers(beside, out, jobs)


class _Asked(NamedTuple):
    """What a process beside has to be told: it is forked of one that may be older than the wish."""

    code: Sequence[str]
    variables: Mapping[str, str]

    @classmethod
    def of_now(cls) -> _Asked:
        """Of this process."""
        return cls(allowed(), {name: value for name, value in os.environ.items() if name.startswith(OWN)})

    def take(self) -> None:
        """In the process beside."""
        allow(*self.code)
        for name in [name for name in os.environ if name.startswith(OWN)]:
            del os.environ[name]
        os.environ.update(self.variables)


def _do(room: Room, name: str, cfg: Config, target: Path, asked: _Asked) -> list[Cost]:
    """In a process beside: a stage, once its plan says that there is room for it."""
    import torch

    from thoughtlens.core import free_bytes

    asked.take()
    stage = BY_NAME[name]
    plan = stage.say_plan(cfg)
    room(plan.memory_bytes if plan else 0.0, free_bytes(torch.device("cpu")))
    with profiled(None):
        stage.run(cfg, target)
    return taken_costs()
