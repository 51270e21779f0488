"""thoughtlens: see what a language model is thinking.

Public names are loaded lazily, so that importing the package costs neither torch nor time.
"""

from __future__ import annotations

import ast
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# Read when torch loads. Its threads spin while they wait for work: not at all slows a model's many short
# operations by a tenth, for long takes the cores from the kernels' own threads and from other programs.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def face(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of the package whose `__init__.py` is `file`: a face of names.

    They are those that `__init__.pyi` lists, each loaded on first use. Type checkers read the stub as it is,
    and here it says where the names live, so that they stand once.
    """
    homes = _homes(package, Path(file).with_suffix(".pyi"))

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = homes[name]
        loaded = importlib.import_module(module)
        if attribute is None:
            return loaded
        if hasattr(loaded, attribute):
            return getattr(loaded, attribute)
        return importlib.import_module(f"{module}.{attribute}")

    return getattr_, lambda: sorted(homes), sorted(name for name, home in homes.items() if home[1])


def _homes(package: str, stub: Path) -> dict[str, tuple[str, str | None]]:
    """Module and attribute of each name; a module that is itself the name has none."""
    homes: dict[str, tuple[str, str | None]] = {}
    for node in ast.parse(stub.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                name = alias.asname or alias.name
                homes[name] = (module, alias.name) if node.module else (f"{module}.{alias.name}", None)
    return homes


__getattr__, __dir__, __all__ = face(__name__, __file__)
