"""All stages, in the order in which a run does them; a stage is imported only when it runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thoughtlens.core.config import Config
from thoughtlens.core.stage import Plan


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: where its code is, what it reads, and where in a run it writes."""

    name: str
    room: str
    """The package that holds `config.py` and `stage.py`."""
    config_class: str
    function: str = ""
    """Name in `stage.py`; unset: the stage's."""
    plans: bool = True
    """Whether `stage.py` has `plan(cfg) -> Plan`."""
    folder: str = ""
    """Its directory in a run; unset: the stage's name."""
    inputs: tuple[str, ...] = ()
    """Fields of its config that are directories of the run, or `run`, the run itself."""
    tables: tuple[str, ...] = ()
    """Fields of its config that stand as tables of their own in a recipe."""
    recipe: str = "default"
    """`default`: part of every run; `optional`: where a recipe asks for it; empty: never part of a run."""

    @property
    def directory(self) -> str:
        """Name of its directory in a run."""
        return self.folder or self.name

    @property
    def config(self) -> type[Config]:
        """Its config's class; importing it costs no torch."""
        return getattr(importlib.import_module(f"{self.room}.config"), self.config_class)

    @property
    def run(self) -> Callable[..., Any]:
        """`(cfg, out) -> Result`."""
        return getattr(importlib.import_module(f"{self.room}.stage"), self.function or self.name)

    def plan(self, cfg: Config) -> Plan | None:
        """What it expects to need, where it can say so."""
        return importlib.import_module(f"{self.room}.stage").plan(cfg) if self.plans else None


ACTS_AND_SAE = ("acts", "sae")
STAGES = (
    Stage(
        name="extract",
        room="thoughtlens.acts.extract",
        config_class="ExtractConfig",
        folder="acts",
        tables=("model", "problems"),
    ),
    Stage(
        name="train",
        room="thoughtlens.sae.train",
        config_class="TrainConfig",
        folder="sae",
        inputs=("acts",),
        tables=("sae",),
    ),
    Stage(
        name="validate",
        room="thoughtlens.evals.reconstruction",
        config_class="ValidateConfig",
        inputs=ACTS_AND_SAE,
    ),
    Stage(
        name="interpret",
        room="thoughtlens.latents.interpret",
        config_class="InterpretConfig",
        inputs=ACTS_AND_SAE,
    ),
    Stage(
        name="classify", room="thoughtlens.evals.classify", config_class="ClassifyConfig", inputs=ACTS_AND_SAE
    ),
    Stage(
        name="lens",
        room="thoughtlens.latents.lens",
        config_class="LensConfig",
        inputs=ACTS_AND_SAE,
        recipe="optional",
    ),
    Stage(
        name="explain",
        room="thoughtlens.latents.explain",
        config_class="ExplainConfig",
        inputs=(*ACTS_AND_SAE, "interpret"),
        recipe="optional",
    ),
    Stage(
        name="replay",
        room="thoughtlens.evals.first_study",
        config_class="ReplayConfig",
        inputs=("acts",),
        recipe="optional",
    ),
    Stage(
        name="explorer",
        room="thoughtlens.show.explorer",
        config_class="ExplorerConfig",
        inputs=("run",),
        plans=False,
        recipe="optional",
    ),
    Stage(
        name="report",
        room="thoughtlens.show.report",
        config_class="ReportConfig",
        inputs=("run",),
        plans=False,
    ),
    Stage(name="intervene", room="thoughtlens.interventions", config_class="InterveneConfig", recipe=""),
    Stage(name="geometry", room="thoughtlens.latents.geometry", config_class="GeometryConfig", recipe=""),
    Stage(name="gates", room="thoughtlens.evals.validity", config_class="GatesConfig", recipe=""),
    Stage(name="suites", room="thoughtlens.evals.suites", config_class="SuiteConfig", recipe=""),
    Stage(name="distill", room="thoughtlens.models.distill", config_class="DistillConfig", recipe=""),
    Stage(name="sweep", room="thoughtlens.studies.sweep", config_class="SweepConfig", recipe=""),
    Stage(
        name="neuronpedia",
        room="thoughtlens.show.neuronpedia",
        config_class="NeuronpediaConfig",
        recipe="",
    ),
)
BY_NAME = {stage.name: stage for stage in STAGES}
