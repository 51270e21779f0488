"""Addresses that pages may lead to."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

from thoughtlens.core import ConfigError

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
SCHEMES = ("http:", "https:", "file:")
ENDS = "<>"
"""What would end an address in Markdown."""


def link(address: str) -> str:
    """The address of a link, from which nothing can run: http(s), a file, or a place relative to the page.

    Raises:
        ConfigError: another scheme, or characters that browsers leave out before they look for one.
    """
    if any(unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") for char in address):
        raise ConfigError(f"Expected an address without control characters, got {address[:80]!r}")
    scheme = SCHEME.match(address.strip())
    if scheme is not None and scheme[0].lower() not in SCHEMES:
        raise ConfigError(
            f"Expected an address that begins with http:, https: or file:, or a relative one, got "
            f"{address[:80]!r}"
        )
    return "".join(quote(char) if char.isspace() or char in ENDS else char for char in address.strip())
