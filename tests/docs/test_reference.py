"""Every setting and every key has its line on a page."""

from __future__ import annotations

import pytest

from tests.docs.reference import PAGES
from tests.docs.repository import ROOT


@pytest.mark.parametrize("name", PAGES)
def test_the_page_says_what_the_code_says(name):
    page = (ROOT / "docs" / name).read_text("utf-8")
    assert page == PAGES[name](), "write the pages again: python -m tests.docs.reference"
