"""Pages in Chromium; without it, or without playwright, these tests are skipped."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="package", autouse=True)
def planted_tables_are_taken_as_they_are():
    """Some runs here are made of planted tables, which no stage has written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THOUGHTLENS_UNCHECKED", "1")
        yield


@pytest.fixture(scope="session")
def chromium():
    """Where the program is."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")  # a driver that outlives its module keeps an event loop that others trip over
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """A page, what it said on its console, and the addresses it asked for."""
    page, said, asked = browser.new_page(), [], []
    page.on("console", lambda m: said.append(m.text))
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("request", lambda r: asked.append(r.url))
    yield page, said, asked
    page.close()
