"""Runs commands in this process, where torch is imported once: `python -P follow.py COMMANDS RESULTS`.

COMMANDS is a JSON list of {folder, words, target}; RESULTS gets one line for each: exit code, stdout, stderr.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from thoughtlens import cli


def _interrupt(out: io.StringIO) -> None:
    while '"url"' not in out.getvalue():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def follow(folder: str, words: list[str], target: str | None) -> dict:
    """One command as a shell in that folder would do it; a server is interrupted as by Ctrl-C."""
    os.chdir(folder)
    sys.argv = ["thoughtlens", *words]
    out, err = io.StringIO(), io.StringIO()
    if words[0] == "serve" and "--help" not in words:
        threading.Thread(target=_interrupt, args=[out], daemon=True).start()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    if target:
        Path(target).write_text(out.getvalue(), "utf-8")
    return {"code": code, "stdout": out.getvalue(), "stderr": err.getvalue()}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    commands = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    with open(sys.argv[2], "w", encoding="utf-8") as results:
        for command in commands:
            results.write(json.dumps(follow(**command)) + "\n")
            results.flush()
