"""What an installed package must do where only it and what it needs are installed: `python smoke.py FOLDER`.

Run with the interpreter of that environment, outside the source tree; ends with 0 where all is well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path


def command(*arguments: str, cwd: Path) -> str:
    """stdout of one run of the installed program."""
    program = Path(sys.executable).with_name("thoughtlens")
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def main(folder: Path) -> None:
    """Every part that a wheel could lack."""
    help_text = command("--help", cwd=folder)
    assert all(word in help_text for word in ("extract", "train", "push", "doctor")), help_text

    import thoughtlens

    assert Path(thoughtlens.__file__).is_relative_to(Path(sys.prefix)), thoughtlens.__file__
    assert metadata.version("thoughtlens") == thoughtlens.__version__
    assert (Path(thoughtlens.__file__).parent / "py.typed").is_file()

    report = json.loads(command("doctor", "--json", "--quick", cwd=folder))
    assert report["broken"] == [] and all(report["bundled"]["thought_models"].values()), report
    assert {"pilot", "text-demo"} <= set(json.loads(command("recipes", cwd=folder))["recipes"])

    from thoughtlens.models.thought import thoughts
    from thoughtlens.problems.tasks import arithmetic

    table = arithmetic.problems(8, seed=1, split="test")
    batch = thoughts.collect(thoughts.load("codi-tiny"), table["question"].to_pylist(), answers=True)
    right = sum(a == b for a, b in zip(batch.answers.text, table["answer"].to_pylist(), strict=True))
    assert right >= 6, f"codi-tiny answers {right} of 8"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
