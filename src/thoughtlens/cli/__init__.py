"""The command line: each command is one call of the library.

stdout is one JSON object, progress goes to stderr. Exit 0: done. 1: an expected error, in one line.
2: wrong usage. A traceback only with `--debug`. With `--unchecked`, inputs are not compared with their
digests, and results say so. With `--profile`, a table says what each stage and its parts cost, and a run's
`profile.json` keeps it. `--allow=my_module:load` lets a model's code run that a run or a recipe names;
what the command itself names needs no such word. Torch is imported inside the commands.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from thoughtlens.cli import commands  # noqa: F401
from thoughtlens.cli.commands.app import app

INTERRUPTED = 130
STOPPED = "interrupted; what was finished is kept, the same command continues"


def main() -> None:
    """Entry point: known errors become one line and exit code 1."""
    from thoughtlens.core import ASKED, ThoughtlensError
    from thoughtlens.models import allow_of

    _require_streams()
    debug = "--debug" in sys.argv
    flags = {"--unchecked": "THOUGHTLENS_UNCHECKED", "--profile": ASKED}
    os.environ.update({variable: "1" for flag, variable in flags.items() if flag in sys.argv})
    argv = [_of_home(arg) for arg in sys.argv[1:] if arg not in ("--debug", *flags)]
    allow_of(argv)
    argv = _without_allowed(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        try:
            app(argv, prog_name="thoughtlens")
        finally:
            sys.stdout.flush()
    except ThoughtlensError as error:
        if debug:
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        _fail(STOPPED, INTERRUPTED)
    except SystemExit as end:
        if end.code != INTERRUPTED:  # what typer makes of an interruption, without a word
            raise
        _fail(STOPPED, INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
    # The command line is the boundary: whatever was not foreseen must still end in one line.
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError):
            _drop_output()  # what could not be written is not tried again at the end
        _fail(f"{_unforeseen(error)} (run again with --debug to see where)")


def _without_allowed(argv: list[str]) -> list[str]:
    """A command without the names of code that it lets run."""
    behind = {i + 1 for i, arg in enumerate(argv) if arg == "--allow"}
    return [arg for i, arg in enumerate(argv) if i not in behind and arg.partition("=")[0] != "--allow"]


def _of_home(arg: str) -> str:
    """A place in the home directory, which no shell expands behind `--out=` and `problems.source=`."""
    option, equals, place = arg.partition("=") if "=" in arg else ("", "", arg)
    return option + equals + str(Path(place).expanduser()) if place.startswith("~/") else arg


def _unforeseen(error: Exception) -> str:
    """The first line of it: torch writes its stack behind, and has no exception of its own for memory."""
    from thoughtlens.core import is_out_of_memory, of_system, shortened

    if isinstance(error, OSError) and error.strerror:
        said = of_system(error, "stdout") or f"{error.strerror}: {error.filename or 'stdout'}"
        return shortened(str(said))
    if isinstance(error, UnicodeEncodeError) and any(map(_is_no_text, sys.argv)):
        return f"{shortened(repr(next(filter(_is_no_text, sys.argv))))} is not text in UTF-8"
    text = shortened(next(iter(str(error).splitlines()), ""))
    if is_out_of_memory(error):
        return f"too little memory ({text[-200:]}); use smaller batches, fewer rows or fewer latents"
    return f"unforeseen {type(error).__name__}: {text}"


def _is_no_text(arg: str) -> bool:
    """Whether it holds bytes that are no UTF-8, as Python passes them on."""
    return any("\ud800" <= letter <= "\udfff" for letter in arg)


def _require_streams() -> None:
    """Something to write to where the shell has closed stdout or stderr."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _drop_output() -> None:
    """Leave unwritten what stdout does not take: nobody reads it, or its disk is full."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int = 1) -> None:
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    raise SystemExit(code)
