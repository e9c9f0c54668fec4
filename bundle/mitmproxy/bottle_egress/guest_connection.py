"""One connection from the guest: the request in progress, and how much of it waits in memory.

mitmproxy reads from a client as fast as it can while a hook or a connection to the upstream is
pending, and queues what it reads, so a guest could fill the host's memory. Therefore nothing is
read while too much waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from .authority import Authority
from .refusal import Refusal
from .request_audit import RequestAudit
from .request_checks import CheckedRequest

MAX_WAITING_BYTES = 256 * 1024


@dataclass(eq=False)
class GuestConnection:
    """`abort` closes the connection."""

    abort: Callable[[], None]
    inside: Authority | None = None
    audit: RequestAudit | None = None
    checked: CheckedRequest | None = None
    pinned: dict[tuple[str, int], str] = field(default_factory=dict)
    _waiting: int = 0
    _behind: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._open.set()

    async def opened(self) -> None:
        await self._open.wait()

    def body_came(self, count: int) -> None:
        self._waiting += count
        self._update()

    def body_left(self, count: int) -> None:
        self._waiting -= count
        self._update()

    def behind(self, count: int) -> None:
        """Sets how many bytes wait behind the request in progress."""
        self._behind = count
        self._update()

    def begin(self, audit: RequestAudit, checked: CheckedRequest | None) -> None:
        self.audit, self.checked, self._waiting = audit, checked, 0

    def end(self, otherwise: Refusal | None = None) -> None:
        """Ends the request in progress: writes its line, and no longer counts what waits of it."""
        if self.audit is not None:
            self.audit.close(otherwise)
        self._waiting = 0
        self._update()

    def _update(self) -> None:
        if self._waiting + self._behind > MAX_WAITING_BYTES:
            self._open.clear()
        else:
            self._open.set()
