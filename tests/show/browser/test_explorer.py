"""The explorer in a real browser, opened from the disk."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

import pyarrow.parquet as pq
import pytest

from tests.planted import HOOKS, D
from tests.show.explorer.runs import HOSTILE, full_run, large_run, thought_run
from tests.show.explorer.tables import clause, plant_recovery, say
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.stage import explorer

pytestmark = pytest.mark.slow
MUL = "</script><b>mul</b>"


@pytest.fixture
def page(opened):
    """A page that must stay silent and on the disk."""
    page, said, asked = opened
    yield page
    assert said == [], said
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run with all tables, beside one that has only what interpret makes."""
    root = full_run(tmp_path_factory.mktemp("run"))
    other = thought_run(tmp_path_factory.mktemp("bare"))
    cfg = ExplorerConfig(run=root, others=(other,), n_problems=12, latents_per_shard=5)
    explorer(cfg, root / "explorer")
    explorer(cfg.model_copy(update={"single": True}), root / "single")
    (other / "interpret" / "decile_examples.parquet").unlink()
    explorer(ExplorerConfig(run=other), root / "bare")
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
    assert page.inner_text("table.latents tbody td") == "9"
    page.select_option("select[aria-label=which]", "all")
    page.click("th button:text-is('max')")
    page.wait_for_function("document.querySelector('table.latents tbody td').innerText === '3'")
    page.click("table.latents tbody td a")
    page.wait_for_selector(".strip td.here")
    assert "Latent 3" in page.inner_text("h1")


def test_hostile_text_is_shown_as_text(page, address):
    for where in ("#/l/0/3", "#/l/0/0", "#/p/0", "#/p/1", "#/", "#/?q=script", "#/c/0/3/1/3", "#/s/0/1"):
        page.goto("about:blank")
        page.goto(address + where)
        page.wait_for_selector("main h2")
        page.wait_for_function("!document.querySelector('main').innerText.includes('loading')")
        assert page.evaluate("window.broken === undefined")
        assert page.query_selector("main img, main script, main iframe, main b:text-is('mul')") is None
        shown = page.inner_text("main")
        assert not set(shown) & set("\u2028\u2029\u202e\u202c\u200f")
    page.goto("about:blank")
    page.goto(address + "#/l/0/3")
    page.wait_for_selector(".says")
    assert page.inner_text(".says") == "<U+202E>right to left<U+202C>"
    shown = page.inner_text("main")
    assert HOSTILE[0] in shown and "operation = </script><b>mul</b>" in shown


def test_every_panel_of_a_latent_is_drawn(page, address):
    page.goto(address + "#/l/0/6")
    page.wait_for_selector("svg.graph")
    text = page.inner_text("main").lower()
    for words in (
        "{{7*7}} ${7*7}", "AUPRC 0.375", "random latent", "Deciles of its activation", "Layers × thoughts",
        "Token graph", "Labels", "Effect on the answer", "promotes", "suppresses", "Strongest examples",
        "decile 10", "Nearest directions", "Fires together with", "Same latent elsewhere",
        "Your tag and note", "split all", "n = ",
    ):  # fmt: skip
        assert words.lower() in text, words
    assert page.locator("svg.graph rect").count() == 2 and page.locator("svg.graph path").count() == 1
    assert page.text_content("svg.graph text >> nth=1") == "␣before"
    page.goto(address + "#/l/0/2")
    page.wait_for_selector("td:text-is('worse')")
    assert "with 11" in page.inner_text("main")


def test_a_problem_shows_latents_readings_and_edits(page, address):
    page.goto(address)
    page.click("text=p5")
    page.wait_for_selector("h3:text-is('tuned lens')")
    text = page.inner_text("main")
    assert "the model says 5" in text and "✗ wrong" in text and "7</script>" in text
    looks = page.locator("table.attention tbody tr")
    assert (
        looks.count() == 5
        and "thought 2" in looks.nth(2).inner_text()
        and "50 %" in looks.nth(3).inner_text()
    )
    page.click("button:text-is('layer 1, head 0')")
    assert page.locator("table.attention img").count() == 0 and "cue 1" in looks.nth(4).inner_text()
    page.click("button:text-is('bare0: pooled')")
    page.wait_for_selector("button[aria-pressed=true]:text-is('bare0: pooled')")
    assert page.locator("table.chain a").count() > 0


