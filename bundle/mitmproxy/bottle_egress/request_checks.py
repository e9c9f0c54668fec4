"""The checks of a request that need no network: its destination, its route, its limits
(bundle/src/egress/proxy.rs).
"""

from __future__ import annotations

from dataclasses import dataclass

from .authority import Authority
from .head import Head
from .paths import Target, parse
from .refusal import Refusal
from .request_audit import RequestAudit
from .routes import Policy, Route

# Headers that name another method or path than the request line
# (bundle/src/egress/route/overrides.rs).
_OVERRIDES = frozenset(
    [
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
        b"x-original-uri",
    ]
)


@dataclass(frozen=True)
class CheckedRequest:
    """A request that the policy allows."""

    to: Authority
    tls: bool
    target: Target
    route: Route


def tunnel(head: Head, policy: Policy, audit: RequestAudit) -> Authority:
    """The host and port of CONNECT; raises Refusal."""
    audit.set_request("CONNECT", None, None)
    if "://" in head.target or "/" in head.target:
        raise Refusal("authority", "CONNECT wants host:port")
    to = Authority.parse(head.target)
    audit.set_destination(to)
    policy.check_tunnel(to)
    return to


def request(
    head: Head, inside: Authority | None, policy: Policy, audit: RequestAudit
) -> CheckedRequest:
    """Checks a request, which came through a tunnel to `inside` if that is not None; raises
    Refusal.
    """
    raw = (
        "/" + head.target.split("://", 1)[-1].partition("/")[2]
        if "://" in head.target
        else head.target
    )
    path, mark, query = raw.partition("?")
    audit.set_request(head.method, path, query if mark else None)
    to, tls, raw = _destination(head.target, inside, audit)
    target = parse(raw)

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
    audit.set_route(route)
    _check_overrides(head, route)
    _check_destination(head, to, route, tls=tls)
    if route.max_body is not None and (head.length or 0) > route.max_body:
        raise Refusal("max-body", f"the body is over this route's {route.max_body} bytes")
    route.take()
    route.spend("up", len(str(target)))
    route.spend("down", 0)
    return CheckedRequest(to, tls, target, route)


def _check_overrides(head: Head, route: Route) -> None:
    if route.methods or route.paths:
        for name, _ in head.headers:
            if name.lower().replace(b"_", b"-") in _OVERRIDES:
                raise Refusal(
                    "override",
                    f"{name.decode('latin-1')} would ask the server for another method or path",
                )


def _check_destination(head: Head, to: Authority, route: Route, *, tls: bool) -> None:
    """Raises Refusal if WebDAV's Destination header leads out of a route that looks at paths in any
    reading of its path.
    """
    values = [
        value.decode("latin-1") for name, value in head.headers if name.lower() == b"destination"
    ]
    if not values or not route.paths:
        return
    refusal = Refusal(
        "destination",
        f"the Destination header names a path outside of what route {route.name} allows",
    )
    if len(values) > 1:
        raise refusal
    path = values[0]
    if not path.startswith("/"):
        scheme, mark, rest = path.partition("://")
        authority, slash, rest = rest.partition("/")
        try:
            same_host = Authority.parse(authority, 443 if tls else 80) == to
        except Refusal:
            same_host = False
        if not mark or not slash or scheme.lower() != ("https" if tls else "http") or not same_host:
            raise refusal
        path = f"/{rest}"
    elif path.startswith("//"):  # that would be another host
        raise refusal
    try:
        readings = parse(path).readings()
    except Refusal:
        raise refusal from None
    if not all(route.allows(head.method, reading) for reading in readings):
        raise refusal


def _destination(
    target: str, inside: Authority | None, audit: RequestAudit
) -> tuple[Authority, bool, str]:
    """Host and port, whether TLS is used, and the target from its path on."""
    scheme, absolute, rest = target.partition("://")
    if not absolute:
        if inside is not None:
            return inside, True, target
        raise Refusal(
            "not-proxy-form", "this is a proxy: set HTTPS_PROXY to it, do not ask it for pages"
        )
    scheme = scheme.lower()
    cut = min((n for n in (rest.find("/"), rest.find("?")) if n >= 0), default=len(rest))
    authority, raw = rest[:cut], rest[cut:] or "/"
    if inside is not None and scheme == "https":
        named = Authority.parse(authority, 443)
        if named != inside:
            raise Refusal(
                "host-mismatch", f"the request is for {named}, the connection for {inside}"
            )
        return named, True, raw
    if inside is None and scheme == "http":
        to = Authority.parse(authority, 80)
        audit.set_destination(to)
        return to, False, raw
    if inside is None and scheme == "https":
        raise Refusal("https-absolute", "https:// goes through CONNECT, not in the request line")
    raise Refusal("request-line", "the request line's target has a form that is not supported")
