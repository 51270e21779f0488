"""Questions to an OpenAI-compatible chat endpoint: bounded in time, asked again where it helps, paid once."""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from thoughtlens.core import ConfigError, DataError, ResourceError, say
from thoughtlens.latents.explain.config import LLMConfig

T = TypeVar("T")
R = TypeVar("R")
MAX_REPLY_BYTES = 4 * 2**20
LONGEST_WAIT_S = 300.0
"""How long a `Retry-After` is followed; who asks for more is left."""
NEVER = (400, 401, 403, 404, 405, 422)
"""Statuses that asking again does not change."""
THOUGHT = re.compile(
    r"<(think|thinking|thought|reasoning)>.*?</\1>|\[THINK\].*?\[/THINK\]", re.DOTALL | re.IGNORECASE
)
OPENED = re.compile(r"(?i)<(think|thinking|thought|reasoning)>|\[THINK\]")
CLOSED = re.compile(r"(?is).*(?:</(?:think|thinking|thought|reasoning)>|\[/THINK\])")


class Endpoint:
    """Where chat completions are asked for. Nothing but what `ask` is given is sent there, and nowhere else.

    Replies are kept in a file, if `keep` names one: a question that was answered there is not asked again.
    May be used from several threads.

    Raises:
        ConfigError: not an http(s) address, or a key that cannot stand in a header.
    """

    def __init__(self, cfg: LLMConfig) -> None:
        self.cfg = cfg
        self.url = cfg.base_url.rstrip("/") + "/chat/completions"
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not self.url.isprintable():
            raise ConfigError(
                f"llm.base_url: expected an address like http://127.0.0.1:8000/v1, got {cfg.base_url!r}"
            )
        if "@" in parts.netloc:
            raise ConfigError(f"llm.base_url holds a name or a password; put the key into {cfg.key_env}")
        self.key = os.environ.get(cfg.key_env, "").strip()
        if not self.key.isprintable() or not self.key.isascii():
            raise ConfigError(f"llm.key_env: {cfg.key_env} holds characters that no key has")
        self._spelling = {"max_tokens": "max_tokens", "temperature": "temperature"}
        self._lock = threading.Lock()
        self._file: Path | None = None
        self._known: dict[str, str] = {}

    def keep(self, file: Path) -> None:
        """Keep replies in this file from now on, and use those that it holds."""
        self._file = file
        lines = file.read_text("utf-8").splitlines() if file.is_file() else []
        for line in lines:
            try:
                self._known.update(json.loads(line))
            except (ValueError, TypeError):  # the last one, where a kill cut it
                continue
        file.write_text("".join(json.dumps({k: v}) + "\n" for k, v in self._known.items()), "utf-8")

    def each(self, ask: Callable[[T], R], questions: Sequence[T]) -> list[R]:
        """`ask` of every question, in their order, `llm.parallel` at a time."""
        with ThreadPoolExecutor(self.cfg.parallel) as pool:
            return list(pool.map(ask, questions))

    def ask(self, prompt: str, time_asked: int = 0) -> str:
        """The reply's text, without what a reasoning model thinks before it.

        Args:
            prompt: The question.
            time_asked: How often the same question was answered before.

        Raises:
            ConfigError: the endpoint refuses the request (address, key or model).
            ResourceError: it cannot be reached, or does not reply in time.
            DataError: its reply is not a chat completion, or ended before its text began.
        """
        cfg = self.cfg
        asked = (self.url, cfg.model, cfg.max_tokens, cfg.temperature, prompt, time_asked)
        name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        if name not in self._known:
            text = self._patiently(prompt)
            with self._lock:
                self._known[name] = text
                if self._file is not None:
                    with self._file.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({name: text}) + "\n")
        return self._known[name]

    def _patiently(self, prompt: str) -> str:
        for attempt in range(self.cfg.retries + 1):
            try:
                return self._once(prompt)
            except _Busy as busy:
                if attempt == self.cfg.retries or busy.wait_s > LONGEST_WAIT_S:
                    raise ResourceError(str(busy)) from None
                time.sleep(max(busy.wait_s, self.cfg.pause_s * 2**attempt))
            except (ResourceError, DataError):
                if attempt == self.cfg.retries:
                    raise
                time.sleep(self.cfg.pause_s * 2**attempt)
        raise AssertionError("unreachable")

    def _once(self, prompt: str) -> str:
        """One question; a second one at once where the endpoint spells its settings in the newer way."""
        status, reason, raw, wait_s = self._post(self._body(prompt))
        if status == 200:
            return self._text(raw)
        if status == 400 and self._respell(raw.decode("utf-8", "replace")):
            return self._once(prompt)
        said = " ".join(raw[:300].decode("utf-8", "replace").split())
        said = said.replace(self.key, "KEY") if self.key else said
        if 300 <= status < 400:
            raise ConfigError(f"{self.url} leads elsewhere ({status}); give the address that it means")
        text = f"{self.url} answered {status} {reason} for {self.cfg.model}: {said}"
        if status in NEVER:
            raise ConfigError(text)
        raise _Busy(text, wait_s)

    def _body(self, prompt: str) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.cfg.model, "messages": [{"role": "user", "content": prompt}]}
        for name, spelled in self._spelling.items():
            if (value := getattr(self.cfg, name)) is not None and spelled:
                body[spelled] = value
        return body

    def _respell(self, said: str) -> bool:
        """Change what a 400 complains about; whether there was anything to change."""
        if "max_completion_tokens" in said and self._spelling["max_tokens"] == "max_tokens":
            self._spelling["max_tokens"] = "max_completion_tokens"
        elif "temperature" in said and self._spelling["temperature"]:
            self._spelling["temperature"] = ""
            say(f"explain: {self.cfg.model} takes no temperature of {self.cfg.temperature}; its own is used")
        else:
            return False
        return True

    def _post(self, body: dict[str, Any]) -> tuple[int, str, bytes, float]:
        """Status, its reason, the reply's bytes, and for how many seconds to wait before asking again."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with _within(self.cfg.timeout_s) as (opener, is_late):
            try:
                with opener.open(request, timeout=self.cfg.timeout_s) as reply:
                    raw = reply.read(MAX_REPLY_BYTES + 1)
                    if is_late():
                        raise TimeoutError
                    if reply.length and len(raw) <= MAX_REPLY_BYTES:
                        raise http.client.IncompleteRead(raw, reply.length)
                    return 200, "OK", raw, 0.0
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read(4000)
                return error.code, str(error.reason), said, _wait_s(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = getattr(error, "reason", error)
                if is_late() or isinstance(reason, TimeoutError):
                    raise ResourceError(self._late()) from None
                if isinstance(error, urllib.error.URLError):
                    raise ResourceError(
                        f"{self.url} cannot be reached: {reason}; check llm.base_url"
                    ) from None
                raise ResourceError(
                    f"{self.url} broke off its reply: {error or type(error).__name__}"
                ) from None

    def _late(self) -> str:
        return f"{self.url} did not reply within {self.cfg.timeout_s:g} s; raise llm.timeout_s, or look there"

    def _text(self, raw: bytes) -> str:
        if len(raw) > MAX_REPLY_BYTES:
            raise DataError(
                f"{self.url} sent more than {MAX_REPLY_BYTES:,} bytes; no explanation is that long"
            )
        try:
            table: Any = json.loads(raw)
            content = table["choices"][0]["message"]["content"]
        except (UnicodeDecodeError, ValueError, LookupError, TypeError, RecursionError):
            shown = " ".join(raw[:120].decode("utf-8", "replace").split())
            raise DataError(
                f"Expected a chat completion (choices[0].message.content) from {self.url}, got {shown!r}"
            ) from None
        if isinstance(content, list):  # in parts, of which some may be thoughts
            content = "".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
        text = without_thoughts(content) if isinstance(content, str) else ""
        if not text:
            hint = "; it may have ended while it was thinking: raise llm.max_tokens"
            raise DataError(f"{self.url} sent a reply without text for {self.cfg.model}{hint}")
        return text


def without_thoughts(text: str) -> str:
    """A reply without what a reasoning model wrote while it thought; empty where it never ended."""
    text = THOUGHT.sub("", text)
    if OPENED.match(text.lstrip()):
        return ""
    return CLOSED.sub("", text).strip()  # where the prompt's template had opened it


class _Busy(ResourceError):
    """A refusal that may pass; `wait_s` is what the endpoint asked for."""

    def __init__(self, text: str, wait_s: float) -> None:
        super().__init__(text)
        self.wait_s = wait_s


def _wait_s(value: str | None) -> float:
    """Seconds that a `Retry-After` asks for: a number, or a date."""
    if value is None:
        return 0.0
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return 0.0


@contextmanager
def _within(seconds: float) -> Iterator[tuple[urllib.request.OpenerDirector, Callable[[], bool]]]:
    """An opener whose connections are cut after so long, however slowly bytes drip; and whether they were."""
    sockets: list[socket.socket] = []
    late = threading.Event()

    def cut() -> None:
        late.set()
        for one in sockets:
            with suppress(OSError):  # it was closed meanwhile
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    def noted(base: Any) -> Any:
        class Connection(base):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        return Connection

    class Nowhere(urllib.request.HTTPRedirectHandler):
        """A key is for one host: where it leads elsewhere, nothing follows."""

        def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
            return None

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(noted(http.client.HTTPConnection), req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(noted(http.client.HTTPSConnection), req)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield urllib.request.build_opener(Nowhere, Http, Https), late.is_set
    finally:
        timer.cancel()
