"""What one cites is this package, as it is."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.docs.repository import ROOT
from thoughtlens import __version__

pytestmark = pytest.mark.skipif(not (ROOT / "CITATION.cff").is_file(), reason="no CITATION.cff here")


def test_the_citation_file_has_what_its_format_asks_for():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= cited.keys()
    assert cited["version"] == __version__ and cited["type"] == "software"
    assert all("name" in one or "family-names" in one for one in cited["authors"])


def test_the_bibtex_entry_says_the_same():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    entry = re.search(r"```bibtex\n(.*?)```", (ROOT / "docs" / "index.md").read_text("utf-8"), re.DOTALL)
    fields = dict(re.findall(r"(\w+)\s*= \{+(.*?)\}+,?\n", entry[1]))
    names = {"title": "title", "version": "version", "url": "repository-code", "license": "license"}
    assert fields == {key: cited[name] for key, name in names.items()} | {
        "author": cited["authors"][0]["name"]
    }
