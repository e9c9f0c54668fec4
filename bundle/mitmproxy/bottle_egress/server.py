"""Connections: mitmproxy's, but accepted at a Unix socket."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Generic, TypeVar

from mitmproxy import ctx
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, layer, mode_specs, server_hooks
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler, ServerInstance

from .guest_connection import GuestConnection
from .refusal import Refusal

CONNECTIONS = 512
CONNECT_SECONDS = 10.0


class BottleMode(mode_specs.RegularMode):
    """`bottle`: an HTTP proxy at the bottle's socket."""

    description = "bottle"


class BottleUpstreamMode(mode_specs.UpstreamMode):
    """`bottleupstream:http://127.0.0.1:PORT`: the same in front of another proxy."""

    description = "bottle behind a proxy"


class _Named:
    """A stream of a Unix socket, whose ends have names that mitmproxy can print."""

    def __init__(self, stream: Any, guest: GuestConnection) -> None:
        self._stream, self._gate = stream, guest

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (
            ("bottle", 0)
            if name in ("peername", "sockname")
            else self._stream.get_extra_info(name, default)
        )

    async def read(self, count: int) -> bytes:
        await self._gate.opened()
        return await self._stream.read(count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Handler(ProxyConnectionHandler):
    """One connection from the guest."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mode: mode_specs.ProxyMode
    ) -> None:
        self.guest = GuestConnection(abort=self.abort)
        super().__init__(
            ctx.master, _Named(reader, self.guest), _Named(writer, self.guest), ctx.options, mode
        )

    def abort(self) -> None:
        """Closes the connection, and with it those it has to upstreams."""
        transport = self.transports.get(self.client)
        if transport is not None and transport.handler is not None:
            transport.handler.cancel("aborted")

    async def open_connection(self, command: commands.OpenConnection) -> None:
        """As the parent's, within a time; mitmproxy has none of its own for lookup, TCP and TLS."""
        task, audit = asyncio.current_task(), self.guest.audit

        def late() -> None:
            server = command.connection
            if server.timestamp_tls_setup is None if server.tls else not server.connected:
                if audit is not None:
                    audit.refuse(
                        Refusal(
                            "connect-timeout",
                            f"the upstream did not accept in {CONNECT_SECONDS:.0f} s",
                        )
                    )
                if task is not None:
                    task.cancel("connect timeout")

        timer = asyncio.get_running_loop().call_later(CONNECT_SECONDS, late)
        try:
            await super().open_connection(command)
        finally:
            timer.cancel()

    def close_connection(self, connection: Connection, half_close: bool = False) -> None:
        if connection in self.transports:
            super().close_connection(connection, half_close)


M = TypeVar("M", bound=mode_specs.ProxyMode)


class _Instance(ServerInstance[M], Generic[M]):
    """Serves the socket that the runner has bound before anything else happened."""

    listener: socket.socket
    guests: dict[str, GuestConnection]
    top: type[layer.Layer]
    _server: asyncio.Server | None = None

    @property
    def is_running(self) -> bool:
        return self._server is not None

    @property
    def listen_addrs(self) -> tuple[tuple[str, int], ...]:
        return ()

    async def _start(self) -> None:
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._server = await asyncio.start_unix_server(self.handle_stream, sock=_Instance.listener)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()

    def make_top_layer(self, context: Context) -> layer.Layer:
        return self.top(context)

    async def handle_stream(self, reader: Any, writer: Any = None) -> None:
        async with self._slots:  # a full house is not refused but waits
            handler = Handler(reader, writer, self.mode)
            handler.layer = self.make_top_layer(handler.layer.context)
            self.guests[handler.client.id] = handler.guest
            try:
                with self.manager.register_connection(handler.client.id, handler):
                    await handler.handle_client()
            finally:
                handler.guest.end(
                    Refusal("aborted", "the bottle closed the connection before the end")
                )
                del self.guests[handler.client.id]


class BottleInstance(_Instance[BottleMode]):
    top = modes.HttpProxy


class BottleUpstreamInstance(_Instance[BottleUpstreamMode]):
    top = modes.HttpUpstreamProxy


__all__ = ["BottleInstance", "BottleUpstreamInstance", "Handler", "server_hooks"]
