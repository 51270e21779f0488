"""What every stage shares: a directory that is whole or absent, resumable, and says where it came from.

Work happens in `NAME.tmp`, which is renamed to `NAME` when everything is written. A killed stage
leaves `NAME.tmp`, and the same call continues there. One that wrote nothing leaves nothing, and neither does
one that was refused before it had finished a part.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from thoughtlens import __version__
from thoughtlens.core.errors import (
    ConfigError,
    MismatchError,
    NotThereError,
    OccupiedError,
    ResourceError,
    ThoughtlensError,
    is_out_of_memory,
    system_errors,
)
from thoughtlens.core.machine.console import say, warn
from thoughtlens.core.records.files import fsync_tree, held, lock_of, read_json, whole, write_json
from thoughtlens.core.records.manifest import removed, require_sound, seal, unchecked
from thoughtlens.core.records.record import Json, Outcome, Record
from thoughtlens.core.records.result import CONTROL, Result
from thoughtlens.core.stages.config import (
    Config,
    differences,
    identity,
    read_recipe,
    to_toml,
    validate_config,
)
from thoughtlens.core.stages.digests import BEGUN, LOCK, digest, digest_tree, inputs_of, require_as_written
from thoughtlens.core.stages.parts import FOLDER as PARTS
from thoughtlens.core.stages.translate import translate_result

SCHEMA = 1
NOT_COMPARED = "the inputs were not compared with their digests, as --unchecked asked"
CONTINUED = {PARTS, "checkpoints", "progress.json", "meta.json"}
"""Folders and files that a stage continues from; the last two are those of a store."""
LIBRARIES = ("torch", "transformers", "numpy", "scikit-learn", "safetensors", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Plan(Record):
    """What a stage expects to need, said before it starts."""

    rows: int
    memory_bytes: float
    disk_bytes: float
    seconds: float
    notes: tuple[str, ...] = ()
    """What was left open in the settings and is decided now."""

    def line(self, stage: str) -> str:
        """One line for the user."""
        needs = (
            f"{stage}: about {self.rows:,} rows, {self.memory_bytes / 1e9:.1f} GB memory, "
            f"{self.disk_bytes / 1e9:.2f} GB disk, {self.seconds:,.0f} s"
        )
        return "; ".join((needs, *self.notes))


def run_stage(
    stage: str,
    cfg: Config,
    out: str | Path,
    work: Callable[[Path], Outcome | Json],
    *,
    inputs: dict[str, Path] | None = None,
) -> Result:
    """Do `work(tmp_dir)` once, and keep its directory and `result.json`.

    Args:
        stage: Name of the stage, stored in the result.
        cfg: The stage's complete config, stored as `config.toml`.
        out: The directory to make. If it exists with the same config and the same inputs, its
            result is returned and nothing is done; unless pieces of it were deleted on purpose, which
            are made again.
        work: Writes the data into the directory it is given, continuing from what an interrupted
            call left there, and returns the metrics for `result.json`.
        inputs: Input directories and files by name; their digests are stored and compared.

    Raises:
        NotThereError: an input is missing.
        OccupiedError: `out` holds something else, or another process is writing it.
        StoreError: an input, or what is finished at `out`, is damaged.
        MismatchError: an input changed meanwhile.
        ResourceError: disk full or no permission. What was finished stays.
    """
    out, inputs = Path(out), inputs or {}
    digests = {name: digest(path, out) for name, path in inputs.items()}
    cleaned = out.is_dir() and bool(removed(out))
    if out.exists():
        found = _reuse(out, stage, cfg, digests)
        if not cleaned:
            return found
    if not unchecked():
        for path in inputs.values():
            require_as_written(Path(path))
    tmp = out.with_name(out.name + ".tmp")
    with _spoken(out), held(tmp):
        if out.exists() and not cleaned:  # another process ended while this one waited for nothing
            shutil.rmtree(tmp, ignore_errors=True)
            return _reuse(out, stage, cfg, digests)
        with _left_where_written(tmp):
            _begin(tmp, cfg, digests)
            if (tmp / "result.json").is_file():
                return _finished(tmp, out)
            start = time.monotonic()
            with _kept_where_continued(tmp):
                outcome = work(tmp)
            for name, path in inputs.items():
                if digest(path, out) != digests[name]:
                    raise MismatchError(
                        f"{path} has changed while {stage} was reading it; delete {tmp} and run it again"
                    )
            result = {
                "schema": SCHEMA,
                "stage": stage,
                **_with_notes(outcome.to_json() if isinstance(outcome, Outcome) else outcome, inputs),
                "config_identity": identity(cfg),
                "inputs": {name: {"path": str(inputs[name]), "digest": it} for name, it in digests.items()},
                "digest": _digest_finished(tmp),
                "seconds": round(time.monotonic() - start, 3),
                **provenance().to_json(),
            }
            write_json(tmp / "result.json", result)
            return _finished(tmp, out)


def done_already(stage: str, cfg: Config, out: Path, fields: Sequence[str]) -> Result | None:
    """What `run_stage` gives back for a finished directory, without the stage's code, which takes seconds to
    load; None where that has to decide: other settings, or inputs that are not just these fields' places.
    """
    if not (out / "config.toml").is_file() or not (out / "result.json").is_file():
        return None
    given = {name: place for name in fields if isinstance(place := getattr(cfg, name), Path)}
    result = read_json(out / "result.json")
    alike = (result.get("stage"), result.get("config_identity")) == (stage, identity(cfg))
    if not alike or inputs_of(result, out).keys() != given.keys() or removed(out):
        return None
    return _reuse(out, stage, cfg, {name: digest(path, out) for name, path in given.items()})


def read_result(path: str | Path) -> Result:
    """The `result.json` of a finished stage.

    Raises:
        NotThereError: not finished.
        StoreError: not what the stage wrote.
    """
    file = Path(path) / "result.json"
    if not file.is_file():
        unfinished = Path(f"{path}.tmp").exists()
        hint = "; an unfinished run lies beside it: run its command again" if unfinished else ""
        raise NotThereError(f"Expected a finished stage at {path}, found no {file.name} there{hint}")
    table = read_json(file)
    require_sound([file])
    return Result(translate_result(table))


@dataclass(frozen=True, kw_only=True)
class Machine(Record):
    """Where a result was made."""

    system: str
    cpus: int | None


@dataclass(frozen=True, kw_only=True)
class Provenance(Record):
    """With what a result was made."""

    versions: dict[str, str]
    git_commit: str | None
    machine: Machine


def provenance() -> Provenance:
    """Versions, git commit and machine, for `result.json`."""
    versions = {"thoughtlens": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    machine = Machine(system=platform.platform(), cpus=os.cpu_count())
    return Provenance(versions=versions, git_commit=_git_commit(), machine=machine)


def _with_notes(outcome: Json, inputs: Mapping[str, Path]) -> Json:
    """With what no stage sees by itself: states of a control, and inputs that were not compared."""
    control = outcome.get("control") or next(filter(None, map(_control_of, inputs.values())), None)
    notes = [f"{CONTROL} ({control})"] if control else []
    notes += [NOT_COMPARED] if unchecked() else []
    if not notes:
        return outcome
    named = {"control": control} if control else {}
    return outcome | named | {"warnings": [*outcome.get("warnings", ()), *notes]}


def _control_of(path: Path) -> str | None:
    """What the model behind an input, a stage's directory or a run, is a control for."""
    for folder in (Path(path), Path(path) / "acts"):
        if (folder / "result.json").is_file() and (said := read_json(folder / "result.json").get("control")):
            return str(said)
    return None