def test_what_a_run_lacks_is_said_with_its_command(page, small):
    address = (small / "bare" / "index.html").as_uri()
    for where, commands in (
        ("#/l/0/3", ("explain", "interpret", "lens", "geometry", "intervene")),
        ("#/p/0", ("lens", "intervene", "attention")),
        ("#/", ("explain", "validate")),
        ("#/s/0/0", ("geometry",)),
    ):
        page.goto("about:blank")
        page.goto(address + where)
        page.wait_for_selector(".missing")
        shown = page.inner_text("main")
        for command in commands:
            assert f"thoughtlens {command} " in shown, (where, command)


def test_two_saes_and_their_matches(page, address):
    page.goto(address + "#/s/0/1")
    page.wait_for_selector("text=looked for in elsewhere pooled, not in bare0: pooled")
    assert page.locator("main table tbody tr").count() >= 13


def test_axes_and_sae_of_the_overview_are_in_the_address(page, address):
    page.goto(address)
    page.click("text=map of directions")
    page.wait_for_function("location.hash.includes('x=direction_1')")
    assert page.get_attribute("canvas", "aria-label") == "direction 1 across, direction 2 up"
    page.click("button:text-is('bare0: pooled')")
    page.wait_for_function("location.hash.includes('m=1')")
    shared = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(shared)
    page.wait_for_selector("button[aria-pressed=true]:text-is('bare0: pooled')")
    assert page.get_attribute("canvas", "aria-label") == "direction 1 across, direction 2 up"


def test_an_sae_may_be_named_by_its_label(page, address):
    page.goto(address + "#/l/bare0%3A%20pooled/4")
    page.wait_for_selector("h1 .pill")
    assert page.inner_text("h1").startswith("Latent 4 bare0: pooled")


def test_prints_on_white_with_its_colours(page, address):
    page.goto(address + "#/l/0/3")
    page.wait_for_selector("textarea")
    page.evaluate("setTheme('dark')")
    page.emulate_media(media="print")
    style = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(style) == "rgb(255, 255, 255)"
    assert not page.is_visible(".controls") and page.is_visible(".strip td.here")
    page.set_viewport_size({"width": 703, "height": 1000})
    for place in ("#/l/0/3", "#/"):
        page.goto(address + place)
        page.wait_for_selector("main h1")
        wide = "[...document.querySelectorAll('table')].filter((t) => t.getBoundingClientRect().right > 704)"
        assert page.evaluate(f"{wide}.length") == 0


def test_keys_links_notes_and_themes(page, address):
    page.goto(address + "#/l/0/3")
    page.wait_for_selector("textarea")
    page.fill("textarea", "multiplication")
    page.fill("input[aria-label=tag]", "mul")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.wait_for_function("document.querySelector('h1').innerText.startsWith('Latent 4')")
    page.wait_for_function("document.querySelector('textarea')?.value === ''")
    page.keyboard.press("k")
    page.wait_for_function("document.querySelector('textarea')?.value === 'multiplication'")
    with page.expect_download() as download:
        page.click("text=Save all notes")
    assert "multiplication" in download.value.path().read_text()
    before = page.evaluate("document.documentElement.dataset.theme")
    page.keyboard.press("d")
    assert page.evaluate("document.documentElement.dataset.theme") != before
    page.keyboard.press("c")
    page.wait_for_function("location.hash === '#/c/0/3/0/4'")
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
    """16,384 latents with examples, labels, explanations and tokens; the tables are written at once."""
    root = large_run(tmp_path_factory.mktemp("large"), 16_384)
    return root, explorer(ExplorerConfig(run=root, n_problems=4), root / "explorer")


