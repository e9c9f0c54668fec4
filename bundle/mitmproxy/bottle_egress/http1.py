"""The guest's side of HTTP/1: mitmproxy's server connection with our reader in front and our
refusals behind.
"""

from __future__ import annotations

from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http import status_codes
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp

from . import request_checks
from .audit import AuditWriter
from .guest_connection import GuestConnection
from .head import Chunked, Head, HeadReader, Sized
from .refusal import Refusal, unrecorded
from .request_audit import RequestAudit
from .routes import Policy

Commands = layer.CommandGenerator[None]


class StrictServer(_http1.Http1Server):
    """Replaces `Http1Server` of mitmproxy 11.0.2, with another reader."""

    policy: Policy
    log: AuditWriter
    guests: dict[str, GuestConnection]

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.guest = self.guests[context.client.id]
        self.inside = self.guest.inside
        self.head = HeadReader()
        self.body: Sized | Chunked = Sized(0)
        self.audit: RequestAudit | None = None
        self.closing = False
        self.http10 = False

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if isinstance(event, events.ConnectionClosed):
            yield commands.CloseConnection(self.conn)
            return
        data = self.buf._data  # a bytearray, h11 0.14
        audit = RequestAudit(self.log, self.inside)
        try:
            found = self.head.feed(data)
            if found is None:
                return
            size, head = found
            self.buf.maybe_extract_at_most(size)
            self.head = HeadReader()
            if self.log.closed:
                raise unrecorded()
            self.request, checked = self._request(head, audit)
        except Refusal as refusal:
            self.guest.begin(audit, None)
            audit.refuse(refusal)
            self.guest.end()
            yield from self._answer_and_close(refusal)
            return
        self.audit = audit
        self.guest.begin(audit, checked)
        tokens = (head.get(b"connection") or b"").lower().replace(b" ", b"").split(b",")
        self.http10 = head.http10
        self.closing = head.http10 or b"close" in tokens
        self.body = Chunked() if head.length is None else Sized(head.length)
        self.state = self.read_body
        yield ReceiveHttp(
            http_events.RequestHeaders(self.stream_id, self.request, head.length == 0)
        )
        yield from self.state(event)

    def _request(
        self, head: Head, audit: RequestAudit
    ) -> tuple[http.Request, request_checks.CheckedRequest | None]:
        """The request as mitmproxy sees it: only what was checked."""
        checked: request_checks.CheckedRequest | None = None
        host, port, scheme, authority, path = "", 0, b"", b"", b""
        if head.method == "CONNECT":
            if self.inside is not None:
                audit.set_request("CONNECT", None, None)
                raise Refusal("nested-connect", "CONNECT inside a tunnel")
            self.guest.inside = to = request_checks.tunnel(head, self.policy, audit)
            host, port, authority = to.host, to.port, str(to).encode()
        else:
            checked = request_checks.request(head, self.inside, self.policy, audit)
            path = str(checked.target).encode()
            if self.inside is None:
                host, port, scheme, authority = (
                    checked.to.host,
                    checked.to.port,
                    b"http",
                    checked.to.host_header(80).encode(),
                )
        request = http.Request(
            host=host, port=port, method=head.method.encode(), scheme=scheme, authority=authority, path=path,
            http_version=b"HTTP/1.1", headers=http.Headers(head.headers), content=None, trailers=None,
            timestamp_start=self.context.client.timestamp_start or 0.0, timestamp_end=None,
        )  # fmt: skip
        return request, checked

    def read_body(self, event: events.Event) -> Commands:
        assert self.stream_id is not None and self.audit is not None and self.request is not None
        if isinstance(event, events.ConnectionClosed):
            yield from self._gone()
            return
        try:
            data, done = self.body.feed(self.buf._data)
            if data:
                self.audit.count_body(len(data))
        except Refusal as refusal:
            self.audit.refuse(refusal)
            if self.response is None:
                yield commands.SendData(self.conn, refusal.response())
            yield ReceiveHttp(
                http_events.RequestProtocolError(self.stream_id, refusal.reason, refusal.status)
            )
            yield commands.CloseConnection(self.conn)
            self.state = self.done
            return
        if data:
            self.guest.body_came(len(data))
            yield ReceiveHttp(http_events.RequestData(self.stream_id, data))
        if done:
            if self.request.method != "CONNECT":
                yield ReceiveHttp(http_events.RequestEndOfMessage(self.stream_id))
            yield from self.mark_done(request=True)

    def wait(self, event: events.Event) -> Commands:
        if isinstance(event, events.ConnectionClosed):
            yield from self._gone()
        else:
            self.guest.behind(len(self.buf))

    def _gone(self) -> Commands:
        assert self.stream_id is not None and self.audit is not None
        self.audit.refuse(Refusal("aborted", "the bottle closed the connection before the end"))
        yield commands.CloseConnection(self.conn)
        yield ReceiveHttp(
            http_events.RequestProtocolError(
                self.stream_id, "client closed", status_codes.CLIENT_CLOSED_REQUEST
            )
        )
        self.state = self.done

    def done(self, event: events.ConnectionEvent) -> Commands:
        self.buf._data.clear()
        yield from ()

    def send(self, event: http_events.HttpEvent) -> Commands:
        if isinstance(event, http_events.ResponseHeaders) and event.response.status_code == 100:
            if not self.http10:  # an answer to Expect; the response is still to come
                yield commands.SendData(self.conn, b"HTTP/1.1 100 Continue\r\n\r\n")
        elif isinstance(event, http_events.ResponseProtocolError):
            refusal = (self.audit and self.audit.refusal) or Refusal("upstream", event.message)
            if self.response is None:
                yield from self._answer_and_close(refusal)
            else:
                yield commands.CloseConnection(self.conn)
                self.state = self.done
        else:
            yield from super().send(event)

    def _answer_and_close(self, refusal: Refusal) -> Commands:
        if self.conn.state & ConnectionState.CAN_WRITE:
            head_only = self.request is not None and self.request.method == "HEAD"
            yield commands.SendData(self.conn, refusal.response(head_only=head_only))
        yield commands.CloseConnection(self.conn)
        self.state = self.done

    def mark_done(self, *, request: bool = False, response: bool = False) -> Commands:
        """As the parent's, but whether to close is what the guest said, which `addon` has taken out
        of the headers.
        """
        self.request_done |= request
        self.response_done |= response
        both = self.request_done and self.response_done
        assert self.request is not None
        if (
            both
            and self.closing
            and not (self.response and _http1.should_make_pipe(self.request, self.response))
        ):
            yield commands.CloseConnection(self.conn)
            self.state = self.done
            return
        yield from super().mark_done()
        self.guest.behind(len(self.buf))