def _finished(tmp: Path, out: Path) -> Result:
    """Clean up, list the files and rename; all that a stage which was killed here has left to do."""
    shutil.rmtree(tmp / PARTS, ignore_errors=True)
    for name in (BEGUN, LOCK):
        (tmp / name).unlink(missing_ok=True)
    seal(tmp)
    fsync_tree(tmp)
    old = out.with_name(f".{out.name}.cleaned")
    if out.is_dir():  # what it lacks was deleted on purpose, and is there again
        _require_same_digest(tmp, out)
        os.rename(out, old)
    os.rename(tmp, out)
    shutil.rmtree(old, ignore_errors=True)
    return read_result(out)


def _require_same_digest(tmp: Path, out: Path) -> None:
    """Say where what was made again is not what it was, as on another machine."""
    if read_json(tmp / "result.json").get("digest") != read_json(out / "result.json").get("digest"):
        warn(
            f"{out} was made again and is not the same to the last byte, as on another machine or with "
            f"another version: stages that were made from it have to be made again, too"
        )


def _digest_finished(tmp: Path) -> str:
    """The digest of what is there, after halves that a kill left are swept away."""
    for half in (*tmp.rglob("*.part"), *tmp.rglob(".tmp*")):
        if half.is_file():
            half.unlink()
    return digest_tree(tmp)


