"""mitmproxy, put together: the core, our connections, our addon, and none of its user interface."""

from __future__ import annotations

import socket

import mitmproxy.proxy.layers.http as http_layer
from mitmproxy import options
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.master import Master

from .addon import Bottle, Stale
from .audit import AuditWriter
from .gate import Gate
from .http1 import StrictServer
from .routes import Policy
from .server import BottleInstance, BottleUpstreamInstance, _Instance
from .tls import Leaves


class Proxy:
    """What runs."""

    def __init__(self, master: Master, gates: dict[str, Gate]) -> None:
        self.master, self.gates = master, gates

    def open_requests(self) -> int:
        return sum(1 for g in self.gates.values() if g.ticket is not None and g.ticket.admitted and not g.ticket.done)


async def start(
    policy: Policy, log: AuditWriter, leaves: Leaves, stale: Stale, listener: socket.socket, upstream: str | None
) -> Proxy:
    """Serves `listener`; through the proxy at `upstream` when there is one."""
    gates: dict[str, Gate] = {}
    StrictServer.policy, StrictServer.log, StrictServer.gates = policy, log, gates
    # HttpLayer makes its HTTP/1 server connection by this name (mitmproxy 11.0.2).
    http_layer.Http1Server = StrictServer  # type: ignore[misc]
    _Instance.listener, _Instance.gates = listener, gates

    mode = "bottle" if upstream is None else f"bottleupstream:{upstream}"
    opts = options.Options(mode=[mode], http2=False, websocket=False, rawtcp=False, confdir="/nonexistent")
    master = Master(opts)
    server = Proxyserver()
    master.addons.add(Bottle(policy, gates, leaves, stale, behind=upstream is not None), server)
    opts.update(connection_strategy="lazy")
    if not await server.setup_servers():
        raise RuntimeError("the socket cannot be served")
    await master.running()
    return Proxy(master, gates)


__all__ = ["BottleInstance", "BottleUpstreamInstance", "Proxy", "start"]
