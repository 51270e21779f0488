"""The server over real sockets: what it answers, and everything that it must refuse."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from tests.show.serve.runs import QUESTION, text_run, thought_run
from thoughtlens import sae as saes
from thoughtlens.core import MismatchError, NotThereError, ResourceError, load_config
from thoughtlens.latents.codes.on_text import fire
from thoughtlens.show.serve.config import FireRequest, PatchRequest, ServeConfig, SteerRequest
from thoughtlens.show.serve.engine import Engine
from thoughtlens.show.serve.guard import Guard
from thoughtlens.show.serve.server import open_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = thought_run(tmp_path_factory.mktemp("served"))
    (root / "secret.html").write_text("secret")
    return root


def started(run, **options):
    server = open_server(load_config(ServeConfig, {"run": str(run), **options}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def server(run):
    server = started(run, timeout_s=5.0, max_body_bytes=4000)
    yield server
    server.shutdown()
    server.server_close()


def request(server, method, path, body=None, headers=None, host=None):
    """Status, headers and content; a dict is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    sent = {"Host": host or f"127.0.0.1:{server.server_port}"}
    if isinstance(body, dict):
        body, sent["Content-Type"] = json.dumps(body), "application/json"
    connection.request(method, path, body, sent | (headers or {}))
    response = connection.getresponse()
    found = response.status, response.headers, response.read()
    connection.close()
    return found


def ask(server, path, table, **options):
    status, headers, content = request(server, "POST", path, table, **options)
    assert headers["Content-Type"] == "application/json"
    return status, json.loads(content)


