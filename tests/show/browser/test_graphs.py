"""The explorer's pages of graphs in a real browser, opened from the disk."""

from __future__ import annotations

import pytest

from tests.show.explorer.runs import HOSTILE, thought_run
from tests.show.explorer.tables import plant_graph
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.stage import explorer

DRAWN = "svg.circuit g.edge"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root = thought_run(tmp_path_factory.mktemp("run"), n=20)
    plant_graph(root, "p3", HOSTILE[0])
    explorer(ExplorerConfig(run=root, n_problems=20), root / "explorer")
    return (root / "explorer" / "index.html").as_uri()


@pytest.fixture
def page(opened):
    """A page that must stay silent and on the disk."""
    page, said, asked = opened
    yield page
    assert said == [], said
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked


def told(page) -> str:
    return page.inner_text("p.told")


def test_a_graph_is_found_drawn_and_pruned(page, address):
    page.goto(address)
    page.click("#graph-list a")
    page.wait_for_selector(DRAWN)
    assert page.locator(DRAWN).count() == 3
    assert page.locator("svg.circuit g.node").count() == 4
    assert HOSTILE[0] in page.inner_text("p.question") and page.evaluate("window.broken === undefined")
    page.evaluate(
        "const s = document.getElementById('prune'); s.value = 1; s.dispatchEvent(new Event('input'))"
    )
    page.wait_for_function(f"document.querySelectorAll('{DRAWN}').length === 1")
    assert "1 of 3 edges" in page.inner_text(".controls [role=status]")
    assert (
        page.locator("table.places tbody tr").count() == 2
    )  # the edge that is left, and the test of the graph


def test_routes_have_colours_and_hovering_says_what_was_measured(page, address):
    page.goto(f"{address}#/g/0")
    page.wait_for_selector(DRAWN)
    strokes = page.evaluate(
        f"[...document.querySelectorAll('{DRAWN} path:first-child')].map((p) => getComputedStyle(p).stroke)"
    )
    assert len({*strokes}) == 3
    page.hover("g.node.latent")
    assert "latent 3" in told(page) and "activation 2" in told(page) and "change 0.9" in told(page)
    titles = page.evaluate(f"[...document.querySelectorAll('{DRAWN} title')].map((t) => t.textContent)")
    assert any("latent 3 → 7 by state: effect 0.9" in title and "q 0.01" in title for title in titles)


def test_keys_go_along_edges_and_enter_opens_the_latent(page, address):
    page.goto(f"{address}#/g/0")
    page.wait_for_selector(DRAWN)
    page.focus("g.node.answer")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.classList.contains('latent')")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.classList.contains('token')")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.classList.contains('error')")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash === '#/l/0/3'")


def test_a_problem_leads_to_its_graph_or_says_what_makes_it(page, address):
    page.goto(f"{address}#/p/3")
    page.click("a:text-is('Which latent makes which')")
    page.wait_for_selector(DRAWN)
    page.goto("about:blank")
    page.goto(f"{address}#/p/4")
    page.wait_for_selector(".missing")
    assert "--problem p4" in page.inner_text("main")
    page.goto(f"{address}#/g/7")
    page.wait_for_selector("[role=alert]")
