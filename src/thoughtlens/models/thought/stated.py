"""What a checkpoint says of its own training, in the files that trainers leave beside it."""

from __future__ import annotations

import functools
import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from thoughtlens.core import CheckpointError, say, warn
from thoughtlens.models.thought.heard import tell

Value = bool | int | float | str
NAMES: dict[str, tuple[str, ...]] = {
    "n_thoughts": (
        "n_thoughts", "num_thoughts", "num_latent", "num_latents", "n_latent", "n_latents",
        "inf_latent_iterations", "latent_iterations",
    ),
    "c_thought": ("c_thought",),
    "max_latent_stage": ("max_latent_stage",),
    "eos_before": ("eos_before",),
    "eos_after": ("eos_after",),
    "remove_eos": ("remove_eos",),
    "lora_alpha": ("lora_alpha",),
    "use_lora": ("use_lora",),
    "rank_stabilised": ("use_rslora",),
    "projection": ("use_prj", "use_projection", "projection"),
    "projection_without_norm": ("prj_no_ln",),
    "base": ("base_model_name_or_path", "model_name_or_path", "base_model", "base_model_id", "model_id"),
    "prompt": ("prompt_template", "question_template", "prompt_format"),
    "bot_id": (
        "bocot_id", "bocot_token_id", "bot_id", "bot_token_id", "start_latent_id", "start_latent_token_id",
        "start_token_id",
    ),
    "eot_id": (
        "eocot_id", "eocot_token_id", "eot_id", "eot_token_id", "end_latent_id", "end_latent_token_id",
        "end_token_id",
    ),
    "multimode": ("multimode",),
    "feedback_mode": ("feedback_mode",),
    "no_thoughts": ("no_thoughts",),
    "recurrent_filter_mode": ("recurrent_filter_mode",),
    "add_latent_to_end": ("add_latent_to_end",),
    "lora_mode": ("lora_mode",),
    "continue_token_id": ("continue_token_id",),
    "stop_token_id": ("stop_token_id",),
}  # fmt: skip
"""Setting -> what CODI, Coconut, PEFT and their relatives call it, the surest first."""
TYPES = {
    "base": str,
    "prompt": str,
    "feedback_mode": str,
    "recurrent_filter_mode": str,
    "continue_token_id": int,
    "stop_token_id": int,
    "bot_id": int,
    "eot_id": int,
    "lora_alpha": (int, float),
    "n_thoughts": int,
    "c_thought": int,
    "max_latent_stage": int,
}
"""Of settings that are not switches."""
TOKENS = ("bot_id", "eot_id", "multimode")
JSON_FILES = ("*config*.json", "*args*.json", "*arguments*.json")
YAML_FILES = ("*.yaml", "*.yml")
NOT_THE_MODELS = ("tokenizer", "generation", "preprocessor", "processor", "quantiz")
ARGUMENTS = "training_args.bin"
MOST_BYTES = 1 << 24
NUMBERED = re.compile(r"checkpoint[-_]")


@dataclass(frozen=True)
class Stated:
    """Settings, and the file that states each of them."""

    values: dict[str, Value]
    files: dict[str, str]

    def get(self, name: str) -> Any:
        """The value; None where no file states it."""
        return self.values.get(name)


def stated(folder: Path) -> Stated:
    """The settings that files beside a checkpoint state; beside its folder, if that is one of a trainer's
    numbered ones (`checkpoint-900`).

    Raises:
        CheckpointError: a value of another type than the setting has, or two files that contradict another.
    """
    found: dict[str, tuple[Value, str]] = {}
    for file, table in _tables(folder):
        for setting, names in NAMES.items():
            name = next((name for name in names if table.get(name) not in (None, "", "None")), None)
            if name is None or (setting == "prompt" and "{question}" not in str(table[name])):
                continue
            value = _checked(setting, name, table[name], file)
            before, where = found.setdefault(setting, (value, file.name))
            if before != value and setting != "base":
                raise CheckpointError(
                    f"{folder}: {where} says {setting} = {before}, and {file.name} says {name} = {value}: "
                    f"remove the one that is wrong"
                )
    if "remove_eos" in found:
        old, where = found["remove_eos"]
        found = {"eos_before": (not old, where), "eos_after": (not old, where)} | found
    if {"c_thought", "max_latent_stage"} <= found.keys():
        (each, where), (stages, _) = found["c_thought"], found["max_latent_stage"]
        found = {"n_thoughts": (int(each) * int(stages), where)} | found
    if found.get("no_thoughts", (False, ""))[0]:
        found["n_thoughts"] = (0, found["no_thoughts"][1])
    return Stated({k: v for k, (v, _) in found.items()}, {k: file for k, (_, file) in found.items()})