def raw(server, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def test_it_listens_on_this_machine_only_and_serves_the_explorer(server):
    assert server.server_address[0] == "127.0.0.1" and server.url.startswith("http://127.0.0.1:")
    status, headers, page = request(server, "GET", "/")
    assert status == 200 and b"/live/link.js" in page and headers["X-Content-Type-Options"] == "nosniff"
    assert "script-src 'self';" in headers["Content-Security-Policy"]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers
    for path in (
        "/data/run.js",
        "/page/app.js",
        "/live/",
        "/live/live.js",
        "/live/link.js",
        "/live/style.css",
    ):
        assert request(server, "GET", path)[0] == 200, path


def test_the_folder_itself_has_no_link_to_the_live_page(run, server):
    assert "/live/" not in (run / "explorer" / "index.html").read_text()


def test_what_fires_is_what_the_library_says(run, server):
    status, found = ask(server, "/api/fire", {"text": QUESTION, "top": 3})
    (expected,) = fire(run, [QUESTION], top=3).texts
    assert status == 200 and found["member"] == "pooled" and found["answer"] == "14"
    assert found["latents"] == json.loads(json.dumps(expected.to_json()["latents"]))
    assert [len(hook) for hook in found["by_position"]] == [7, 7]
    strongest = found["latents"][0]
    hook = found["hook_names"].index(strongest["hook_name"])
    place = found["by_position"][hook][strongest["position_idx"]]
    assert place[0] == [strongest["latent"], strongest["max"]] and len(place) <= 3


def test_removing_a_latent_that_is_silent_changes_nothing_and_setting_it_does(server):
    _, found = ask(server, "/api/fire", {"text": QUESTION, "top": 64})
    firing = {latent for hook in found["by_position"] for place in hook for latent, _ in place}
    silent = min(set(range(64)) - firing)
    status, told = ask(server, "/api/steer", {"text": QUESTION, "latent": silent, "scale": 0.0})
    assert status == 200 and told["changed"] == 0 and told["kl"] == 0
    assert told["before"]["text"] == told["after"]["text"] == "14"
    status, told = ask(
        server, "/api/steer", {"text": QUESTION, "latent": silent, "value": 1000.0, "thoughts": [2]}
    )
    assert status == 200, told
    assert told["changed"] > 1 and told["kl"] > 0
    assert told["places"] == ["layers.0:out@2", "layers.1:out@2"]


OTHER = "ann *3 *5 -2 bob *4 +1 +8 cat +5 -6 *7 bob 7 twice"


def test_a_thought_of_another_problem_can_be_put_in(server):
    # codi-tiny: what thought 5 wrote is the last value, so that the answer becomes the other problem's.
    _, plain = ask(server, "/api/fire", {"text": OTHER})
    status, told = ask(
        server, "/api/patch", {"text": QUESTION, "other": OTHER, "thoughts": [1, 2, 3, 4, 5, 6]}
    )
    assert status == 200, told
    assert told["before"]["text"] == "14" and told["changed"] > 0
    assert told["places"] == [f"thought_in@{p}" for p in range(1, 7)]
    assert told["after"]["text"] == plain["answer"] != "14"
    _, told = ask(server, "/api/patch", {"text": QUESTION, "other": QUESTION, "thoughts": [3]})
    assert told["changed"] == 0 and told["after"]["text"] == "14"


def test_every_thought_has_its_reading(server):
    from thoughtlens.tracing import think

    _, found = ask(server, "/api/fire", {"text": QUESTION})
    (expected,) = think("codi-tiny", [QUESTION], top=4)
    assert [row["reading"] for row in found["readings"]] == [row.reading for row in expected.thoughts]
    assert [row["thought"] for row in found["readings"]] == list(range(7))
    assert found["reading_notes"][0].startswith("read by the logit lens")
    for row in found["readings"]:
        assert [words.split(" ")[0] for words in row["in_words"]] == [
            str(j["latent"]) for j in row["latents"]
        ]


@pytest.mark.parametrize(
    ("path", "table", "says"),
    [
        ("/api/fire", {"text": ""}, "text"),
        ("/api/fire", {"text": "x" * 20_001}, "bytes"),
        ("/api/fire", {"text": "__import__('os').system('touch /tmp/broken')"}, "vocabulary"),
        ("/api/fire", {"text": QUESTION, "member": "no"}, "expected one of"),
        ("/api/fire", {"text": QUESTION, "top": "3"}, "top"),
        ("/api/fire", {"text": QUESTION, "top": 10**9}, "top"),
        ("/api/fire", {"text": QUESTION, "code": "1+1"}, "code"),
        ("/api/fire", {}, "text"),
        ("/api/steer", {"text": QUESTION, "latent": 64, "scale": 0.0}, "0..63"),
        ("/api/steer", {"text": QUESTION, "latent": -1, "scale": 0.0}, "latent"),
        ("/api/steer", {"text": QUESTION, "latent": 1}, "one of them"),
        ("/api/steer", {"text": QUESTION, "latent": 1, "scale": 0.0, "value": 1.0}, "one of them"),
        ("/api/steer", {"text": QUESTION, "latent": 1, "scale": 1e300}, "scale"),
        ("/api/steer", {"text": QUESTION, "latent": 1, "scale": 0.0, "thoughts": [9]}, "9"),
        ("/api/steer", {"text": QUESTION, "latent": 1, "scale": 0.0, "thoughts": []}, "thoughts"),
        ("/api/patch", {"text": QUESTION, "other": "", "thoughts": [1]}, "other"),
        ("/api/patch", {"text": QUESTION, "other": "no such words", "thoughts": [1]}, "vocabulary"),
        ("/api/patch", {"text": QUESTION, "other": QUESTION, "thoughts": [9]}, "9"),
        ("/api/patch", {"text": QUESTION, "other": QUESTION, "thoughts": []}, "thoughts"),
    ],
)  # fmt: skip
def test_bad_questions_get_one_line(server, path, table, says):
    status, found = ask(server, path, table)
    assert status in (400, 413) and says in found["error"] and "\n" not in found["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"text": NaN}', b"[" * 3900, b"1" * 3900, b"\xff\xfe",
        b'{"text": "\\ud800"}',
    ],
)  # fmt: skip
def test_what_is_not_a_question_is_refused(server, body):
    headers = {"Content-Type": "application/json"}
    status, _, content = request(server, "POST", "/api/fire", body, headers)
    assert status == 400 and "error" in json.loads(content)


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.html", "/%2e%2e/secret.html", "/..%2fsecret.html", "/page/../../secret.html",
        "/..\\secret.html", "//etc/passwd", "/etc/passwd", "/page", "/page/", "/.lock", "/config.toml",
        "/index.html%00.js", "/live/../server.py", "/live/%2e%2e/server.py", "/data/", "/api/nothing",
    ],
)  # fmt: skip
def test_nothing_outside_the_explorer(server, path):
    status, headers, content = request(server, "GET", path)
    assert status == 404 and b"secret" not in content and headers["Content-Type"] == "application/json"


