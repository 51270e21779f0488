"""One question to an OpenAI-compatible chat endpoint, with time-outs and bad replies as one clear line."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from thoughtlens.core import ConfigError, DataError, ResourceError
from thoughtlens.latents.explain.config import LLMConfig

MAX_REPLY_BYTES = 4 * 2**20
NEVER = (400, 401, 403, 404)
"""Statuses that asking again does not change."""


class Endpoint:
    """Where chat completions are asked for. Nothing but what `ask` is given is sent there.

    Raises:
        ConfigError: not an http(s) address, or a key that cannot stand in a header.
    """

    def __init__(self, cfg: LLMConfig) -> None:
        self.cfg = cfg
        self.url = cfg.base_url.rstrip("/") + "/chat/completions"
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"llm.base_url: expected an address like http://127.0.0.1:8000/v1, got {cfg.base_url!r}"
            )
        self.key = os.environ.get(cfg.key_env, "").strip()
        if not self.key.isprintable() or not self.key.isascii():
            raise ConfigError(f"llm.key_env: {cfg.key_env} holds characters that no key has")

    def ask(self, prompt: str, max_tokens: int = 400) -> str:
        """The reply's text, at temperature 0.

        Raises:
            ConfigError: the endpoint refuses the request (address, key or model).
            ResourceError: it cannot be reached, or does not reply in time.
            DataError: its reply is not a chat completion.
        """
        for attempt in range(self.cfg.retries + 1):
            try:
                return self._once(prompt, max_tokens)
            except (ResourceError, DataError):
                if attempt == self.cfg.retries:
                    raise
                time.sleep(self.cfg.pause_s * 2**attempt)
        raise AssertionError("unreachable")

    def _once(self, prompt: str, max_tokens: int) -> str:
        message = {"role": "user", "content": prompt}
        body = {"model": self.cfg.model, "messages": [message], "max_tokens": max_tokens, "temperature": 0}
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.cfg.timeout_s) as reply:
                raw = reply.read(MAX_REPLY_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                said = " ".join(error.read(300).decode("utf-8", "replace").split())
            what = ConfigError if error.code in NEVER else ResourceError
            raise what(
                f"{self.url} answered {error.code} {error.reason} for {self.cfg.model}: {said}"
            ) from None
        except TimeoutError:
            raise ResourceError(self._late()) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise ResourceError(self._late()) from None
            raise ResourceError(f"{self.url} cannot be reached: {error.reason}; check llm.base_url") from None
        except (http.client.HTTPException, OSError) as error:
            raise ResourceError(f"{self.url} broke off its reply: {error or type(error).__name__}") from None
        return self._text(raw)

    def _late(self) -> str:
        return f"{self.url} did not reply within {self.cfg.timeout_s:g} s; raise llm.timeout_s, or look there"

    def _text(self, raw: bytes) -> str:
        if len(raw) > MAX_REPLY_BYTES:
            raise DataError(
                f"{self.url} sent more than {MAX_REPLY_BYTES:,} bytes; no explanation is that long"
            )
        try:
            table: Any = json.loads(raw)
            text = table["choices"][0]["message"]["content"]
        except (UnicodeDecodeError, ValueError, LookupError, TypeError, RecursionError):
            shown = " ".join(raw[:120].decode("utf-8", "replace").split())
            raise DataError(
                f"Expected a chat completion (choices[0].message.content) from {self.url}, got {shown!r}"
            ) from None
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{self.url} sent a reply without text for {self.cfg.model}")
        return text.strip()
