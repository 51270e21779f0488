"""The explorer in a real browser, opened from the disk."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from tests.explorer.runs import HOSTILE, thought_run
from tests.planted import HOOKS, thought_store
from thoughtlens import sae as saes
from thoughtlens.explorer import ExplorerConfig, explorer
from thoughtlens.interpret import InterpretConfig, interpret

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytest.importorskip("playwright", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that must stay silent and on the disk."""
    page, said, asked = browser.new_page(), [], []
    page.on("console", lambda m: said.append(m.text))
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("request", lambda r: asked.append(r.url))
    yield page
    assert said == [], said
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked
    page.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = thought_run(tmp_path_factory.mktemp("run"))
    explorer(ExplorerConfig(run=root, n_problems=12, latents_per_shard=5), root / "explorer")
    explorer(ExplorerConfig(run=root, n_problems=12, single=True), root / "single")
    return root


@pytest.fixture(scope="module", params=["explorer", "single"])
def address(small, request):
    return (small / request.param / "index.html").as_uri()


def test_overview_sorts_searches_and_opens_a_latent(page, address):
    page.goto(address)
    page.wait_for_selector("tbody tr")
    assert "16 of 16 latents" in page.inner_text("[role=status]")
    page.fill("#search", "mul")
    page.wait_for_function("document.querySelector('[role=status]').innerText.startsWith('1 of')")
    page.select_option("select[aria-label=which]", "dead")
    page.wait_for_function("document.querySelector('[role=status]').innerText.startsWith('0 of')")
    page.fill("#search", "")
    page.wait_for_function("document.querySelector('[role=status]').innerText.startsWith('1 of')")
    assert page.inner_text("tbody tr td") == "9"
    page.select_option("select[aria-label=which]", "all")
    page.click("text=max")
    page.wait_for_function("document.querySelector('tbody tr td').innerText === '3'")
    page.click("tbody tr td a")
    page.wait_for_selector(".strip td.here")
    assert "Latent 3" in page.inner_text("h1")


def test_hostile_text_is_shown_as_text(page, address):
    page.goto(address + "#/l/0/3")
    page.wait_for_selector(".example")
    page.goto(address + "#/p/0")
    page.wait_for_selector("h2")
    shown = page.inner_text("main")
    assert any(text.split("\u2028")[0] in shown for text in HOSTILE)
    assert page.evaluate("window.broken === undefined")
    assert page.query_selector("main img") is None and page.query_selector("main script") is None


def test_keys_links_notes_and_themes(page, address):
    page.goto(address + "#/l/0/3")
    page.wait_for_selector("textarea")
    page.fill("textarea", "multiplication")
    page.fill("input[aria-label=tag]", "mul")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.wait_for_function("document.querySelector('h1').innerText.startsWith('Latent 4')")
    assert page.input_value("textarea") == ""
    page.keyboard.press("k")
    page.wait_for_function("document.querySelector('textarea')?.value === 'multiplication'")
    with page.expect_download() as download:
        page.click("text=Save all notes")
    assert "multiplication" in download.value.path().read_text()
    before = page.evaluate("document.documentElement.dataset.theme")
    page.keyboard.press("d")
    assert page.evaluate("document.documentElement.dataset.theme") != before
    page.keyboard.press("o")
    page.wait_for_selector("#search")


def test_what_is_not_there_is_said(page, address):
    for where, words in (
        ("#/l/0/999", "No latent 999"),
        ("#/p/99", "No problem 99"),
        ("#/l/7/0", "No latent"),
    ):
        page.goto("about:blank")
        page.goto(address + where)
        page.wait_for_selector("[role=alert]")
        assert words in page.inner_text("[role=alert]")


def test_compare_shows_two(page, address):
    page.goto(address + "#/c/0/3/0/5")
    page.wait_for_function("document.querySelectorAll('h1').length === 2")
    assert {h.inner_text().split()[1] for h in page.query_selector_all("h1")} == {"3", "5"}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """16,384 latents, most of them with examples, labels and text."""
    root, n, d_sae = tmp_path_factory.mktemp("large"), 400, 16_384
    rng = np.random.default_rng(0)
    strengths = rng.normal(size=(n, 3, 2, 16))
    questions = [" ".join(map(str, rng.integers(0, 99, 40))) for _ in range(n)]
    thought_store(root / "acts", strengths, {"operation": ["a", "b"] * (n // 2)}, questions=questions)
    sae = saes.create(saes.TopKConfig(d_sae=d_sae, k=32, normalization="none"), 16, seed=0)
    sae.hook_names, sae.provenance = list(HOOKS), {"split": "train", "thoughts": None}
    saes.save(sae, root / "sae")
    cfg = InterpretConfig(acts=root / "acts", sae=root / "sae", top_k=5, n_permutations=2)
    with torch.no_grad():
        interpret(cfg, root / "interpret")
    return root, explorer(ExplorerConfig(run=root), root / "explorer")


def test_sixteen_thousand_latents_open_at_once(page, large):
    root, result = large
    assert result["first_bytes"] <= 2_000_000
    page.goto((root / "explorer" / "index.html").as_uri())
    page.wait_for_selector("tbody tr")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted <= 1000
    took = []
    for latent in (16_000, 77, 9_000):
        script = """(i) => new Promise((done) => {
            const start = performance.now();
            new MutationObserver((_, watch) => {
              const title = document.querySelector('h1')?.innerText || '';
              if (!title.startsWith(`Latent ${i} `) || !document.querySelector('textarea')) return;
              watch.disconnect();
              done(performance.now() - start);
            }).observe(document.body, { childList: true, subtree: true, characterData: true });
            location.hash = `#/l/0/${i}`;
        })"""
        took.append(page.evaluate(script, latent))
    assert min(took) <= 500