def test_links_are_not_followed(run, tmp_path):
    folder = run / "explorer"
    (folder / "outside.js").symlink_to(run / "secret.html")
    (folder / "later.js").write_text("1")
    (folder / "door").symlink_to(run)
    server = started(run)
    try:
        assert request(server, "GET", "/later.js")[0] == 200
        (folder / "later.js").unlink()
        (folder / "later.js").symlink_to(run / "secret.html")
        for path in ("/outside.js", "/later.js", "/door/secret.html"):
            assert request(server, "GET", path)[0] == 404, path
    finally:
        server.shutdown()
        server.server_close()
        for name in ("outside.js", "later.js", "door"):
            os.unlink(folder / name)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}",
        "8.8.8.8:{port}", "127.0.0.1:{port}@evil", "[::1", "",
    ],
)  # fmt: skip
def test_other_names_are_refused(server, host):
    asked = host.format(port=server.server_port)
    for method, path, body in (
        ("GET", "/", None),
        ("GET", "/data/run.js", None),
        ("POST", "/api/fire", {"text": QUESTION}),
    ):
        status, _, content = request(server, method, path, body, host=asked or " ")
        assert status == 403 and b"latents" not in content


def test_its_own_names_are_known(server):
    for host in ("localhost", "LOCALHOST", "[::1]", "127.0.0.1", "127.1.2.3"):
        assert request(server, "GET", "/", host=f"{host}:{server.server_port}")[0] == 200, host
    status, _ = ask(
        server, "/api/fire", {"text": QUESTION}, headers={"Origin": f"http://127.0.0.1:{server.server_port}"}
    )
    assert status == 200


def test_a_public_server_answers_to_addresses_and_to_names_it_was_told():
    guard = Guard("0.0.0.0", 8000, ("lab.example",))
    assert guard.knows("10.0.0.7:8000") and guard.knows("lab.example:8000") and guard.knows("[fe80::1]:8000")
    assert guard.knows("localhost:8000")
    assert not guard.knows("evil.example:8000") and not guard.knows("10.0.0.7:80")
    assert Guard("0.0.0.0", 80).knows("localhost") and Guard("::", 80).knows("LOCALHOST")
    assert not Guard("0.0.0.0", 80).knows("localhost.evil") and not Guard("0.0.0.0", 81).knows("localhost")
    assert Guard("127.0.0.1", 80).knows("localhost") and not Guard("127.0.0.1", 80).knows("10.0.0.7")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_requests_made_by_other_sites_are_refused(server, headers):
    status, found = ask(server, "/api/fire", {"text": QUESTION}, headers=headers)
    assert status == 403 and "site" in found["error"]
    assert request(server, "GET", "/data/run.js", headers=headers)[0] == 403


def test_other_sites_may_link_to_the_page(server):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert request(server, "GET", "/", headers=headers)[0] == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_forms_of_other_pages_are_not_questions(server, kind):
    body = json.dumps({"text": QUESTION})
    assert request(server, "POST", "/api/fire", body, {"Content-Type": kind})[0] == 415


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "HEAD", "TRACE", "CONNECT", "PATCH"])
def test_other_methods_are_refused_without_permissions(server, method):
    status, headers, _ = request(server, method, "/api/fire")
    assert status == 501 and not any(name.lower().startswith("access-control") for name in headers)


