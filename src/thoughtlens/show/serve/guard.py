"""Whom the server answers: nobody whose browser was sent here by another site.

A page of another site can make a browser send requests to a loopback address, and by pointing its own name
at 127.0.0.1 (DNS rebinding) it can even read the answers. Such requests carry that name as `Host`, that site
as `Origin`, or `Sec-Fetch-Site: cross-site`; none of which a script can forge.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from email.message import Message


@dataclass(frozen=True)
class Guard:
    """The names by which this server may be asked for."""

    host: str
    port: int
    allowed_hosts: tuple[str, ...] = ()

    def objection(self, headers: Message, *, is_page: bool) -> str | None:
        """Why a request is refused; None if it is not.

        Args:
            headers: Of the request.
            is_page: Whether it asks for a page, to which other sites may link.
        """
        hosts = headers.get_all("Host", [])
        if len(hosts) != 1 or not self.knows(hosts[0]):
            return "Host is not a name of this server"
        origins = headers.get_all("Origin", [])
        if origins and origins != [f"http://{hosts[0]}"]:
            return "Origin is another site"
        followed_link = is_page and headers.get("Sec-Fetch-Mode") == "navigate"
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not followed_link:
            return "the request was made by another site"
        return None

    def knows(self, host: str) -> bool:
        """Whether `Host: host` names this server: its address or localhost, and its port."""
        name, port = _split(host)
        if name is None or port != self.port:
            return False
        if name in (self.host.lower(), *(allowed.lower() for allowed in self.allowed_hosts)):
            return True
        loopback = is_loopback(self.host)
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost"  # which no name server can make another machine
        # an address cannot be made to mean another machine, as a name can
        return address.is_loopback if loopback else True


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(host: str) -> tuple[str | None, int]:
    """Name (without an IPv6 address's brackets) and port of a Host header; None where it is malformed."""
    host = host.strip().lower()
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        if not bracket:
            return None, 0
    else:
        name, colon, port = host.partition(":")
        rest = colon + port
    if rest and not (rest.startswith(":") and rest[1:].isascii() and rest[1:].isdigit() and len(rest) < 7):
        return None, 0
    return name or None, int(rest[1:]) if rest else 80
