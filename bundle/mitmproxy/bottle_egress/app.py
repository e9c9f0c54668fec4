"""Assembles mitmproxy: its core, our connections and our addon, without its user interface."""

from __future__ import annotations

import socket

import mitmproxy.proxy.layers.http as http_layer
from mitmproxy import options
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.master import Master

from .addon import Bottle, Stale
from .audit import AuditWriter
from .guest_connection import GuestConnection
from .http1 import StrictServer
from .routes import Policy
from .server import BottleInstance, BottleUpstreamInstance, _Instance
from .tls import LeafCertificates


class Proxy:
    """The running proxy."""

    def __init__(self, master: Master, guests: dict[str, GuestConnection]) -> None:
        self.master, self.guests = master, guests

    def open_requests(self) -> int:
        return sum(
            1
            for g in self.guests.values()
            if g.audit is not None and g.audit.admitted and not g.audit.done
        )


async def start(
    policy: Policy,
    log: AuditWriter,
    certificates: LeafCertificates,
    stale: Stale,
    listener: socket.socket,
    upstream: str | None,
) -> Proxy:
    """Serves `listener`, through the proxy at `upstream` if there is one."""
    guests: dict[str, GuestConnection] = {}
    StrictServer.policy, StrictServer.log, StrictServer.guests = policy, log, guests
    # HttpLayer makes its HTTP/1 server connection by this name (mitmproxy 11.0.2).
    http_layer.Http1Server = StrictServer  # type: ignore[misc]
    _Instance.listener, _Instance.guests = listener, guests

    mode = "bottle" if upstream is None else f"bottleupstream:{upstream}"
    opts = options.Options(
        mode=[mode], http2=False, websocket=False, rawtcp=False, confdir="/nonexistent"
    )
    master = Master(opts)
    server = Proxyserver()
    master.addons.add(
        Bottle(policy, guests, certificates, stale, behind=upstream is not None), server
    )
    opts.update(connection_strategy="lazy")
    if not await server.setup_servers():
        raise RuntimeError("the socket cannot be served")
    await master.running()
    return Proxy(master, guests)


__all__ = ["BottleInstance", "BottleUpstreamInstance", "Proxy", "start"]