def test_sixteen_thousand_latents_open_at_once(page, large):
    root, result = large
    page.goto((root / "explorer" / "index.html").as_uri())
    page.wait_for_selector("tbody tr")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted <= 1000
    files = page.evaluate("performance.getEntriesByType('resource').map((r) => r.name)")
    loaded = [Path(unquote(urlparse(name).path)) for name in files if name.startswith("file:")]
    assert sum(f.stat().st_size for f in {*loaded, root / "explorer" / "index.html"}) <= 2_000_000
    assert result["first_bytes"] <= 2_000_000
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


def test_sixteen_thousand_latents_are_searched_and_sorted(page, large):
    root, _ = large
    page.goto((root / "explorer" / "index.html").as_uri() + "#/?q=says+9000+word")
    page.wait_for_function("document.querySelector('[role=status]')?.innerText.startsWith('1 of')")
    # 16376 / 16384 = 0.99951 is the first that is 1 in three digits; ties go by firings.
    fires = pq.read_table(root / "interpret" / "latents.parquet")["n_fires"].to_pylist()
    first = max(range(16376, 16384), key=lambda i: fires[i])
    page.goto((root / "explorer" / "index.html").as_uri() + "#/?q=")
    page.wait_for_function(f"document.querySelector('table.latents tbody td')?.innerText === '{first}'")


HASHES = (
    "#/?state=__proto__", "#/?state=constructor&sort=toString", "#/?sort=__proto__&x=__proto__&y=valueOf",
    "#/?m=length", "#/?m=__proto__&page=Infinity", "#/?m=1.5&down=x", "#/?q=%E0%A4%A&__proto__=1",
    "#/?q=%3Cimg%20src=x%3E?", "#/?page=-1e308", "#/hasOwnProperty", "#/?", "#", "#/?state=live?q=1",
)  # fmt: skip
NOT_THERE = ("#/l/%E0%A4%A/3", "#/l/0/3.5", "#/l/0/1e1", "#/l/__proto__/0", "#/l/0", "#/l", "#/p/constructor",
             "#/p/1.5", "#/s/9/0", "#/l/0/99999999999999999999")  # fmt: skip


@pytest.mark.parametrize("address", ["explorer"], indirect=True)
def test_no_address_leaves_an_empty_page(page, address):
    """Names that every object has, numbers that are none, and text that does not decode."""
    for hash in (*HASHES, *NOT_THERE):
        page.goto("about:blank")
        page.goto(address + hash)
        page.wait_for_selector("[role=alert]" if hash in NOT_THERE else "table.latents thead")
    for hash in ("#/c", "#/c/0/3", "#/c/__proto__/1/0/2", "#/c/0/3/9"):
        page.goto("about:blank")
        page.goto(address + hash)
        page.wait_for_selector("select[name=member]")


@pytest.mark.parametrize("address", ["explorer"], indirect=True)
def test_what_is_typed_is_one_step_back(page, address):
    page.goto(address + "#/l/0/3")
    page.wait_for_selector("h1")
    page.keyboard.press("o")
    page.wait_for_selector("#search")
    page.locator("#search").press_sequentially("mul oper")
    page.wait_for_function("location.hash.includes('q=mul+oper')")
    page.go_back()
    page.wait_for_function("document.querySelector('#search')?.value === ''")
    page.go_back()
    page.wait_for_function("location.hash === '#/l/0/3'")


@pytest.mark.parametrize("address", ["explorer"], indirect=True)
def test_a_latent_that_avoids_a_label_is_no_hit_for_it(page, address):
    page.goto(address + "#/?q=mul")
    page.wait_for_selector("table.latents tbody td")
    shown = page.locator("table.latents tbody tr").all_inner_texts()
    assert shown and not [row for row in shown if "fires less at" in row]
    script = """async () => {
      const s = { member: "m", called: String, says: [],
        label: ["operation = mul", "fires less at operation = mul", null] };
      const hit = (q) => [0, 1, 2].filter(search(s, ["", "", "mul"], ["mul", "", ""], q));
      return [hit("mul"), hit("less:mul"), hit("operation"), hit("less:mul mul"), hit("1"), hit("")];
    }"""
    assert page.evaluate(script) == [[0, 2], [0, 1], [0], [0], [1], [0, 1, 2]]


