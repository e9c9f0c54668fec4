"""mitmproxy's hooks: what happens to a request that the policy allows."""

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
from .authority import Authority, address
from .guest_connection import GuestConnection
from .refusal import Refusal
from .request_audit import RequestAudit
from .request_checks import CheckedRequest
from .routes import HOP, Policy, with_parameter, written
from .tls import LeafCertificates, Upstreams

logger = logging.getLogger("bottle")
HANDSHAKE = 0x16
Stale = Callable[[str], None]


class RefuseTunnel(layer.Layer):
    """Tells the guest why its tunnel is refused, and closes it."""

    def __init__(self, context: layer.Context, refusal: Refusal) -> None:  # type: ignore[name-defined]
        super().__init__(context)
        self.refusal = refusal

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            yield commands.SendData(self.context.client, self.refusal.response())
            yield commands.CloseConnection(self.context.client)


class Bottle:
    """With `behind`, all connections go through another proxy, which looks names up itself."""

    def __init__(
        self,
        policy: Policy,
        guests: dict[str, GuestConnection],
        certificates: LeafCertificates,
        stale: Stale,
        *,
        behind: bool,
    ) -> None:
        self.policy, self.guests, self.certificates, self.stale, self.behind = (
            policy,
            guests,
            certificates,
            stale,
            behind,
        )
        self.upstreams = Upstreams()

    # Layers, from the first byte of a connection on.

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        context = nextlayer.context
        guest = self.guests[context.client.id]
        if isinstance(context.layers[-1], (modes.HttpProxy, modes.HttpUpstreamProxy)):
            mode = (
                HTTPMode.upstream
                if isinstance(context.layers[-1], modes.HttpUpstreamProxy)
                else HTTPMode.regular
            )
            nextlayer.layer = HttpLayer(context, mode)
        elif context.client.tls:
            nextlayer.layer = HttpLayer(context, HTTPMode.transparent)
        elif data := nextlayer.data_client():
            if data[0] == HANDSHAKE:
                server = ServerTLSLayer(context)
                server.child_layer = ClientTLSLayer(context)
                nextlayer.layer = server
            else:
                refusal = Refusal(
                    "not-tls",
                    f"what came after CONNECT {guest.inside} is not TLS; there are no raw tunnels",
                )
                self._refuse(guest, refusal)
                nextlayer.layer = RefuseTunnel(context, refusal)

    def http_connect(self, flow: http.HTTPFlow) -> None:
        flow.request.headers.clear()

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        data.establish_server_tls_first = False
        guest = self.guests[data.context.client.id]
        to, name = guest.inside, data.client_hello.sni
        if to is None:
            return
        if name is None and to.ip is None:
            self._refuse(guest, Refusal("no-sni", f"TLS to {to} without a server name"))
        elif name is not None and name.lower() != to.host:
            self._refuse(
                guest, Refusal("sni-mismatch", f"CONNECT was for {to.host}, TLS is for {name}")
            )

    def tls_start_client(self, data: tls.TlsData) -> None:
        guest = self.guests[data.context.client.id]
        refused = guest.audit is not None and guest.audit.refusal is not None
        if guest.inside is not None and not refused:
            data.ssl_conn = self.certificates.connection(guest.inside)

    def tls_established_client(self, data: tls.TlsData) -> None:
        guest = self.guests[data.context.client.id]
        if guest.audit is not None:
            guest.audit.discard()

    def tls_failed_client(self, data: tls.TlsData) -> None:
        guest = self.guests[data.context.client.id]
        if guest.audit is None:
            return
        if (data.conn.error or "").startswith("Cannot parse ClientHello"):
            self._refuse(
                guest,
                Refusal(
                    "not-tls",
                    f"what came after CONNECT {guest.inside} is not TLS; there are no raw tunnels",
                ),
            )
        guest.audit.discard()  # a guest that does not trust the bottle's CA has sent no request

    def tls_start_server(self, data: tls.TlsData) -> None:
        guest = self.guests[data.context.client.id]
        if guest.checked is not None:
            data.ssl_conn = self.upstreams.connection(guest.checked.to, guest.checked.route.ca)

    def tls_failed_server(self, data: tls.TlsData) -> None:
        self._failed(
            data.context.client.id,
            Refusal("upstream-tls", f"the upstream's TLS is not acceptable: {data.conn.error}"),
        )

    def server_connect_error(self, data: server_hooks.ServerConnectionHookData) -> None:
        self._failed(
            data.client.id,
            Refusal("connect", f"the upstream does not accept connections: {data.server.error}"),
        )

    def client_disconnected(self, client: object) -> None:
        guest = self.guests.get(getattr(client, "id", ""))
        if (
            guest is not None
            and guest.audit is not None
            and guest.audit.route is None
            and guest.audit.refusal is None
        ):
            guest.audit.discard()  # a tunnel without a request

    # Requests.

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        guest = self.guests[flow.client_conn.id]
        audit, checked = guest.audit, guest.checked
        if audit is None or checked is None or flow.error or audit.refusal is not None:
            flow.kill()
            return
        try:
            audit.admit()
            if not self.behind:
                await self._pin(flow, guest, checked)
            self._rewrite(flow, checked)
        except Refusal as refusal:
            audit.refuse(refusal)
            flow.kill()
            return
        flow.request.stream = self._upload(guest, audit)

    async def _pin(
        self, flow: http.HTTPFlow, guest: GuestConnection, checked: CheckedRequest
    ) -> None:
        """Replaces the host by an address, so that no second lookup can change it."""
        route, to = checked.route, checked.to
        if route.connect is not None:
            flow.request.data.host, flow.request.data.port = route.connect
            return
        key = (route.name, to.port)
        if key not in guest.pinned:
            guest.pinned[key] = await self._lookup(to, allow_private=route.allow_private)
        flow.request.data.host, flow.request.data.port = guest.pinned[key], to.port

    @staticmethod
    async def _lookup(to: Authority, *, allow_private: bool) -> str:
        found: list[addresses.Address] = [to.ip] if to.ip is not None else []
        if not found:
            try:
                infos = await asyncio.get_running_loop().getaddrinfo(
                    to.host, to.port, type=socket.SOCK_STREAM
                )
            except OSError as e:
                raise Refusal("resolve", f"cannot find {to.host}: {e.strerror or e}") from e
            found = [ip for ip in (address(str(info[4][0])) for info in infos) if ip is not None]
        if not found:
            raise Refusal("resolve", f"{to.host} has no address")
        good = [ip for ip in found if allow_private or addresses.refuse(ip) is None]
        if not good:
            hint = "to allow it, in bottle.toml, in the route: allow_private = true"
            raise Refusal(
                "address", f"{to.host} leads to {found[0]} ({addresses.refuse(found[0])})", hint
            )
        return str(min(good, key=lambda ip: ip.version))

    def _rewrite(self, flow: http.HTTPFlow, checked: CheckedRequest) -> None:
        headers, route = flow.request.headers, checked.route
        _strip(headers, keep=("transfer-encoding", "expect"))
        headers["host"] = checked.to.host_header(443 if checked.tls else 80)
        if route.inject is None:
            return
        name, value = written(route.inject, self.policy.tokens[route.inject.token])
        if route.inject.header is not None:
            # CGI-style servers do not tell x_api_key and x-api-key apart.
            for sent in [
                n for n in headers.keys() if n.lower().replace("_", "-") == name.replace("_", "-")
            ]:
                del headers[sent]
            headers[name] = value
        else:
            query = with_parameter(checked.target.query, name, value)
            flow.request.data.path = f"{checked.target.path}?{query}".encode()

    @staticmethod
    def _upload(guest: GuestConnection, audit: RequestAudit) -> Callable[[bytes], Iterable[bytes]]:
        def pass_on(data: bytes) -> Iterable[bytes]:
            guest.body_left(len(data))
            if not data or audit.refusal is not None:
                return []
            audit.up += len(data)
            return [data]

        return pass_on

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        guest = self.guests[flow.client_conn.id]
        audit, checked, response = guest.audit, guest.checked, flow.response
        if audit is None or checked is None or response is None or audit.refusal is not None:
            flow.kill()
            return
        if response.status_code == 101:
            audit.refuse(Refusal("upstream", "the upstream switched protocols unasked"))
            flow.kill()
            return
        audit.set_status(response.status_code)
        if response.status_code == 401 and checked.route.inject is not None:
            self.stale(checked.route.inject.token)
        closes = "close" in response.headers.get("connection", "").lower()
        _strip(response.headers, keep=("transfer-encoding", "trailer"))
        if closes:
            response.headers["connection"] = "close"
        response.headers.pop("alt-svc", None)  # the guest cannot reach HTTP/3
        response.stream = self._download(guest, audit, checked)

    @staticmethod
    def _download(
        guest: GuestConnection, audit: RequestAudit, checked: CheckedRequest
    ) -> Callable[[bytes], Iterable[bytes]]:
        def pass_on(data: bytes) -> Iterable[bytes]:
            if not data or audit.refusal is not None:
                return []
            try:
                checked.route.spend("down", len(data))
            except Refusal as refusal:
                audit.refuse(refusal)
                asyncio.get_running_loop().call_soon(guest.abort)
                return []
            audit.down += len(data)
            return [data]

        return pass_on

    def response(self, flow: http.HTTPFlow) -> None:
        self.guests[flow.client_conn.id].end()

    def error(self, flow: http.HTTPFlow) -> None:
        guest = self.guests.get(flow.client_conn.id)
        if guest is not None and guest.audit is not None:
            if guest.audit.refusal is None:
                guest.audit.refuse(
                    Refusal(
                        "upstream",
                        f"the upstream broke off: {flow.error.msg if flow.error else '?'}",
                    )
                )
            guest.end()

    def _failed(self, client_id: str, refusal: Refusal) -> None:
        guest = self.guests.get(client_id)
        if guest is not None and guest.audit is not None and not guest.audit.done:
            guest.audit.refuse(refusal)

    @staticmethod
    def _refuse(guest: GuestConnection, refusal: Refusal) -> None:
        """Refuses the tunnel itself."""
        if guest.audit is not None:
            guest.audit.refuse(refusal)
            guest.audit.close()


def _strip(headers: http.Headers, keep: tuple[str, ...]) -> None:
    """Removes the headers of one connection: the known names, those that Connection lists, and
    Proxy-*.
    """
    listed = {
        name.strip().lower() for value in headers.get_all("connection") for name in value.split(",")
    }
    for name in list(headers.keys()):
        lower = name.lower()
        if lower not in keep and (lower in HOP or lower in listed or lower.startswith("proxy-")):
            headers.pop(name, None)
