"""The command line: each command is one call of the library.

stdout is one JSON object, progress goes to stderr. Exit 0: done. 1: an expected error, in one line.
2: wrong usage. A traceback only with `--debug`. Torch is imported inside the commands.
"""

from __future__ import annotations

import os
import signal
import sys

from thoughtlens.cli import commands  # noqa: F401
from thoughtlens.cli.commands.app import app

INTERRUPTED = 130
STOPPED = "interrupted; what was finished is kept, the same command continues"


def main() -> None:
    """Entry point: known errors become one line and exit code 1."""
    from thoughtlens.core import ThoughtlensError

    debug = "--debug" in sys.argv
    argv = [arg for arg in sys.argv[1:] if arg != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(argv, prog_name="thoughtlens")
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # The command line is the boundary: whatever was not foreseen must still end in one line.
    except Exception as error:
        if debug:
            raise
        _fail(f"{_unforeseen(error)} (run again with --debug to see where)")


def _unforeseen(error: Exception) -> str:
    """The first line of it: torch writes its stack behind, and has no exception of its own for memory."""
    from thoughtlens.core import is_out_of_memory

    text = next(iter(str(error).splitlines()), "")
    if is_out_of_memory(error):
        return f"too little memory ({text[-200:]}); use smaller batches, fewer rows or fewer latents"
    return f"unforeseen {type(error).__name__}: {text}"


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int = 1) -> None:
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    raise SystemExit(code)
