"""The audit lines of one request: one before anything of it leaves, and one at its end, exactly
once.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from .audit import AuditError, AuditWriter, Line
from .authority import Authority
from .refusal import Refusal, unrecorded

if TYPE_CHECKING:
    from .routes import Route

logger = logging.getLogger("bottle")


class RequestAudit:
    """The audit lines of one request, until they are written."""

    def __init__(self, log: AuditWriter, inside: Authority | None = None) -> None:
        self._log = log
        self._started = time.monotonic()
        self._event: dict[str, Any] = {"daemon": "egress", "event": "request", "verdict": "allow"}
        self.route: Route | None = None
        self.admitted = False
        self.done = False
        self.refusal: Refusal | None = None
        self.up = self.down = 0
        self.body = 0
        if inside is not None:
            self.set_destination(inside)

    def set_destination(self, to: Authority) -> None:
        self._event |= {"host": to.host, "port": to.port}

    def set_request(self, method: str, path: str | None, query: str | None) -> None:
        self._event |= {
            "method": method,
            "path": path,
            "query_bytes": None if query is None else len(query),
        }

    def set_route(self, route: Route) -> None:
        self.route = route
        self._event["route"] = route.name

    def set_status(self, status: int) -> None:
        self._event["status"] = status

    def count_body(self, count: int) -> None:
        """Counts body bytes from the guest; raises Refusal if there are too many."""
        self.body += count
        if self.route is None:
            return
        if self.route.max_body is not None and self.body > self.route.max_body:
            raise Refusal("max-body", f"the body is over this route's {self.route.max_body} bytes")
        self.route.spend("up", count)

    def admit(self) -> None:
        """Writes the opening line. Nothing of the request may leave before, not even a name lookup.
        Raises Refusal.
        """
        try:
            seq = self._log.append(Line.OPENING, self._event | {"event": "admitted"})
        except AuditError as e:
            _log_failure(e)
            raise unrecorded() from e
        self.admitted = True
        self._event["admitted"] = seq

    def refuse(self, refusal: Refusal) -> None:
        """Sets why this request ends. The first reason counts, and is the guest's answer if it can
        still get one.
        """
        if self.refusal is None:
            self.refusal = refusal

    def close(self, otherwise: Refusal | None = None) -> None:
        """Writes the closing line: with the refusal if there is one, or `otherwise`, or else the
        answer.
        """
        if self.done:
            return
        self.done = True
        event = dict(self._event)
        if (refusal := self.refusal or otherwise) is not None:
            if refusal.denial:
                event |= {"event": "refused", "verdict": "deny"}
            event |= {"rule": refusal.code, "reason": refusal.reason, "hint": refusal.hint}
            event.setdefault("status", refusal.status)
        event |= {
            "bytes_up": self.up,
            "bytes_down": self.down,
            "ms": int((time.monotonic() - self._started) * 1000),
        }
        try:
            self._log.append(Line.CLOSING if self.admitted else Line.REFUSAL, event)
        except AuditError as e:
            _log_failure(e)

    def discard(self) -> None:
        """Writes no line, such as for a tunnel in which each request has lines of its own."""
        self.done = True


def _log_failure(e: AuditError) -> None:
    if "closed" not in str(e):
        logger.error("%s; no request is accepted any more", e)