@pytest.mark.parametrize("address", ["explorer"], indirect=True)
def test_wrong_answers_can_be_filtered(page, address):
    page.goto(address)
    page.wait_for_selector("#problems tr")
    page.select_option("#answers", "wrong")
    rows = page.locator("#problems tr").all_inner_texts()
    assert len(rows) >= 6 and all("wrong" in row for row in rows)
    page.select_option("#answers", "right")
    assert all("right" in row for row in page.locator("#problems tr").all_inner_texts())


@pytest.mark.parametrize("address", ["explorer"], indirect=True)
def test_a_weak_explanation_is_not_the_largest_text(page, address):
    """Latent i has AUPRC i / 16, of its random twin .0625: 1 is weak, 14 is not."""
    size = "parseFloat(getComputedStyle(document.querySelector('.says')).fontSize)"
    sizes = {}
    for latent, weak in ((1, True), (14, False)):
        page.goto("about:blank")
        page.goto(f"{address}#/l/0/{latent}")
        page.wait_for_selector(".says")
        assert (page.query_selector(".says .pill.bad") is not None) == weak
        sizes[weak] = page.evaluate(size)
    assert sizes[True] < sizes[False]


def test_pages_are_read_by_meaning(page, tmp_path):
    root = thought_run(tmp_path / "run", n=40)
    say(root, D, {3: [clause(MUL)], 14: [clause("add", thoughts=(0, 1, 2), hooks=HOOKS)]})
    plant_recovery(root, D, MUL)
    explorer(ExplorerConfig(run=root, n_problems=4), tmp_path / "explorer")
    address = (tmp_path / "explorer" / "index.html").as_uri()
    page.goto(address)
    page.wait_for_selector("table.variables")
    assert "operation: latents of pooled speak for at least 90 % of the values" in page.inner_text("main")
    assert "steps, followed best by latent 4 at thought 2" in page.inner_text("main")
    page.click("table.variables button")
    page.click(f".chip:has-text('{MUL}') a:text-is('3')")
    page.wait_for_selector(".evidence")
    evidence = page.locator(".evidence section")
    assert evidence.nth(0).locator(".example").count() == 4
    assert "It never does so" in evidence.nth(1).inner_text()
    assert "It misses none" in evidence.nth(2).inner_text()
    page.goto(address)
    groups = page.locator(".group h3, .group h4")
    page.wait_for_selector(".group")
    assert groups.first.inner_text().startswith("operation 2 latents, 2 values")
    assert groups.last.inner_text().startswith("dead on these rows 1 latent")
    groups.first.locator("button").click()
    page.wait_for_function("document.querySelector('[role=status]').innerText.startsWith('2 of 16')")
    assert page.locator("table.latents tbody td:first-child").all_inner_texts() == ["14", "3"]
    page.goto(address + "#/p/0")
    page.wait_for_selector("ul.said li")
    assert "operation is" in page.inner_text("table.chain")
    page.set_viewport_size({"width": 390, "height": 800})
    for where in ("#/p/0", "#/l/0/3", "#/"):
        page.goto(address + where)
        page.wait_for_selector("h2")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, where


@pytest.mark.parametrize("address", ["explorer"], indirect=True)
def test_definitions_are_printed(page, address):
    page.goto(address + "#/l/0/3")
    page.wait_for_selector("textarea")
    text = page.evaluate("document.querySelector('main > details dd').textContent")
    assert text and not page.is_visible("main > details dd")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.is_visible("main > details dd")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.is_visible("main > details dd")


@pytest.mark.parametrize("address", ["explorer"], indirect=True)
def test_a_command_has_the_latent_and_its_sae_in_it(page, address):
    page.goto(address + "#/l/0/7")
    page.wait_for_selector(".missing")
    command = next(c for c in page.locator(".missing code").all_inner_texts() if "edit_latents" in c)
    assert "member=pooled 'latents=[7]'" in command and "<" not in command and command.endswith("/pooled-7")
