"""Every deliberate error of the project: a `ThoughtlensError` that is also the fitting builtin.

A message says what was expected, what came, where, and what to do. The command line prints it as
one line and exits with 1. Of a value that came, at most `MOST_SHOWN` characters are repeated.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

MOST_SHOWN = 200
"""Characters of one value in a message."""
LONGEST = 4000
"""Characters of a message."""
QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?!\w)""", re.DOTALL)
LISTED = re.compile(r"""\((?:[-\w.'"]+, )+[-\w.'"]*\)|(?<![-\w.:@'"])(?:[-\w.:@'"]+, ){8,}[-\w.:@'"]+""")
UNBROKEN = re.compile(rf"\S{{{MOST_SHOWN},}}")
BRACKETS = {"[": "]", "{": "}"}


def shortened(text: str) -> str:
    """A message without the rest of its long values: quoted texts, lists, tables, words.

    Paths stay whole, so that a command that is suggested can be pasted.
    """
    text = QUOTED.sub(_short, _short_brackets(text))
    text = UNBROKEN.sub(_short, LISTED.sub(_short, text))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters)"


def _short(found: re.Match[str]) -> str:
    return _cut(found[0])


def _cut(value: str) -> str:
    if len(value) <= MOST_SHOWN + 2 or _is_path(value):
        return value
    close = BRACKETS.get(value[0], value[0] if value[0] in "'\"" else "")
    return f"{value[:MOST_SHOWN]}... ({len(value):,} characters){close}"


def _short_brackets(text: str) -> str:
    """The same with long lists and tables cut, the outermost ones, whatever they hold."""
    out, depth, start = [], 0, 0
    for i, sign in enumerate(text):
        if sign in "[{":
            if not depth:
                out.append(text[start:i])
                start = i
            depth += 1
        elif sign in "]}" and depth:
            depth -= 1
            if not depth:
                out.append(_cut(text[start : i + 1]))
                start = i + 1
    return "".join((*out, _cut(text[start:]) if depth else text[start:]))


def _is_path(value: str) -> bool:
    """Whether it is the name that a file could have, from the root, here, or home."""
    parts = value.strip("'\"(),;:").split("/")
    return parts[0] in ("", ".", "..", "~") and len(value) < 4096 and all(0 < len(p) < 256 for p in parts[1:])


class ThoughtlensError(Exception):
    """Base of all deliberate errors; catch this to catch them all."""

    def __str__(self) -> str:
        return shortened(" ".join(str(arg) for arg in self.args))


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


REASONS = {
    errno.ENOSPC: "The disk is full while writing {where}: free some space",
    errno.EDQUOT: "Your share of the disk is used up while writing {where}: free some space",
    errno.EFBIG: "{where} would be larger than files may be here: use another disk, or raise ulimit -f",
    errno.EACCES: "No permission to read or write {where}: choose another place, or change its permissions",
    errno.EPERM: "No permission to change {where}: choose another place, or change its permissions",
    errno.EROFS: "{where} is on a disk that can only be read: choose another place",
    errno.EIO: "The disk did not read or write {where} (input/output error): look at it, or use another",
    errno.EMFILE: "Too many open files at {where}: raise the limit, as in: ulimit -n 4096",
    errno.ENFILE: "Too many open files on this machine at {where}: close other programs",
    errno.ENAMETOOLONG: "The name {where} is longer than this system allows: choose a shorter one",
    errno.ENOTDIR: "A part of the path {where} is a file, not a directory: choose another place",
    errno.EISDIR: "{where} is a directory where a file was expected: choose another place",
    errno.ELOOP: "{where} is a link that leads to itself: give the file that was meant",
    errno.ESTALE: "{where} is gone from the network disk: mount it again",
    errno.ENOMEM: "Too little memory for {where}: close other programs, or use smaller batches",
}
"""What the system's refusals mean, and what to do."""


def of_system(error: OSError, where: object = None) -> ResourceError | None:
    """A refusal of the operating system as an error of ours; None where it is none.

    Args:
        error: What was raised; its own file name is said, where it has one.
        where: What was being read or written, if it has none.
    """
    known = isinstance(error, ThoughtlensError) or error.errno not in REASONS
    if known or error.errno is None:
        return None
    return ResourceError(REASONS[error.errno].format(where=error.filename or where or "a file"))


@contextmanager
def system_errors(where: object, then: str = "") -> Iterator[None]:
    """Within the block, refusals of the operating system are errors of ours, which end with `then`.

    Raises:
        ResourceError: no permission, disk full, too many open files, and the like.
    """
    try:
        yield
    except Exception as error:
        ours = of_system(_as_os_error(error), where)
        if ours is None:
            raise
        raise ResourceError(f"{ours}{then}") from error


def _as_os_error(error: Exception) -> OSError:
    """The system's refusal behind an error; what is written in Rust (safetensors) tells of it in words."""
    if isinstance(error, OSError):
        return error
    told = None if isinstance(error, ThoughtlensError) else re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(told[1]), "") if told else OSError()
