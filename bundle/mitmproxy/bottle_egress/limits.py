"""The keys of a policy that this chain cannot enforce. With one of them the daemon does not start."""

from __future__ import annotations

from .routes import Policy, Route


def unsupported(policy: Policy, *, pipelock: bool) -> list[str]:
    """One line of text for each key that cannot be enforced."""
    found: list[str] = []
    for route in policy.routes:
        keys = [key for key, is_set in _keys(route, pipelock=pipelock) if is_set]
        found += [f"route {route.name!r}: {key}" for key in keys]
    for n, one in enumerate(policy.routes):
        for other in policy.routes[n + 1 :]:
            if one.port == other.port and one.ca != other.ca and _overlap(one, other):
                found.append(
                    f"routes {one.name!r} and {other.name!r} share a host and differ in ca"
                )
    return found


def _keys(route: Route, *, pipelock: bool) -> list[tuple[str, bool]]:
    scan = route.scan
    return [
        ("passthrough", route.passthrough),
        ("scan.rules", bool(scan.get("rules"))),
        ("scan.responses", bool(scan.get("responses"))),
        (f"scan.limit = {scan.get('limit')!r}", scan.get("limit") not in (None, "off")),
        ("timeout", bool(route.timeout)),
        ("connect (pipelock looks names up itself)", pipelock and route.connect is not None),
        ("ca (pipelock verifies upstreams itself)", pipelock and route.ca is not None),
        ("tls = false (pipelock's CONNECT is for TLS)", pipelock and not route.tls),
    ]


def _overlap(one: Route, other: Route) -> bool:
    a, b = one.host.removeprefix("*"), other.host.removeprefix("*")
    return a.endswith(b) or b.endswith(a)