def test_long_and_vague_bodies_are_not_read(server):
    name = f"Host: 127.0.0.1:{server.server_port}\r\nContent-Type: application/json\r\n"
    head = f"POST /api/fire HTTP/1.1\r\n{name}"
    for lines, status in (
        ("Content-Length: 4001\r\n", b"413"), ("Content-Length: 99999999999999999999\r\n", b"413"),
        ("Content-Length: -1\r\n", b"400"), ("Content-Length: 1e3\r\n", b"400"), ("", b"411"),
        ("Content-Length: 2\r\nContent-Length: 3\r\n", b"411"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", b"411"),
    ):  # fmt: skip
        assert raw(server, f"{head}{lines}\r\n{{}}".encode()).split(b" ")[1] == status, lines
    assert (
        raw(server, b"GET http://evil.example/ HTTP/1.1\r\n" + name.encode() + b"\r\n").split(b" ")[1]
        == b"400"
    )
    two = f"GET / HTTP/1.1\r\nHost: evil\r\n{name}\r\n"
    assert raw(server, two.encode()).split(b" ")[1] == b"403"
    assert b"414" in raw(server, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n")


def test_a_request_that_never_ends_is_given_up(run):
    server = started(run, timeout_s=0.5)
    try:
        name = f"Host: 127.0.0.1:{server.server_port}\r\nContent-Type: application/json\r\n"
        body = f"POST /api/fire HTTP/1.1\r\n{name}Content-Length: 100\r\n\r\n{{"
        assert raw(server, body.encode()).split(b" ")[1] == b"408"
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as slow:
            for _ in range(200):  # a byte at a time never lets one read wait long
                try:
                    slow.sendall(b"G")
                except OSError:
                    break
                time.sleep(0.02)
            else:
                pytest.fail("still listening after four seconds")
    finally:
        server.shutdown()
        server.server_close()


def test_one_question_at_a_time_and_a_limit_to_waiting(run):
    server = started(run, timeout_s=0.3)
    try:
        with server.model:
            status, found = ask(server, "/api/fire", {"text": QUESTION})
            assert status == 503 and "busy" in found["error"]
            assert request(server, "GET", "/")[0] == 200
        assert ask(server, "/api/fire", {"text": QUESTION})[0] == 200
    finally:
        server.shutdown()
        server.server_close()


def test_too_many_connections_are_turned_away(run):
    server = started(run, max_connections=1, timeout_s=20.0)
    try:
        with socket.create_connection(("127.0.0.1", server.server_port)) as first:
            first.sendall(b"GET / HTTP/1.1\r\n")
            deadline = time.monotonic() + 10
            while server.places._value and time.monotonic() < deadline:
                time.sleep(0.01)
            assert raw(server, b"") == b""
    finally:
        server.shutdown()
        server.server_close()


def test_text_runs_continue_a_text(tmp_path, tiny_lm_dir):
    root = text_run(tmp_path, tiny_lm_dir)
    server = started(root)
    try:
        text = "A cat and a dog"
        status, found = ask(server, "/api/fire", {"text": text, "top": 8})
        assert status == 200 and "".join(found["positions"]) == text and found["answer"] is None
        latent = found["by_position"][0][-1][0][0]
        status, told = ask(
            server, "/api/steer", {"text": text, "latent": latent, "scale": 1.0, "max_new_tokens": 5}
        )
        assert status == 200 and told["before"] == told["after"] and told["changed"] == 0
        status, told = ask(
            server, "/api/steer", {"text": text, "latent": latent, "value": 300.0, "max_new_tokens": 5}
        )
        assert status == 200 and told["changed"] > 0 and told["kl"] > 0
        status, found = ask(server, "/api/steer", {"text": text, "latent": 1, "scale": 0.0, "thoughts": [1]})
        assert status == 400 and "text" in found["error"]
        status, found = ask(server, "/api/steer", {"text": "word " * 500, "latent": 1, "scale": 0.0})
        assert status == 400 and "shorten" in found["error"]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("kind", ["crosscoder", "transcoder"])
def test_latents_of_several_states_are_shown_and_not_changed(run, tmp_path, kind):
    hooks = ["layers.0:out", "layers.1:out"]
    cfg = (
        saes.CrosscoderConfig(d_sae=12, k=2, sites=tuple(hooks), over="layers")
        if kind == "crosscoder"
        else saes.TranscoderConfig(d_sae=12, k=2, hook_in=hooks[0], hook_out=hooks[1])
    )
    sae = saes.create(cfg, 96, seed=0)
    sae.hook_names = hooks if kind == "crosscoder" else hooks[:1]
    saes.save(sae, tmp_path / "sae")
    (tmp_path / "acts").symlink_to(run / "acts")
    engine = Engine(tmp_path, timeout_s=20)
    found = engine.fire(FireRequest(text=QUESTION, top=12))
    (expected,) = fire(tmp_path, [QUESTION], top=12).texts
    assert found["latents"] == json.loads(json.dumps(expected.to_json()["latents"])) and found["latents"]
    assert len(found["by_position"]) == len(found["hook_names"]) == 1 and len(found["readings"]) == 7
    assert [member["can_be_changed"] for member in engine.about["members"]] == [False]
    with pytest.raises(MismatchError, match=rf"'pooled' is a {kind}: .* choose another SAE"):
        engine.steer(SteerRequest(text=QUESTION, latent=1, scale=0.0))
    told = engine.patch(PatchRequest(text=QUESTION, other=QUESTION, thoughts=[2]))
    assert told["before"] == told["after"]


def test_what_cannot_be_served(run, server, tmp_path):
    with pytest.raises(NotThereError, match="run directory"):
        open_server(load_config(ServeConfig, {"run": str(tmp_path / "no")}))
    with pytest.raises(ResourceError, match="Cannot listen"):
        open_server(load_config(ServeConfig, {"run": str(run), "port": server.server_port}))


def test_the_command_says_where_and_ends_when_asked(run):
    command = [sys.executable, "-m", "thoughtlens.cli", "serve", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = json.loads(process.stdout.readline())["url"]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url + "live/", timeout=20) as page:
            assert b"live.js" in page.read()
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()
