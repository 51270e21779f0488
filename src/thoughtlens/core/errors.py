"""Every deliberate error of the project: a `ThoughtlensError` that is also the fitting builtin.

A message says what was expected, what came, where, and what to do. The command line prints it as
one line and exits with 1.
"""

from __future__ import annotations

import re


class ThoughtlensError(Exception):
    """Base of all deliberate errors; catch this to catch them all."""

    def __str__(self) -> str:
        return " ".join(str(arg) for arg in self.args)


class ConfigError(ThoughtlensError, ValueError):
    """A recipe, override or argument that cannot be used."""


class NotThereError(ThoughtlensError, FileNotFoundError):
    """A file, directory, model or table that is needed and missing."""


class OccupiedError(ThoughtlensError, FileExistsError):
    """An output directory that holds something else, or that another process is writing."""


class DataError(ThoughtlensError, ValueError):
    """Input data that is empty, malformed, too small or not finite."""


class RangeError(ThoughtlensError, IndexError):
    """Numbers of rows or vectors that are not there, or are no numbers of any."""


class StoreError(ThoughtlensError, ValueError):
    """An activation store that is damaged, foreign or of an unknown schema."""


class HookError(ThoughtlensError, LookupError):
    """A hook, layer, thought or site that the model does not have."""


class MismatchError(ThoughtlensError, ValueError):
    """Two inputs that do not belong together: another hook, model, width or digest."""


class CheckpointError(ThoughtlensError, ValueError):
    """A weight file with keys missing, left over, of wrong shape, or of an unsafe format."""


class ResourceError(ThoughtlensError, RuntimeError):
    """The machine cannot do it: disk full, no permission, too little memory, no such device."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ended, of the machine or of its GPU; torch says so in a RuntimeError's first line."""
    first = str(error).partition("\n")[0]
    return isinstance(error, MemoryError) or bool(re.search(r"out of memory|allocate memory", first))
