"""The documentation builds without a warning, holds every page, and asks nothing of the network."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.docs.repository import ROOT

NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="no mkdocs.yml beside the tests"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED),
        reason="the site's tools are not installed: pip install 'thoughtlens[docs]'",
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_is_there(site):
    for source in (ROOT / "docs").glob("*.md"):
        assert (site / f"{source.stem}.html").is_file(), source.name


def test_the_interface_comes_from_the_docstrings(site):
    page = html.unescape(re.sub(r"<[^>]+>", "", (site / "api_stages.html").read_text("utf-8")))
    for words in (
        "Write the explorer of a run into the directory",
        "no finished interpret",
        "Problems (documents) that get a page of their own.",
    ):
        assert words in page, words
    for name in (
        "thoughtlens.show.explorer.config.ExplorerConfig.n_problems",
        "thoughtlens.studies.pipeline.run",
    ):
        assert f'id="{name}"' in (site / "api_stages.html").read_text("utf-8")


def test_nothing_is_loaded_from_elsewhere(site):
    for file in site.rglob("*.html"):
        text = file.read_text("utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"'\s>]+)", text)
        loaded += re.findall(r"<link\b[^>]*\brel=\"?(?:stylesheet|preconnect|preload)[^>]*", text)
        assert not [part for part in loaded if re.search(r"(https?:)?//\w", part)], file.name
