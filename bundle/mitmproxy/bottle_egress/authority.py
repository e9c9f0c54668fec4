"""`host:port` in one spelling; the rules are those of bundle/src/egress/request/authority.rs and policy's HostPattern."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from .refusal import Refusal

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `text` spells out, when it is one."""
    if "%" in text:  # a zone
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def host_pattern(text: str) -> str | None:
    """A host (or `*.suffix`) in lower case, or None when it is none."""
    lower = text.lower()
    if not lower.isascii():
        return None
    if (ip := address(lower)) is not None:
        return str(ip)
    name = lower.removeprefix("*.")
    last = name.rsplit(".", 1)[-1]
    wide = lower.startswith("*.") and "." not in name
    if len(name) > 253 or wide or last.isdigit() or last.startswith("0x"):
        return None
    return lower if all(_LABEL.match(label) for label in name.split(".")) else None


@dataclass(frozen=True)
class Authority:
    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int | None = None) -> Authority:
        """Reads `host:port`, `[v6]:port`, or either without a port when there is a default; raises Refusal."""

        def bad(why: str) -> Refusal:
            return Refusal("authority", f"{text!r} is no host and port: {why}")

        if "@" in text:
            raise Refusal("userinfo", "there is a user name or password before the host")
        port: str | None
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise bad("brackets are not closed, or followed by text")
            if not isinstance(address(host), ipaddress.IPv6Address):
                raise bad("brackets hold an IPv6 address")
            port = rest[1:] if rest else None
        else:
            host, colon, rest = text.partition(":")
            port = rest if colon else None
        if port is None:
            if default_port is None:
                raise bad("no port")
            number = default_port
        else:
            if not _PORT.match(port) or not 1 <= int(port) <= 65535:
                raise bad("ports are 1 to 65535")
            number = int(port)
        name = host_pattern(host)
        if name is None or name.startswith("*."):
            raise bad("not a DNS name or IP address")
        return cls(name, number)

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        return address(self.host)

    def host_header(self, default_port: int) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == default_port else f"{host}:{self.port}"

    def __str__(self) -> str:
        return self.host_header(0)
