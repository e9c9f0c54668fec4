"""The policy, ready for matching: the first route that fits decides (policy/src/route.rs,
bundle/src/egress/policy/routes.rs).
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from . import paths
from .authority import Authority, address, host_pattern
from .refusal import Refusal

HOP = frozenset(
    [
        "connection",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_PARAMETER = frozenset("-_.[]0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_UNESCAPED = frozenset(b"-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_PERIODS = {"s": 1, "m": 60, "h": 3600}


class PolicyError(Exception):
    """A policy that cannot be enforced as it is written."""


@dataclass(frozen=True)
class Inject:
    header: str | None
    query: str | None
    scheme: str
    token: str


@dataclass
class Route:
    name: str
    host: str
    apex: bool = False
    port: int = 443
    methods: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    inject: Inject | None = None
    tls: bool = True
    websocket: bool = True  # this chain has none anyway
    passthrough: bool = False
    allow_private: bool = False
    connect: tuple[str, int] | None = None
    ca: str | None = None
    scan: dict[str, Any] = field(default_factory=dict)
    max_body: int | None = None
    budget: dict[str, int] = field(default_factory=dict)
    rate: str | None = None
    timeout: dict[str, int] = field(default_factory=dict)
    # What this launch has carried.
    up: int = 0
    down: int = 0
    _bucket: float | None = None
    _filled: float = 0.0

    def names(self, to: Authority) -> bool:
        if self.port != to.port:
            return False
        if not self.host.startswith("*."):
            return self.host == to.host
        suffix = self.host[1:]
        return (to.host.endswith(suffix) and len(to.host) > len(suffix)) or (
            self.apex and to.host == suffix[1:]
        )

    def allows(self, method: str, path: str) -> bool:
        by_method = not self.methods or method in self.methods
        return by_method and (not self.paths or any(paths.matches(p, path) for p in self.paths))

    def inherit(self, old: Route) -> None:
        """Goes on counting where `old`, the route of this name in the policy before, has stopped."""
        self.up, self.down = old.up, old.down
        if old._bucket is not None and self.rate is not None:
            self._bucket, self._filled = (
                min(old._bucket, float(self.rate.partition("/")[0])),
                old._filled,
            )

    def take(self) -> None:
        """Counts one request against the rate; raises Refusal."""
        if self.rate is None:
            return
        most, _, unit = self.rate.partition("/")
        per_second = int(most) / _PERIODS[unit]
        now = time.monotonic()
        left = (
            float(most)
            if self._bucket is None
            else min(float(most), self._bucket + (now - self._filled) * per_second)
        )
        self._bucket, self._filled = left, now
        if left < 1:
            wait = max(1, -int(-(1 - left) // per_second))
            raise Refusal(
                "rate", f"the route's rate of {self.rate} is used up; try again in {wait} s"
            )
        self._bucket = left - 1

    def spend(self, way: str, count: int) -> None:
        """Counts bytes that are about to go `up` or `down`; raises Refusal."""
        total = getattr(self, way) + count
        setattr(self, way, total)
        most = self.budget.get(way)
        if most is not None and total > most:
            raise Refusal(
                "budget", f"the route's budget of {most} bytes {way} for this launch is spent"
            )


class Policy:
    """All routes and the tokens' values."""

    def __init__(self, text: bytes) -> None:
        try:
            document = json.loads(text)
            if document.get("version") != 1 or set(document) != {"version", "routes"}:
                raise PolicyError("not a policy of version 1")
            self.routes = [_route(r) for r in document["routes"]]
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise PolicyError(f"not a policy: {e}") from e
        names = [r.name for r in self.routes]
        for name in names:
            if names.count(name) > 1:
                raise PolicyError(f"two routes are named {name!r}")
        self.tokens: dict[str, str] = {}

    def bind(self, tokens: dict[str, str]) -> None:
        """Takes the tokens' values. Errors never tell one."""
        for route in self.routes:
            if route.inject is None:
                continue
            token = tokens.get(route.inject.token)
            if token is None:
                raise PolicyError(f"route {route.name!r}: token {route.inject.token} has no value")
            try:
                written(route.inject, token)
            except ValueError as e:
                raise PolicyError(f"route {route.name!r}: {e}") from None
        self.tokens = dict(tokens)

    def named(self, to: Authority) -> list[Route]:
        return [r for r in self.routes if r.names(to)]

    def check_tunnel(self, to: Authority) -> None:
        named = self.named(to)
        if not named:
            raise Refusal("no-route", f"no route of this bottle names {to}", _hint(to, tls=True))
        if not any(r.tls for r in named):
            raise Refusal(
                "wrong-scheme", f"the route for {to} is plain http (tls = false), so not by CONNECT"
            )

    def find(self, to: Authority, *, tls: bool, method: str, target: paths.Target) -> Route:
        named = self.named(to)
        if not named:
            raise Refusal("no-route", f"no route of this bottle names {to}", _hint(to, tls=tls))
        fitting = [r for r in named if r.tls == tls]
        if not fitting:
            wanted, given = ("http", "https") if tls else ("https", "http")
            raise Refusal(
                "wrong-scheme", f"the route for {to} is for {wanted}, this request is {given}"
            )
        readings = target.readings() if any(r.paths for r in fitting) else [target.path]
        # Each route that a reading leads to, with the first reading that does.
        choices: dict[int | None, str] = {}
        for reading in readings:
            allowing = (n for n, r in enumerate(fitting) if r.allows(method, reading))
            choices.setdefault(next(allowing, None), reading)
        if len(choices) > 1:
            shown = ", ".join(
                f"as {json.dumps(reading[:60])} "
                f"({'no route' if n is None else f'route {fitting[n].name}'})"
                for n, reading in list(choices.items())[:4]
            )
            raise Refusal(
                "path",
                f"servers differ in how they read this path, and the routes for {to} differ: {shown}",
            )
        (choice,) = choices
        if choice is not None:
            return fitting[choice]
        raise Refusal(
            "not-allowed",
            f"no route for {to} allows {method} {target.path}",
            _hint(to, tls=tls, asks=(method, readings[0])),
        )


