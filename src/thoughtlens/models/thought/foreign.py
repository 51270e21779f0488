"""Families that stand outside this package: a function of the user's own, or one that a package registers.

Such code is run only where the user has named it in this process: on the command line, in a call of
`load_model` or `allow`, or in $THOUGHTLENS_ALLOW. That a store or a recipe names it does not do.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeVar

from thoughtlens.core import ConfigError, NotThereError, ThoughtlensError, shortened

if TYPE_CHECKING:
    from torch import Tensor

M = TypeVar("M")
GROUP = "thoughtlens.families"
"""Entry points of packages: a family's name -> the function that loads its models."""
ALLOWED = "THOUGHTLENS_ALLOW"
CODE = re.compile(r"(?P<module>[A-Za-z_][\w.]*|[^:]+\.py):(?P<function>[A-Za-z_]\w*)")
_named: set[str] = set()


def allow(*names: str) -> None:
    """Let code run that is named here: `my_module:load`, `my_model.py:load`, or a registered family.

    Stores and recipes that name a model's code load it only after this, since a file must not decide which
    code runs.

    Example:
        ```python
        tl.models.allow("my_module:load")
        ```
    """
    _named.update(names)


def allow_of(arguments: Sequence[str]) -> None:
    """Let code run that stands in a command's own words, alone or behind `=`."""
    allow(*(arg.rpartition("=")[2] for arg in arguments), *arguments)


def allowed() -> list[str]:
    """What may run, for a process that this one starts."""
    return sorted(_named)


def is_code(name: str | Path) -> bool:
    """Whether a name is that of a function, or of a family that an installed package registers."""
    text = str(name)
    return CODE.fullmatch(text) is not None or (text.isidentifier() and text in registered())


def registered() -> dict[str, EntryPoint]:
    """Families of installed packages by name; none of their code is run."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load(name: str, family: str, options: Mapping[str, Any], kind: type[M]) -> M:
    """The model that a function gives back; `name` is its first argument, unless it is the function itself.

    `kind` is the class that it must be of.

    Raises:
        ConfigError: the code was not named by the user, takes no such option, failed, or gave something else.
        NotThereError: no such module, file or function.
    """
    function = _function(family)
    taken = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    machine = {key: value for key, value in options.items() if key in ("dtype", "device")}
    passed = {key: value for key, value in options.items() if key not in machine or key in taken}
    if (unknown := sorted(set(passed) - set(taken))) and not open_ended:
        has = ", ".join(taken) or "none"
        raise ConfigError(f"{family} has no option {', '.join(unknown)}; it has {has}")
    try:
        model = function(*(() if name == family else (name,)), **passed)
    except ThoughtlensError:
        raise
    # Foreign code can fail in any way; whoever named it is told what it said.
    except Exception as error:
        raise ConfigError(f"{family} failed: {_said(error)} (--debug shows where)") from error
    if not isinstance(model, kind):
        raise ConfigError(f"{family} must return a {kind.__name__}, got {type(model).__name__}")
    tensors = dict(_tensors(vars(model)))
    _require_machine(family, tensors, {k: v for k, v in machine.items() if k not in taken})
    _complete(model, name, function, tensors, passed)
    return model


def _function(family: str) -> Callable[..., Any]:
    """The function behind a family's name, if it may be run."""
    code, point = CODE.fullmatch(family), registered().get(family)
    if code is None and point is None:
        others = ", ".join(registered())
        raise ConfigError(
            f"family: expected one of tiny, codi, coconut, soft{', ' + others if others else ''} or "
            f"my_module:load, got {family!r}"
        )
    if family not in _named | set(os.environ.get(ALLOWED, "").split(",")):
        raise ConfigError(
            f"{family} is code from outside thoughtlens, which runs only where you name it yourself: "
            f"add --allow={quote(family)} to the command, or call thoughtlens.models.allow({family!r})"
        )
    try:
        if point is not None and code is None:
            return point.load()
        assert code is not None
        module, name = code["module"], code["function"]
        found = getattr(_of_file(module) if module.endswith(".py") else _of_path(module), name, None)
    except ThoughtlensError:
        raise
    # A module runs while it is imported, and can fail in any way.
    except Exception as error:
        raise ConfigError(f"{family} cannot be imported: {_said(error)}") from error
    if not callable(found):
        raise NotThereError(f"{module} has no function {name}, which model={family} asks for")
    return found


