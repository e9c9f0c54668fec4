"""What a request asks for, and whether a route allows it: every check that needs no network (bundle/src/egress/proxy.rs)."""

from __future__ import annotations

from dataclasses import dataclass

from .authority import Authority
from .head import Head
from .paths import Target, normalise
from .refusal import Refusal
from .routes import Policy, Route
from .ticket import Ticket


# Headers that name another method or path than the request line (bundle/src/egress/route/overrides.rs).
_OVERRIDES = frozenset(
    [b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url", b"x-original-uri"]
)


@dataclass(frozen=True)
class Ask:
    """A request that policy lets through, in one spelling."""

    to: Authority
    tls: bool
    target: Target
    route: Route
    destination: str | None = None  # WebDAV's header, in normal form


def tunnel(head: Head, policy: Policy, ticket: Ticket) -> Authority:
    """Where CONNECT wants to go; raises Refusal."""
    ticket.asks("CONNECT", None, None)
    if "://" in head.target or "/" in head.target:
        raise Refusal("authority", "CONNECT wants host:port")
    to = Authority.parse(head.target)
    ticket.to(to)
    policy.check_tunnel(to)
    return to


def request(head: Head, inside: Authority | None, policy: Policy, ticket: Ticket) -> Ask:
    """The route of a request, which came through a tunnel to `inside`; raises Refusal."""
    raw = "/" + head.target.split("://", 1)[-1].partition("/")[2] if "://" in head.target else head.target
    path, mark, query = raw.partition("?")
    ticket.asks(head.method, path, query if mark else None)
    to, tls, raw = _destination(head.target, inside, ticket)
    target = normalise(raw)
    ticket.asks(head.method, target.path, target.query)

    host = (head.get(b"host") or b"").decode("latin-1")
    try:
        named = Authority.parse(host, 443 if tls else 80)
    except Refusal:
        named = None
    if named != to:
        raise Refusal("host-mismatch", f"Host is {host!r}, the connection is for {to}")
    if head.method in ("TRACE", "TRACK", "DEBUG"):
        raise Refusal("trace", "this method would echo what the proxy adds")
    if head.get(b"upgrade") is not None:
        raise Refusal("upgrade", "this chain passes no protocol upgrades (such as WebSocket)")
    route = policy.find(to, tls=tls, method=head.method, target=target)
    ticket.via(route)
    _check_overrides(head, route)
    destination = _check_destination(head, to, route, tls=tls)
    if route.max_body is not None and (head.length or 0) > route.max_body:
        raise Refusal("max-body", f"the body is over this route's {route.max_body} bytes")
    route.take()
    route.spend("up", len(str(target)))
    route.spend("down", 0)
    return Ask(to, tls, target, route, destination)


def _check_overrides(head: Head, route: Route) -> None:
    if route.methods or route.paths:
        for name, _ in head.headers:
            if name.lower().replace(b"_", b"-") in _OVERRIDES:
                raise Refusal("override", f"{name.decode('latin-1')} would ask the server for another method or path")


def _check_destination(head: Head, to: Authority, route: Route, *, tls: bool) -> str | None:
    """The normal form of WebDAV's Destination header on a route that looks at paths; raises Refusal if it leads out."""
    values = [value.decode("latin-1") for name, value in head.headers if name.lower() == b"destination"]
    if not values or not route.paths:
        return None
    refusal = Refusal("destination", f"the Destination header names a path outside of what route {route.name} allows")
    if len(values) > 1:
        raise refusal
    origin, path = "", values[0]
    if not path.startswith("/"):
        scheme, mark, rest = path.partition("://")
        authority, slash, rest = rest.partition("/")
        try:
            same_host = Authority.parse(authority, 443 if tls else 80) == to
        except Refusal:
            same_host = False
        if not mark or not slash or scheme.lower() != ("https" if tls else "http") or not same_host:
            raise refusal
        origin, path = f"{scheme}://{authority}", f"/{rest}"
    try:
        target = normalise(path)
    except Refusal:
        raise refusal from None
    # `//host/path` would be another host.
    if path.startswith("//") or target.encoded_slash or not route.allows(head.method, target.path):
        raise refusal
    return f"{origin}{target}"


def _destination(target: str, inside: Authority | None, ticket: Ticket) -> tuple[Authority, bool, str]:
    """Host, whether TLS, and the target from its path on."""
    scheme, absolute, rest = target.partition("://")
    if not absolute:
        if inside is not None:
            return inside, True, target
        raise Refusal("not-proxy-form", "this is a proxy: set HTTPS_PROXY to it, do not ask it for pages")
    scheme = scheme.lower()
    cut = min((n for n in (rest.find("/"), rest.find("?")) if n >= 0), default=len(rest))
    authority, raw = rest[:cut], rest[cut:] or "/"
    if inside is not None and scheme == "https":
        named = Authority.parse(authority, 443)
        if named != inside:
            raise Refusal("host-mismatch", f"the request is for {named}, the connection for {inside}")
        return named, True, raw
    if inside is None and scheme == "http":
        to = Authority.parse(authority, 80)
        ticket.to(to)
        return to, False, raw
    if inside is None and scheme == "https":
        raise Refusal("https-absolute", "https:// goes through CONNECT, not in the request line")
    raise Refusal("request-line", "the request line's target has a form that is not supported")
