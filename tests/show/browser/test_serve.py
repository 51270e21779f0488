"""The page that asks the model, in a real browser."""

from __future__ import annotations

import threading

import pytest
import torch
from safetensors.torch import save_file

from tests.show.serve.runs import QUESTION, text_run, thought_run
from thoughtlens.core import load_config
from thoughtlens.show.serve.config import ServeConfig
from thoughtlens.show.serve.server import open_server
from thoughtlens.tracing.chains.config import TraceConfig
from thoughtlens.tracing.chains.stage import trace

pytestmark = pytest.mark.slow


@pytest.fixture
def page(opened):
    """A page without a message, that asks nobody but the server it came from."""
    page, said, asked = opened
    yield page
    assert [line for line in said if "400" not in line] == []
    assert all(url.startswith(("http://127.0.0.1:", "data:")) for url in asked), asked


def served(run):
    server = open_server(load_config(ServeConfig, {"run": str(run)}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def thoughts(tmp_path_factory):
    server = served(thought_run(tmp_path_factory.mktemp("thoughts")))
    yield server.url
    server.shutdown()
    server.server_close()


def test_the_explorer_leads_to_the_page_only_when_served(page, thoughts):
    page.goto(thoughts)
    page.wait_for_selector("tbody tr")
    page.click("#live")
    page.wait_for_selector("#text")
    assert page.url == thoughts + "live/"


def test_a_problem_fires_latents_and_one_of_them_is_changed(page, thoughts):
    page.goto(thoughts + "live/")
    page.wait_for_selector("#text")
    page.fill("#text", QUESTION)
    page.click("#fire")
    page.wait_for_selector("#answer")
    assert page.inner_text("#answer") == "14"
    assert page.locator("tbody th").all_inner_texts() == [f"thought {t}" for t in range(7)]
    page.click("tbody tr td button")  # the strongest
    latent = page.inner_text("tbody tr td button")
    assert page.input_value("#latent") == latent
    page.select_option("select[aria-label=how]", "value")
    page.fill("#amount", "1000")
    page.click("#steer")
    page.wait_for_selector("#answers")
    before, after = page.locator("#answers .tokens").all_inner_texts()
    assert before == "14" and f"latent {latent} set to 1,000" in page.inner_text("#answers") and after


def test_what_the_run_s_trace_and_tuned_lens_say_of_a_thought_stands_beside_it(page, tmp_path):
    run = thought_run(tmp_path)
    trace(TraceConfig(acts=run / "acts", n=12, controls=(), lenses=("logit",)), run / "trace")
    nothing = {"weight": 1e-9 * torch.eye(96), "bias": torch.zeros(96)}
    (run / "lens").mkdir()
    save_file(
        {f"layers.1:out/2/{name}": x for name, x in nothing.items()}, run / "lens" / "translators.safetensors"
    )
    server = served(run)
    page.goto(server.url + "live/")
    page.wait_for_selector("#text")
    page.fill("#text", QUESTION)
    page.click("#fire")
    page.wait_for_selector("#readings")
    heads = page.locator("#readings th").all_inner_texts()
    assert heads == ["thought", "reads as", "or", "in other problems", "tuned lens before", "tested"]
    cells = page.locator("#readings tbody tr").nth(2).locator("td").all_inner_texts()
    assert cells[-2].split()[0] == cells[1].split()[0] and cells[-1] == "used"
    assert "by the run's trace" in page.inner_text("#readings")
    server.shutdown()
    server.server_close()


def test_what_the_model_cannot_read_is_said_as_text(page, thoughts):
    page.goto(thoughts + "live/")
    page.wait_for_selector("#text")
    page.fill("#text", "<img src=x onerror='window.broken=1'>")
    page.click("#fire")
    page.wait_for_selector("[role=alert]")
    assert "<img" in page.inner_text("[role=alert]") and page.query_selector("main img") is None
    assert page.evaluate("window.broken === undefined")


def test_a_text_shows_its_tokens(page, tmp_path, tiny_lm_dir):
    server = served(text_run(tmp_path, tiny_lm_dir))
    page.goto(server.url + "live/")
    page.wait_for_selector("#text")
    page.fill("#text", "A <b>cat</b>")
    page.click("#fire")
    page.wait_for_selector("span.token")
    assert page.locator("span.token").count() > 5 and page.query_selector("main .tokens b") is None
    page.locator("span.token").last.click()
    assert "On token" in page.inner_text("main")
    server.shutdown()
    server.server_close()