@dataclass(frozen=True)
class Said:
    """What is said of a checkpoint, and by whom; who comes first counts."""

    name: str
    given: Mapping[str, Any]
    """By the caller; None is not said."""
    known: Mapping[str, Any]
    """Of a published checkpoint."""
    own: Stated
    """By files beside it."""

    def by(self, key: str) -> tuple[Any, str]:
        """A setting and who says it; None where nobody does."""
        for source, who in (
            (self.given, "given"),
            (self.known, "known of it"),
            (self.own.values, self.own.files.get(key, "")),
        ):
            if source.get(key) is not None:
                return source[key], who
        return None, ""

    def get(self, key: str) -> Any:
        """A setting; None where nobody says it."""
        return self.by(key)[0]

    def chosen(self, otherwise: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings of a model.

        Args:
            otherwise: Each setting, and what is assumed where nobody says it.

        Returns:
            The settings, and those of them that nothing stands behind.
        """
        for key, value in self.given.items():
            said = self.own.get(key)
            if None not in (value, said) and said != value:
                here, there = json.dumps(value), json.dumps(said)
                say(f"{self.name}: {key}={here} as given, though {self.own.files[key]} says {there}")
        found = {key: self.get(key) for key in otherwise}
        assumed = {key: value for key, value in otherwise.items() if found[key] is None}
        floats = (key for key, value in otherwise.items() if isinstance(value, float))
        found |= assumed
        found |= {key: float(found[key]) for key in floats}
        tell(settings={key: (value, self.by(key)[1]) for key, value in found.items()})
        return found, assumed

    def extra(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of the thought tokens, as far as the caller gave them or nobody did."""
        return {**found, **{k: v for k in TOKENS if (v := self.given.get(k)) is not None}}

    def warn_of(self, assumed: Mapping[str, Any]) -> None:
        """Say what is assumed, loudly, since a wrong one gives other thoughts and no error."""
        if assumed:
            _say_assumed(self.name, ", ".join(f"{key}={json.dumps(value)}" for key, value in assumed.items()))


def not_stated(settings: Mapping[str, Value | None], assumed: Sequence[str]) -> list[str]:
    """What a result says of the settings that nothing stands behind."""
    listed = ", ".join(f"{name} = {settings[name]}" for name in assumed)
    return [f"the checkpoint does not say how it was trained; assumed: {listed}"] if assumed else []


@functools.cache
def _say_assumed(name: str, listed: str) -> None:
    """Once, however often a model is opened."""
    warn(
        f"{name} does not say how it was trained; assumed: {listed}. A wrong one gives other thoughts or "
        f"answers without an error: set what its training had"
    )


def _checked(setting: str, name: str, value: Any, file: Path) -> Value:
    wanted = TYPES.get(setting, bool)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise CheckpointError(f"{file}: {name} is {str(value)[:80]!r}, which is no value of {setting}")
    return value


def _tables(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every table of settings there, and the tables in it."""
    folders = [folder, folder.parent] if NUMBERED.match(folder.name) else [folder]
    for patterns, read in ((JSON_FILES, _json), (YAML_FILES, _yaml)):
        for file in sorted({file for at in folders for pattern in patterns for file in at.glob(pattern)}):
            if file.is_file() and not any(word in file.name for word in NOT_THE_MODELS):
                yield from ((file, table) for table in _nested(read(file)))
    if (folder / ARGUMENTS).is_file():
        yield from ((folder / ARGUMENTS, table) for table in _nested(_pickled(folder / ARGUMENTS)))


def _nested(value: Any) -> Iterator[dict[str, Any]]:
    """Every table in a table, each once; a setting may be wrapped with its description, as W&B does."""
    seen, rest = set(), [value]
    while rest:
        table = rest.pop()
        if isinstance(table, dict) and id(table) not in seen:
            seen.add(id(table))
            yield {key: _unwrapped(inner) for key, inner in table.items()}
            rest += reversed(table.values())


def _unwrapped(value: Any) -> Any:
    wrapped = isinstance(value, dict) and "value" in value and set(value) <= {"value", "desc"}
    return value["value"] if wrapped else value


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8").strip() or "{}")  # SIM-CoT's are empty
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON that can be read: {str(error)[:200]}") from None


def _yaml(file: Path) -> Any:
    """The tables of a YAML file; none where it cannot be read as plain values."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError("too long for settings")
        return yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        warn(f"{file} cannot be read ({type(error).__name__}); its settings are not known")
        return None


class _Inert(pickle.Unpickler):
    """Reads a pickle's plain values; whatever it names is replaced by an empty class, and nothing is run."""

    def find_class(self, module: str, name: str) -> type:
        return _Anything

    def persistent_load(self, pid: Any) -> None:
        return None


class _Anything(dict):
    """Stands for any object of a pickle; keeps the state that it was saved with."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.update(state if isinstance(state, dict) else {})

    def __call__(self, *_: Any, **__: Any) -> _Anything:
        return self


def _pickled(file: Path) -> Any:
    """The fields of the trainer's arguments, without any of its code; nothing where they cannot be read."""
    try:
        with zipfile.ZipFile(file) as archive:
            inner = next(info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
            if inner.file_size > MOST_BYTES:
                raise ValueError(f"{inner.file_size} bytes of arguments")
            with archive.open(inner) as handle:
                return _Inert(handle).load()
    except Exception as error:  # a pickle can fail in any way; the settings are then assumed, and said
        warn(f"{file} cannot be read ({type(error).__name__}); its settings are not known")
        return None
