"""All stages, in the order in which a run does them; a stage's code is imported only when it is needed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from thoughtlens.core.errors import NotThereError
from thoughtlens.core.machine.console import profiled, say
from thoughtlens.core.machine.profile import metered

if TYPE_CHECKING:
    from thoughtlens.core.records.result import Result
    from thoughtlens.core.stages.config import Config
    from thoughtlens.core.stages.stage import Plan


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: where its code is, what it reads, and where in a run it writes."""

    name: str
    room: str
    """The package that holds `config.py` and `stage.py`, inside this one."""
    about: str
    """What it does, in one line."""
    folder: str = ""
    """Its directory in a run; unset: the stage's name."""
    inputs: tuple[str, ...] = ()
    """Fields of its config that are directories of the run, or `run`, the run itself."""
    optional: tuple[str, ...] = ()
    """Further ones, which it reads where they are there."""
    tables: tuple[str, ...] = ()
    """Fields of its config that stand as tables of their own in a recipe."""
    function: str = ""
    """What does it in `stage.py`; unset: the function of its name."""
    alone: bool = False
    """Whether it keeps every processor busy by itself, so that nothing is done beside it."""
    recipe: str = ""
    """`default`: part of every run; `optional`: where a recipe asks for it; empty: never part of a run."""

    @property
    def directory(self) -> str:
        """Name of its directory in a run."""
        return self.folder or self.name

    @property
    def config(self) -> type[Config]:
        """`NameConfig` in `config.py`; importing it costs no torch."""
        return getattr(self._module("config"), f"{self.name.capitalize()}Config")

    @property
    def options(self) -> type[Config]:
        """What a recipe's table of its name may hold: the config without what the run decides."""
        return self.config.without(("seed", *self.tables, *self.inputs, *self.optional))

    def run(self, cfg: Any, out: str | Path) -> Result:
        """Its function in `stage.py`, which a finished directory of a run does without."""
        from thoughtlens.core.stages.stage import done_already

        self._require_inputs(cfg)
        alone = self.recipe and "acts" in self.inputs and os.environ.get("WORLD_SIZE", "1") == "1"
        done = done_already(self.name, cfg, Path(out), (*self.inputs, *self.optional)) if alone else None
        if done is not None:
            return done
        again = Path(out).exists() and "run" not in self.inputs  # what is there is only read
        with profiled(self._run_of(Path(out))), metered(stage="" if again else self.name):
            return getattr(self._module("stage"), self.function or self.name)(cfg, out)

    def waits_for(self, others: Iterable[Stage]) -> set[str]:
        """Names of the others that make what it reads; who reads a run reads all that is not made of one."""
        reads, whole = {*self.inputs, *self.optional}, "run" in self.inputs
        return {one.name for one in others if one.directory in reads or (whole and "run" not in one.inputs)}

    def _run_of(self, out: Path) -> Path:
        """The run that a directory of this stage is in, or the folder around one elsewhere."""
        parts = Path(self.directory).parts
        return out.parents[len(parts) - 1] if out.parts[-len(parts) :] == parts else out.parent

    def _require_inputs(self, cfg: Any) -> None:
        """See that the directories that it reads are there; says which stage makes the one that is not."""
        for name in (*self.inputs, *self.optional):
            path = Path(getattr(cfg, name) or ".")
            made = next((one for one in OF_RUNS if one.directory == path.name), None)
            if made is not None and not path.exists():
                way = made.first(path.parent)
                raise NotThereError(f"Expected an input at {path}, found nothing there; make it first: {way}")

    def settings_of(self, run: str | Path) -> dict[str, Any]:
        """What a run's recipe says of this stage, with its seed; nothing where there is no recipe.

        Raises:
            ConfigError: a recipe that cannot be read.
        """
        from thoughtlens.core.stages.config import read_recipe

        file = Path(run) / "config.toml"
        table = read_recipe(file) if file.is_file() else {}
        seed = {"seed": table["seed"]} if "seed" in table and "seed" in self.config.model_fields else {}
        return {**table.get(self.name, {}), **seed}

    def table(self, run: Path) -> dict[str, Any]:
        """Its settings on a run: what the recipe says of it, and where its inputs are."""
        return self.settings_of(run) | {name: str(place) for name, place in self.places(run).items()}

    def places(self, run: Path) -> dict[str, Path]:
        """Where what it reads lies in a run."""
        there = (name for name in self.optional if (run / name / "result.json").is_file())
        return {name: run if name == "run" else run / name for name in (*self.inputs, *there)}

    def command(self, run: str | Path) -> str:
        """What does this stage of a run, complete, as messages and pages show it."""
        place = quote(str(run))
        if self.recipe == "default" or self.name == "replay":
            return f"thoughtlens {self.name} {place} --out {place}"
        return f"thoughtlens {self.name} {place}"

    def first(self, run: Path) -> str:
        """What makes it in a run where it is missed; a run without a recipe is of thoughts, or of text."""
        if self.recipe != "default" or (run / "config.toml").is_file():
            return self.command(run)
        made = f"--out {quote(str(run))}"
        return (
            f"thoughtlens {self.name} pilot {made} (thoughts), or: thoughtlens {self.name} text-demo {made} "
            f"(text)"
        )

    def plan(self, cfg: Config) -> Plan | None:
        """What it expects to need, where it can say so."""
        plan = getattr(self._module("stage"), "plan", None)
        return None if plan is None else plan(cfg)

    def expect(self, cfg: Config, out: Path) -> None:
        """Foretell at `out` how large what it makes will be, for the plans of later stages."""
        foretell = getattr(self._module("stage"), "expect", None)
        if foretell is not None:
            foretell(cfg, out)

    def say_plan(self, cfg: Config) -> Plan | None:
        """The same, with a line for the user."""
        plan = self.plan(cfg)
        if plan is not None:
            say(plan.line(self.name))
        return plan

    def _module(self, name: str) -> Any:
        return importlib.import_module(f"thoughtlens.{self.room}.{name}")


