"""`thoughtlens serve RUN`: the explorer, and a page that asks the model; plain HTTP, for one person.

Listens on this machine only unless told otherwise. docs/explorer.md says what is refused and why.

Nothing that is sent is ever evaluated, and nothing is written.
"""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, cast

from pydantic import ValidationError

from thoughtlens.core import ResourceError, ThoughtlensError, load_config, require_run, warn
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.pages.pages import explorer_of, refreshed
from thoughtlens.show.serve.config import FireRequest, PatchRequest, Request, ServeConfig, SteerRequest
from thoughtlens.show.serve.engine import Engine
from thoughtlens.show.serve.files import Files
from thoughtlens.show.serve.guard import Guard, is_loopback

QUESTIONS: dict[str, type[Request]] = {
    "/api/fire": FireRequest,
    "/api/steer": SteerRequest,
    "/api/patch": PatchRequest,
}
ABOUT = "/api/run"
POLICY = (
    "default-src 'none'; script-src 'self'{inline}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",  # data files are scripts, which any site could include
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

LINGER_S, LINGER_READS = 1.0, 64


class Refusal(Exception):
    """An answer other than 200: its status, and one line of why."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def open_server(cfg: ServeConfig) -> Server:
    """A server of a run that listens already; the explorer is written first where it is not there.

    Raises:
        NotThereError: no run, no SAE, no store, or no interpret for the explorer.
        MismatchError: SAEs that do not reconstruct their input.
        ResourceError: the address cannot be listened on.
    """
    run = Path(cfg.run)
    require_run(run)
    folder = run / "explorer"
    made = (folder / "config.toml").is_file()
    shown = load_config(ExplorerConfig, folder) if made else explorer_of(run)
    refreshed(shown.model_copy(update={"run": run}), folder)
    server = Server(cfg, Engine(run, cfg.timeout_s), Files(folder))
    if not is_loopback(cfg.host):
        warn(f"serve: {server.url} can be reached from other machines, without a password")
    return server


class Server(ThreadingHTTPServer):
    """Listens from the moment it is made; `serve_forever` answers."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, cfg: ServeConfig, engine: Engine, files: Files) -> None:
        self.address_family = socket.AF_INET6 if ":" in cfg.host else socket.AF_INET
        self.cfg, self.engine, self.files = cfg, engine, files
        self.model = threading.Lock()
        self.places = threading.BoundedSemaphore(cfg.max_connections)
        try:
            super().__init__((cfg.host, cfg.port), Handler)
        except OSError as error:
            raise ResourceError(
                f"Cannot listen on {cfg.host}:{cfg.port}: {error.strerror or error}"
            ) from None
        self.guard = Guard(cfg.host, self.server_port, cfg.allowed_hosts)

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self.cfg.host}]" if ":" in self.cfg.host else self.cfg.host
        return f"http://{host}:{self.server_port}/"

    def server_bind(self) -> None:
        """Without the look-up of the machine's name, which may ask a network."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.cfg.host, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each request, as long as there are places."""
        if not self.places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One request, and its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is nobody's error."""


