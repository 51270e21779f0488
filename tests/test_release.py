"""The wheel and the sdist hold what they must, and an installed wheel works away from the source."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def done(*arguments: object, cwd: Path) -> None:
    result = subprocess.run([str(a) for a in arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("dist")
    for kind in ("--sdist", "--wheel"):
        done(sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", out, ROOT, cwd=out)
    return out


@pytest.mark.slow
def test_both_hold_what_they_must(dist):
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    files = [p.relative_to(ROOT / "src") for p in (ROOT / "src").rglob("*") if p.is_file()]
    wanted = {
        p.as_posix() for p in files if not any(part.startswith((".", "__pycache__")) for part in p.parts)
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wanted <= names and any(n.endswith("codi-tiny/seed1/thoughts/model.safetensors") for n in names)
    assert {n.split("/")[0] for n in names - wanted} == {f"{wheel.name.split('-py3')[0]}.dist-info"}
    assert wheel.stat().st_size < 12e6
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    tops = (
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
    )
    assert {f"src/{n}" for n in wanted} | {"tests/smoke.py", "docs/formats.md", *tops} <= inside
    assert not [n for n in inside if n.startswith((".venv", "runs", "dist", ".git/"))]


@pytest.mark.slow
def test_an_installed_wheel_works(dist, tmp_path):
    """In an environment of its own, which borrows the packages that it needs from this one."""
    (wheel,) = dist.glob("*.whl")
    env = tmp_path / "env"
    done(sys.executable, "-m", "venv", "--without-pip", env, cwd=tmp_path)
    python = env / "bin" / "python"
    done(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=tmp_path,
    )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # A folder named in a .pth file is searched for packages, but the .pth files in it are not read: an
    # editable installation of this project does not count.
    borrowed = env / "lib" / version / "site-packages" / "borrowed.pth"
    borrowed.write_text(sysconfig.get_path("purelib") + "\n")
    done(python, ROOT / "tests" / "smoke.py", tmp_path, cwd=tmp_path)
