"""What one connection from the guest has under way, and how much of it waits in memory.

mitmproxy reads from a client as fast as it can while a hook or a connection to the upstream is pending, and queues what
it reads: a guest could fill the host's memory. The gate stops reading while too much waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from .asks import Ask
from .authority import Authority
from .refusal import Refusal
from .ticket import Ticket

WAITING_MAX = 256 * 1024


@dataclass(eq=False)
class Gate:
    """`abort` closes the connection."""

    abort: Callable[[], None]
    inside: Authority | None = None
    ticket: Ticket | None = None
    ask: Ask | None = None
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
        """So many bytes wait behind the request under way."""
        self._behind = count
        self._update()

    def begin(self, ticket: Ticket, ask: Ask | None) -> None:
        self.ticket, self.ask, self._waiting = ticket, ask, 0

    def end(self, otherwise: Refusal | None = None) -> None:
        """The request under way is over: its line is written, what waits of it does not count any more."""
        if self.ticket is not None:
            self.ticket.close(otherwise)
        self._waiting = 0
        self._update()

    def _update(self) -> None:
        if self._waiting + self._behind > WAITING_MAX:
            self._open.clear()
        else:
            self._open.set()


class Shared:
    """What all connections share; filled in by the runner before the first one."""

    def __init__(self) -> None:
        self.gates: dict[str, Gate] = {}

    def gate(self, client_id: str) -> Gate:
        return self.gates[client_id]