def _reuse(out: Path, stage: str, cfg: Config, digests: dict[str, str]) -> Result:
    if not (out / "config.toml").is_file() or not (out / "result.json").is_file():
        raise OccupiedError(
            f"Expected nothing at {out}, or a finished {stage} to reuse; something else is there. "
            f"Choose another --out, or delete it"
        )
    result = read_result(out)
    if result.get("stage") != stage:
        raise OccupiedError(
            f"{out} holds a finished {result.get('stage', 'run')}, not {stage} alone; choose another --out"
        )
    if result.get("config_identity") != identity(cfg) and (keys := _other_settings(out, cfg, finished=True)):
        raise OccupiedError(
            f"{out} holds a finished {stage}, made with other settings: {', '.join(keys)}. "
            f"Choose another --out, or delete it"
        )
    made_from = inputs_of(result, out)
    for name, value in digests.items():
        if made_from.get(name) != value:
            raise OccupiedError(
                f"{out} was made from another {name} than the one given now; "
                f"choose another --out, or delete it"
            )
    require_as_written(out, deep=False)
    with suppress(OSError):  # of a process that was killed after the last rename
        lock_of(out.with_name(out.name + ".tmp")).unlink()
    done = (
        f"makes again what was deleted of {out}" if removed(out) else f"{out} is already done, nothing to do"
    )
    say(f"{stage}: {done}")
    return result


@contextmanager
def _left_where_written(tmp: Path) -> Iterator[None]:
    """The directory to work in; it goes again if the work ends before it wrote anything."""
    tmp.mkdir(exist_ok=True)
    try:
        yield
    finally:
        if tmp.is_dir() and not _written(tmp):
            shutil.rmtree(tmp)


@contextmanager
def _kept_where_continued(tmp: Path) -> Iterator[None]:
    """The directory goes if the work is refused with nothing in it that the same call would continue from."""
    try:
        yield
    except ResourceError:
        raise
    except ThoughtlensError:
        if not any(CONTINUED & {*path.relative_to(tmp).parts} for path in tmp.rglob("*") if path.is_file()):
            shutil.rmtree(tmp)
        raise


def _written(tmp: Path) -> bool:
    """Whether a stage's work is there, and not only what it began with."""
    top = (path for path in tmp.iterdir() if not path.name.startswith((".", "config.toml")))
    return any(path.is_file() or any(map(Path.is_file, path.rglob("*"))) for path in top)


def _begin(tmp: Path, cfg: Config, digests: dict[str, str]) -> None:
    """Note settings and inputs of a new stage, or see that a begun one has the same."""
    file = tmp / "config.toml"
    if not (file.exists() and _written(tmp)):
        with whole(file) as part:
            part.write_text(to_toml(cfg), "utf-8")
        write_json(tmp / BEGUN, digests)
        return
    if keys := _other_settings(tmp, cfg, finished=False):
        raise OccupiedError(
            f"{tmp} holds an unfinished run with other settings: {', '.join(keys)}. "
            f"Finish it with its own settings, delete it, or choose another --out"
        )
    for name, known in _inputs_of(tmp).items():
        if digests.get(name) != known:
            raise OccupiedError(
                f"{tmp} was begun with another {name} than the one given now. Restore it, delete {tmp}, or "
                f"choose another --out"
            )


def _inputs_of(tmp: Path) -> dict[str, str]:
    """Digests of the inputs that an unfinished stage began with; none where an earlier version began it."""
    if (tmp / "result.json").is_file():
        return inputs_of(read_json(tmp / "result.json"), tmp)
    return read_json(tmp / BEGUN) if (tmp / BEGUN).is_file() else {}


def _other_settings(folder: Path, cfg: Config, *, finished: bool) -> list[str]:
    """In what the settings that a directory was made with differ from `cfg`, after translation.

    Places are no difference: they can be written in many ways, and what lies there has a digest.
    """
    table = read_recipe(folder)
    try:
        theirs = validate_config(type(cfg), table)
    except ConfigError:  # of another version, which nothing here translates
        return differences(tomllib.loads(to_toml(cfg)), table) or ["another version"]
    if identity(theirs) == identity(cfg) or (finished and theirs.covers(cfg)):
        return []
    return differences(_settings(cfg), _settings(theirs))


def _settings(cfg: Config) -> Json:
    """The settings as in a file, without those that are places."""
    table = tomllib.loads(to_toml(cfg))
    return {key: value for key, value in table.items() if not isinstance(getattr(cfg, key), Path)}


@contextmanager
def _spoken(out: Path) -> Iterator[None]:
    """What the machine cannot do, in one line."""
    try:
        with system_errors(out, "; run the same command again, it continues from what is finished"):
            yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, ThoughtlensError) or not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0][:200] or "MemoryError"
        raise ResourceError(
            f"Too little memory while making {out} ({reason}): run the same command again with more of it "
            f"free, it continues from what is finished; or lower batch sizes or the number of latents, into "
            f"another --out"
        ) from error


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parents[4]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