ACTS_AND_SAE = ("acts", "sae")
STAGES = (
    Stage(
        name="extract",
        room="acts.extract",
        about="Run the model and store its activations.",
        folder="acts",
        tables=("model", "problems"),
        alone=True,
        recipe="default",
    ),
    Stage(
        name="train",
        room="sae.train",
        about="Train the sparse autoencoder(s) on stored activations.",
        folder="sae",
        inputs=("acts",),
        tables=("sae",),
        alone=True,
        recipe="default",
    ),
    Stage(
        name="validate",
        room="evals.reconstruction",
        about="Measure the SAE on held-out rows, beside its baselines.",
        inputs=ACTS_AND_SAE,
        recipe="default",
    ),
    Stage(
        name="finetune",
        room="evals.finetune",
        about="Train an SAE a little further on what the model loses, beside as much squared error.",
        inputs=ACTS_AND_SAE,
        alone=True,
        recipe="optional",
    ),
    Stage(
        name="interpret",
        room="latents.interpret",
        about="Collect what each latent responds to.",
        inputs=ACTS_AND_SAE,
        recipe="default",
    ),
    Stage(
        name="classify",
        room="evals.classify",
        about="Score labels with latents, raw activations and baselines on the same folds.",
        inputs=ACTS_AND_SAE,
        recipe="default",
    ),
    Stage(
        name="recovery",
        room="evals.recovery",
        about="Find the variables in the dictionary: which latent speaks for which value, beside k-means.",
        inputs=ACTS_AND_SAE,
        recipe="optional",
    ),
    Stage(
        name="lens",
        room="latents.lens",
        about="What a thought would say: logit and tuned lens, beside a shuffled null; decoder rows in "
        "words.",
        inputs=ACTS_AND_SAE,
        recipe="optional",
    ),
    Stage(
        name="explain",
        room="latents.explain",
        about="Explain latents, without an LLM or with one; every explanation is scored on problems it "
        "did not see.",
        inputs=(*ACTS_AND_SAE, "interpret"),
        recipe="optional",
    ),
    Stage(
        name="effects",
        room="interventions.intervene",
        about="What ablating, swapping and patching each thought does to the answers.",
        folder="intervene/effects",
        inputs=("acts",),
        recipe="optional",
    ),
    Stage(
        name="influence",
        room="interventions.influence",
        about="Which thought moves which: each edited alone, beside the chain of thought in words and pause "
        "tokens.",
        inputs=("acts",),
        recipe="optional",
    ),
    Stage(
        name="trace",
        room="tracing.chains",
        about="The chain that each problem's thoughts computed, found without labels, every step tested.",
        inputs=("acts",),
        optional=("sae", "lens"),
        recipe="optional",
    ),
    Stage(
        name="circuit",
        room="tracing.circuit",
        about="Which thought makes which: every edge tried by an intervention, and the graph cut to test it.",
        inputs=("acts",),
        recipe="optional",
    ),
    Stage(
        name="program",
        room="tracing.program",
        about="Write what the thoughts compute as a short Python program, and grade it by interchange.",
        inputs=("acts",),
        recipe="optional",
    ),
    Stage(
        name="orbits",
        room="latents.orbits",
        about="How far a state moves from thought to thought, whether it comes to rest, and its orbit.",
        inputs=("acts",),
        recipe="optional",
    ),
    Stage(
        name="attention",
        room="tracing.attention",
        about="Where each thought and the answer look: attention to the question and to earlier thoughts.",
        inputs=("acts",),
        recipe="optional",
    ),
    Stage(
        name="monitor",
        room="tracing.monitor",
        about="Notice thoughts that contradict the answer or hold more than it shows, beside simpler scores.",
        inputs=("acts",),
        recipe="optional",
    ),
    Stage(
        name="replay",
        room="evals.first_study",
        about="Replay the first study of CODI's thoughts, and correct it line by line.",
        inputs=("acts",),
        recipe="optional",
    ),
    Stage(
        name="explorer",
        room="show.explorer",
        about="Write pages that show every latent of a run.",
        inputs=("run",),
        recipe="optional",
    ),
    Stage(
        name="report",
        room="show.report",
        about="Write report.html, report.md and the figures of a run.",
        inputs=("run",),
        recipe="default",
    ),
    Stage(
        name="import",
        room="acts.bring",
        about="Make an activation store of your own arrays: .pt, .npz, .safetensors, Parquet, JSON lines.",
        folder="acts",
        function="bring",
    ),
    Stage(
        name="directions",
        room="latents.directions",
        about="Read directions like latents: probes, differences of means, components, tokens, your own.",
        inputs=("acts",),
    ),
    Stage(
        name="intervene",
        room="interventions.intervene",
        about="Change thoughts while the model thinks: ablate, swap, patch, steer, splice, leave early.",
    ),
    Stage(
        name="graph",
        room="tracing.latent_graph",
        about="Of one problem which latent makes which: what thoughtlens circuit RUN --problem ID does.",
        inputs=ACTS_AND_SAE,
        optional=("explain",),
    ),
    Stage(
        name="textgraph",
        room="tracing.text_graph",
        about="Of a text which latent makes which: what thoughtlens circuit RUN --text TEXT does.",
        inputs=ACTS_AND_SAE,
        optional=("explain",),
    ),
    Stage(
        name="geometry",
        room="latents.geometry",
        about="Nearest latents, and which latents two SAEs share: seeds, layers, thoughts, other models.",
    ),
    Stage(
        name="gates",
        room="evals.validity",
        about="Test whether a model's thoughts carry its reasoning: ablate, swap, patch, leave early.",
    ),
    Stage(
        name="suite",
        room="evals.suites",
        about="Run an evaluation suite on any model and SAE: model=NAME sae=DIR hook_name=layers.8:out.",
    ),
    Stage(
        name="convert",
        room="sae.convert",
        about="Convert an SAE to another library's format, and prove that it computes the same.",
    ),
    Stage(
        name="distill",
        room="models.distill",
        about="Train a small model that thinks in vectors, with its controls.",
    ),
    Stage(
        name="sweep",
        room="studies.sweep",
        about="Train every setting of a grid with several seeds: sae.k=8,16 sae.d_sae=1024,4096 seeds=0,1,2.",
    ),
    Stage(
        name="grid",
        room="studies.sweep",
        about="Train every setting on every layer and thought, as stacks: sae.k=8,16 train.lr=1e-4,4e-4 "
        "seeds=0,1.",
    ),
    Stage(
        name="neuronpedia",
        room="show.neuronpedia",
        about="Write a run's latents as Neuronpedia takes them: model_id=gpt2-small source_set=res-mylab.",
    ),
)
BY_NAME = {stage.name: stage for stage in STAGES}
OF_RUNS = tuple(stage for stage in STAGES if stage.recipe)
"""Those that a recipe can ask for."""


