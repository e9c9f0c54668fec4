"""mitmproxy's hooks: what happens to a request that policy lets through."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable

from mitmproxy import http, tls
from mitmproxy.proxy import commands, events, layer, server_hooks
from mitmproxy.proxy.layers import ClientTLSLayer, HttpLayer, ServerTLSLayer, modes
from mitmproxy.proxy.layers.http import HTTPMode

from . import addresses
from .asks import Ask
from .authority import Authority, address
from .gate import Gate
from .refusal import Refusal
from .routes import HOP, Policy, with_parameter, written
from .ticket import Ticket
from .tls import Leaves, Upstreams

logger = logging.getLogger("bottle")
HANDSHAKE = 0x16
Stale = Callable[[str], None]


class RefuseTunnel(layer.Layer):
    """Says why a tunnel is not opened after all, and closes it."""

    def __init__(self, context: layer.Context, refusal: Refusal) -> None:  # type: ignore[name-defined]
        super().__init__(context)
        self.refusal = refusal

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            yield commands.SendData(self.context.client, self.refusal.response())
            yield commands.CloseConnection(self.context.client)


class Bottle:
    """`behind`: all connections go through another proxy, which looks names up itself."""

    def __init__(self, policy: Policy, gates: dict[str, Gate], leaves: Leaves, stale: Stale, *, behind: bool) -> None:
        self.policy, self.gates, self.leaves, self.stale, self.behind = policy, gates, leaves, stale, behind
        self.upstreams = Upstreams()

    # Layers, from the first byte of a connection on.

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        context = nextlayer.context
        gate = self.gates[context.client.id]
        if isinstance(context.layers[-1], (modes.HttpProxy, modes.HttpUpstreamProxy)):
            mode = HTTPMode.upstream if isinstance(context.layers[-1], modes.HttpUpstreamProxy) else HTTPMode.regular
            nextlayer.layer = HttpLayer(context, mode)
        elif context.client.tls:
            nextlayer.layer = HttpLayer(context, HTTPMode.transparent)
        elif data := nextlayer.data_client():
            if data[0] == HANDSHAKE:
                server = ServerTLSLayer(context)
                server.child_layer = ClientTLSLayer(context)
                nextlayer.layer = server
            else:
                refusal = Refusal("not-tls", f"what came after CONNECT {gate.inside} is not TLS; there are no raw tunnels")
                self._refuse(gate, refusal)
                nextlayer.layer = RefuseTunnel(context, refusal)

    def http_connect(self, flow: http.HTTPFlow) -> None:
        flow.request.headers.clear()

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        data.establish_server_tls_first = False
        gate = self.gates[data.context.client.id]
        to, name = gate.inside, data.client_hello.sni
        if to is None:
            return
        if name is None and to.ip is None:
            self._refuse(gate, Refusal("no-sni", f"TLS to {to} without a server name"))
        elif name is not None and name.lower() != to.host:
            self._refuse(gate, Refusal("sni-mismatch", f"CONNECT was for {to.host}, TLS is for {name}"))

    def tls_start_client(self, data: tls.TlsData) -> None:
        gate = self.gates[data.context.client.id]
        refused = gate.ticket is not None and gate.ticket.refusal is not None
        if gate.inside is not None and not refused:
            data.ssl_conn = self.leaves.connection(gate.inside)

    def tls_established_client(self, data: tls.TlsData) -> None:
        gate = self.gates[data.context.client.id]
        if gate.ticket is not None:
            gate.ticket.forget()

    def tls_failed_client(self, data: tls.TlsData) -> None:
        gate = self.gates[data.context.client.id]
        if gate.ticket is None:
            return
        if (data.conn.error or "").startswith("Cannot parse ClientHello"):
            self._refuse(gate, Refusal("not-tls", f"what came after CONNECT {gate.inside} is not TLS; there are no raw tunnels"))
        gate.ticket.forget()  # a guest that does not trust the bottle's CA asked for nothing

    def tls_start_server(self, data: tls.TlsData) -> None:
        gate = self.gates[data.context.client.id]
        if gate.ask is not None:
            data.ssl_conn = self.upstreams.connection(gate.ask.to, gate.ask.route.ca)

    def tls_failed_server(self, data: tls.TlsData) -> None:
        self._failed(data.context.client.id, Refusal("upstream-tls", f"the upstream's TLS is not acceptable: {data.conn.error}"))

    def server_connect_error(self, data: server_hooks.ServerConnectionHookData) -> None:
        self._failed(data.client.id, Refusal("connect", f"the upstream does not accept connections: {data.server.error}"))

    def client_disconnected(self, client: object) -> None:
        gate = self.gates.get(getattr(client, "id", ""))
        if gate is not None and gate.ticket is not None and gate.ticket.route is None and gate.ticket.refusal is None:
            gate.ticket.forget()  # a tunnel in which nothing was asked

    # Requests.

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        gate = self.gates[flow.client_conn.id]
        ticket, ask = gate.ticket, gate.ask
        if ticket is None or ask is None or flow.error or ticket.refusal is not None:
            flow.kill()
            return
        try:
            ticket.admit()
            if not self.behind:
                await self._pin(flow, gate, ask)
            self._rewrite(flow, ask)
        except Refusal as refusal:
            ticket.refuse(refusal)
            flow.kill()
            return
        flow.request.stream = self._upload(gate, ticket)

    async def _pin(self, flow: http.HTTPFlow, gate: Gate, ask: Ask) -> None:
        """From here on the request is for an address, which no second lookup can change."""
        route, to = ask.route, ask.to
        if route.connect is not None:
            flow.request.data.host, flow.request.data.port = route.connect
            return
        key = (route.name, to.port)
        if key not in gate.pinned:
            gate.pinned[key] = await self._lookup(to, allow_private=route.allow_private)
        flow.request.data.host, flow.request.data.port = gate.pinned[key], to.port

    @staticmethod
    async def _lookup(to: Authority, *, allow_private: bool) -> str:
        found: list[addresses.Address] = [to.ip] if to.ip is not None else []
        if not found:
            try:
                infos = await asyncio.get_running_loop().getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)
            except OSError as e:
                raise Refusal("resolve", f"cannot find {to.host}: {e.strerror or e}") from e
            found = [ip for ip in (address(str(info[4][0])) for info in infos) if ip is not None]
        if not found:
            raise Refusal("resolve", f"{to.host} has no address")
        good = [ip for ip in found if allow_private or addresses.refuse(ip) is None]
        if not good:
            hint = "to allow it, in bottle.toml, in the route: allow_private = true"
            raise Refusal("address", f"{to.host} leads to {found[0]} ({addresses.refuse(found[0])})", hint)
        return str(min(good, key=lambda ip: ip.version))

    def _rewrite(self, flow: http.HTTPFlow, ask: Ask) -> None:
        headers, route = flow.request.headers, ask.route
        _strip(headers, keep=("transfer-encoding", "expect"))
        headers["host"] = ask.to.host_header(443 if ask.tls else 80)
        if ask.destination is not None:
            headers["destination"] = ask.destination
        if route.inject is None:
            return
        name, value = written(route.inject, self.policy.tokens[route.inject.token])
        if route.inject.header is not None:
            # CGI-style servers read x_api_key and x-api-key as one.
            for sent in [n for n in headers.keys() if n.lower().replace("_", "-") == name.replace("_", "-")]:
                del headers[sent]
            headers[name] = value
        else:
            query = with_parameter(ask.target.query, name, value)
            flow.request.data.path = f"{ask.target.path}?{query}".encode()

    @staticmethod
    def _upload(gate: Gate, ticket: Ticket) -> Callable[[bytes], Iterable[bytes]]:
        def pass_on(data: bytes) -> Iterable[bytes]:
            gate.body_left(len(data))
            if not data or ticket.refusal is not None:
                return []
            ticket.up += len(data)
            return [data]

        return pass_on

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        gate = self.gates[flow.client_conn.id]
        ticket, ask, response = gate.ticket, gate.ask, flow.response
        if ticket is None or ask is None or response is None or ticket.refusal is not None:
            flow.kill()
            return
        if response.status_code == 101:
            ticket.refuse(Refusal("upstream", "the upstream switched protocols unasked"))
            flow.kill()
            return
        ticket.status(response.status_code)
        if response.status_code == 401 and ask.route.inject is not None:
            self.stale(ask.route.inject.token)
        closes = "close" in response.headers.get("connection", "").lower()
        _strip(response.headers, keep=("transfer-encoding", "trailer"))
        if closes:
            response.headers["connection"] = "close"
        response.headers.pop("alt-svc", None)  # the guest has no way to HTTP/3
        response.stream = self._download(gate, ticket, ask)

    @staticmethod
    def _download(gate: Gate, ticket: Ticket, ask: Ask) -> Callable[[bytes], Iterable[bytes]]:
        def pass_on(data: bytes) -> Iterable[bytes]:
            if not data or ticket.refusal is not None:
                return []
            try:
                ask.route.spend("down", len(data))
            except Refusal as refusal:
                ticket.refuse(refusal)
                asyncio.get_running_loop().call_soon(gate.abort)
                return []
            ticket.down += len(data)
            return [data]

        return pass_on

    def response(self, flow: http.HTTPFlow) -> None:
        self.gates[flow.client_conn.id].end()

    def error(self, flow: http.HTTPFlow) -> None:
        gate = self.gates.get(flow.client_conn.id)
        if gate is not None and gate.ticket is not None:
            if gate.ticket.refusal is None:
                gate.ticket.refuse(Refusal("upstream", f"the upstream broke off: {flow.error.msg if flow.error else '?'}"))
            gate.end()

    def _failed(self, client_id: str, refusal: Refusal) -> None:
        gate = self.gates.get(client_id)
        if gate is not None and gate.ticket is not None and not gate.ticket.done:
            gate.ticket.refuse(refusal)

    @staticmethod
    def _refuse(gate: Gate, refusal: Refusal) -> None:
        """Refuses the tunnel itself."""
        if gate.ticket is not None:
            gate.ticket.refuse(refusal)
            gate.ticket.close()


def _strip(headers: http.Headers, keep: tuple[str, ...]) -> None:
    """Removes what belongs to one connection: the known names, those that Connection lists, and Proxy-*."""
    listed = {name.strip().lower() for value in headers.get_all("connection") for name in value.split(",")}
    for name in list(headers.keys()):
        lower = name.lower()
        if lower not in keep and (lower in HOP or lower in listed or lower.startswith("proxy-")):
            headers.pop(name, None)