class Handler(BaseHTTPRequestHandler):
    """One request. HTTP/1.0: every answer closes its connection."""

    server_version, sys_version = "thoughtlens", ""

    @property
    def served(self) -> Server:
        """The server that this request came to."""
        return cast(Server, self.server)

    def setup(self) -> None:
        """Reads end when the request's time is over, however slowly it comes."""
        super().setup()
        self.end = time.monotonic() + self.served.cfg.timeout_s
        self.rfile = cast(Any, io.BufferedReader(_Timed(self.connection, self.end)))

    def do_GET(self) -> None:
        """A page, a file, or what the run is."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """A question to the model."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses, as JSON."""
        self._send(HTTPStatus(code), _json({"error": message or HTTPStatus(code).phrase}), "application/json")

    def _answer(self, respond: Any) -> None:
        try:
            content, media_type = respond()
            status = HTTPStatus.OK
        except Refusal as refusal:
            status, content, media_type = (
                refusal.status,
                _json({"error": refusal.message}),
                "application/json",
            )
        except ThoughtlensError as error:
            busy = isinstance(error, ResourceError)
            status = HTTPStatus.SERVICE_UNAVAILABLE if busy else HTTPStatus.BAD_REQUEST
            content, media_type = _json({"error": " ".join(str(error).split())}), "application/json"
        except (RuntimeError, ValueError, LookupError) as error:
            warn(f"serve: {self.command} {self.path[:80]!r}: {type(error).__name__}: {error}")
            status, media_type = HTTPStatus.INTERNAL_SERVER_ERROR, "application/json"
            content = _json({"error": "the server failed; its terminal says how"})
        self._send(status, content, media_type)
        if status != HTTPStatus.OK:
            self._discard()

    def _get(self) -> tuple[bytes, str]:
        address = self.path.partition("?")[0]
        is_page = address.endswith(("/", ".html"))
        self._check(is_page=is_page)
        if address == ABOUT:
            return _json(self.served.engine.about), "application/json"
        found = self.served.files.find(address)
        if found is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "there is nothing here")
        return found.content, found.media_type

    def _post(self) -> tuple[bytes, str]:
        self._check(is_page=False)
        if self.path not in QUESTIONS:
            raise Refusal(HTTPStatus.NOT_FOUND, f"expected one of {', '.join(QUESTIONS)}")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected Content-Type: application/json")
        asked = _parse(QUESTIONS[self.path], self._body())
        with self._turn():
            return _json(self._ask(asked)), "application/json"

    def _ask(self, asked: Request) -> dict[str, Any]:
        if isinstance(asked, FireRequest):
            return self.served.engine.fire(asked)
        if isinstance(asked, PatchRequest):
            return self.served.engine.patch(asked)
        return self.served.engine.steer(cast(SteerRequest, asked))

    def _check(self, *, is_page: bool) -> None:
        if not self.path.startswith("/"):
            raise Refusal(HTTPStatus.BAD_REQUEST, "expected an address that begins with /")
        if objection := self.served.guard.objection(self.headers, is_page=is_page):
            raise Refusal(HTTPStatus.FORBIDDEN, objection)

    def _body(self) -> bytes:
        lengths, limit = self.headers.get_all("Content-Length", []), self.served.cfg.max_body_bytes
        if "Transfer-Encoding" in self.headers or len(lengths) != 1:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "expected one Content-Length, and no Transfer-Encoding")
        if not (lengths[0].isascii() and lengths[0].isdigit()):
            raise Refusal(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
        if len(lengths[0]) > 12 or int(lengths[0]) > limit:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {limit} bytes are read")
        try:
            body = self.rfile.read(int(lengths[0]))
        except TimeoutError as error:
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, str(error)) from None
        if len(body) < int(lengths[0]):
            raise Refusal(HTTPStatus.BAD_REQUEST, "the body ended before its Content-Length")
        return body

    def _turn(self) -> _Turn:
        return _Turn(self.served.model, self.served.cfg.timeout_s)

    def _send(self, status: HTTPStatus, content: bytes, media_type: str) -> None:
        self.connection.settimeout(self.served.cfg.timeout_s)
        self.send_response(status)
        inline = " 'unsafe-inline'" if media_type.startswith("text/html") and b"<script>" in content else ""
        for name, value in {**HEADERS, "Content-Security-Policy": POLICY.format(inline=inline)}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _discard(self) -> None:
        """What a refused sender still sends, for a moment, so that it gets to read why."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        rest = _Timed(self.connection, time.monotonic() + LINGER_S)
        with suppress(OSError):
            for _ in range(LINGER_READS):
                if not rest.read(1 << 16):
                    break


class _Turn:
    """One request to the model at a time; the others wait, but not for ever."""

    def __init__(self, lock: threading.Lock, timeout_s: float) -> None:
        self.lock, self.timeout_s = lock, timeout_s

    def __enter__(self) -> None:
        if not self.lock.acquire(timeout=self.timeout_s):
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the model is busy with another request; try again")

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class _Timed(io.RawIOBase):
    """A socket whose reads all end at one moment."""

    def __init__(self, connection: socket.socket, end: float) -> None:
        self.connection, self.end = connection, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long to arrive")
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


def _parse(cls: type[Request], body: bytes) -> Request:
    try:
        return cls.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise Refusal(HTTPStatus.BAD_REQUEST, f"{where}: {message}" if where else message) from None


def _json(table: Any) -> bytes:
    return json.dumps(table, ensure_ascii=True, allow_nan=False).encode()