def require_run(root: str | Path) -> None:
    """See that a directory holds a stage of a run.

    Raises:
        NotThereError: nothing is there, or something else; says what makes a run, or which one is meant.
    """
    root = Path(root)
    if root.is_file():
        raise NotThereError(f"Expected the directory of a run, got the file {root}")
    if any((root / stage.directory).is_dir() for stage in OF_RUNS):
        return
    if around := next((one for one in root.parents if root.is_dir() and (one / "acts").is_dir()), None):
        raise NotThereError(f"Expected a run, got a part of one, {root}; the run is {around}")
    free = not root.exists() or not any(root.iterdir())
    if _is_model(root):
        own = f" model={quote(str(root))} --out {quote(f'runs/{root.name}')}"
        text = f" (thoughts), or: thoughtlens run text-demo{own} (text)" * root.exists()
        raise NotThereError(
            f"Expected a run directory, got the model {root}; make a run of it: "
            f"thoughtlens run pilot{own}{text}"
        )
    raise NotThereError(
        f"Expected a run directory at {root}, found none; make one: "
        f"{_whole(root if free else Path('runs/pilot'), 'pilot')} (thoughts), or: "
        f"{_whole(root if free else Path('runs/text-demo'), 'text-demo')} (text)"
    )


def _is_model(root: Path) -> bool:
    """Whether it is a shipped model's name, or a directory with a model's config and no run's."""
    shipped = Path(__file__).parents[2] / "models" / "weights"
    named = not root.is_absolute() and bool(root.parts) and (shipped / root.parts[0]).is_dir()
    return (named and not root.exists()) or (root / "config.json").is_file()


def _whole(root: Path, recipe: str) -> str:
    return f"thoughtlens run {recipe} --out {quote(str(root))}"