def written(inject: Inject, token: str) -> tuple[str, str]:
    """Name and value as they go into the request."""
    value = {
        "raw": lambda: token,
        "bearer": lambda: f"Bearer {token}",
        "basic": lambda: "Basic " + base64.b64encode(token.encode()).decode(),
    }[inject.scheme]()
    if inject.header is not None:
        name = inject.header.lower()
        barred = name in HOP or name.startswith("proxy-") or name in ("host", "content-length")
        if not name or not set(name) <= _TOKEN or barred:
            raise ValueError(f"header {inject.header!r} cannot be injected")
        if any(ord(c) < 0x20 and c != "\t" or c == "\x7f" for c in value):
            raise ValueError(
                f"the value of token {inject.token} has a line break or another control character"
            )
        return name, value
    name = inject.query or ""
    if not name or not set(name) <= _PARAMETER:
        raise ValueError(f"query parameter {name!r} cannot be injected")
    return name, "".join(chr(b) if b in _UNESCAPED else f"%{b:02X}" for b in value.encode())


def with_parameter(query: str | None, name: str, value: str) -> str:
    """`query` in which nothing but the last parameter is called `name`."""
    kept = [p for p in (query or "").split("&") if p and unquote_plus(p.split("=", 1)[0]) != name]
    return "&".join([*kept, f"{name}={value}"])


def _route(text: dict[str, Any]) -> Route:
    text = dict(text)
    unknown = set(text) - {
        f for f in Route.__dataclass_fields__ if not f.startswith("_") and f not in ("up", "down")
    }
    if unknown:
        raise PolicyError(
            f"route {text.get('name')!r} has keys this program does not know: {', '.join(sorted(unknown))}"
        )
    if (pattern := host_pattern(text["host"])) is None:
        raise PolicyError(f"route {text['name']!r}: {text['host']!r} is no host")
    text["host"] = pattern
    if (inject := text.get("inject")) is not None:
        if set(inject) - {"header", "query", "scheme", "token"} or ("header" in inject) == (
            "query" in inject
        ):
            raise PolicyError(
                f"route {text['name']!r}: inject needs exactly one of header and query"
            )
        text["inject"] = Inject(
            inject.get("header"), inject.get("query"), inject.get("scheme", "raw"), inject["token"]
        )
    if (connect := text.get("connect")) is not None:
        host, _, port = connect.rpartition(":")
        host = host.strip("[]")
        if address(host) is None:
            raise PolicyError(f"route {text['name']!r}: connect {connect!r} is no address and port")
        text["connect"] = (host, int(port))
    return Route(**text)


def _hint(to: Authority, *, tls: bool, asks: tuple[str, str] | None = None) -> str:
    """The route in bottle.toml that would allow a request, as TOML."""
    route = f'host = "{to.host}"'
    if to.port != 443:
        route += f", port = {to.port}"
    if asks is not None:
        method, path = asks
        route += f', methods = ["{method}"]'
        if not set(path) & set('%?#"') and "//" not in path:
            route += f', paths = ["{path}"]'
    if not tls:
        route += ", tls = false"
    return f"to allow it, in bottle.toml under [bottles.NAME]: egress = [{{ {route} }}]"