def _of_path(module: str) -> Any:
    """A module by name, of the working directory too, as `python -m` would find it."""
    if not any(here in ("", str(Path.cwd())) for here in sys.path):
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module + ".").startswith(error.name + "."):
            raise NotThereError(
                f"No module {error.name} is installed or in {Path.cwd()}; give the file, as in "
                f"model=path/to/{module.rpartition('.')[2]}.py:load"
            ) from None
        raise


def _of_file(file: str) -> Any:
    """The module of a file as it stands now: one that was changed is read again."""
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise NotThereError(f"Expected Python code at {path}, found no file")
    return _module(path, hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:8])


@functools.cache
def _module(path: Path, digest: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{path.stem}_{digest}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def _complete(
    model: Any,
    name: str,
    function: Callable[..., Any],
    tensors: Mapping[str, Tensor],
    options: Mapping[str, Any],
) -> None:
    """What stores compare, wherever the model does not say it itself.

    The digest is that of its tensors. Its settings' is also that of the file with the code, since other
    code gives other thoughts.
    """
    model.name = name
    if model.digest is None and tensors:
        digest = hashlib.sha256()
        for key, x in sorted(tensors.items()):
            x = x.detach().cpu().contiguous()
            digest.update(f"{key} {x.dtype} {tuple(x.shape)}".encode())
            digest.update(x.flatten().view(_bytes()).numpy().tobytes() if x.numel() else b"")
        model.digest = digest.hexdigest()
    if not model.settings:
        plain = {k: v for k, v in options.items() if v is None or isinstance(v, bool | int | float | str)}
        model.settings = {"family": name, **plain}
    if getattr(model, "config_hash", None) is None:
        file = inspect.getsourcefile(inspect.unwrap(function))
        code = Path(file).read_bytes() if file and Path(file).is_file() else b""
        said = f"{model.digest} {sorted(options.items())} {asdict(model.spec)}"
        model.config_hash = hashlib.sha256(said.encode() + code).hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8


def _tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a model holds, by its attribute's path."""
    import torch

    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, torch.nn.Module):
        yield from ((f"{prefix}.{key}", x) for key, x in value.state_dict().items())
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            yield from _tensors(inner, f"{prefix}.{key}" if prefix else str(key))


def _require_machine(family: str, tensors: Mapping[str, Tensor], asked: Mapping[str, Any]) -> None:
    """Refuse to record another number format or device than the model has, where its loader takes neither."""
    held = [x for x in tensors.values() if x.is_floating_point()]
    for key, value in asked.items():
        own = {str(x.dtype).removeprefix("torch.") if key == "dtype" else x.device.type for x in held}
        if own and value != "auto" and str(value).partition(":")[0] not in own:
            has = sorted(own)[0]
            raise ConfigError(
                f"{family} takes no {key}, and its model is in {has}, not {value}: set {key}={has} (in runs: "
                f"extract.model.{key}={has}), or let the function take {key}"
            )


def parsed(options: Sequence[str]) -> dict[str, Any]:
    """`["size=3", "kind=wide"]` as arguments; values are read as TOML, else as text.

    Raises:
        ConfigError: one that is no `name=value`.
    """
    found = {}
    for item in options:
        key, equals, raw = item.partition("=")
        if not equals or not key.strip().isidentifier():
            raise ConfigError(f"options: expected name=value, got {item!r}")
        try:
            found[key.strip()] = tomllib.loads(f"v = {raw}")["v"]
        except ValueError:
            found[key.strip()] = raw.strip()
    return found


def _said(error: Exception) -> str:
    return shortened(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
