"""Appending to the bottle's hash-chained audit log (format and bounds: policy/src/audit)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import Any

GENESIS = "0" * 64
FIELD_CAP = 512
CAPS = {"daemon": 64, "event": 64, "rule": 64, "method": 32, "host": 255, "route": 128}
BYTES = 256 << 20
REFUSALS_PER_SECOND = 200
REFUSAL_BURST = 1000
_TAIL = 1 << 19
_HIDDEN = {*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF}


class Line(Enum):
    """OPENING: something is about to happen. CLOSING: the end of it, written even when the bytes are spent.
    REFUSAL: nothing happened; may be only counted."""

    OPENING = auto()
    CLOSING = auto()
    REFUSAL = auto()


class AuditError(Exception):
    """The log cannot be written; nothing may be let through."""


class AuditWriter:
    """The one writer of a log. A line is a single write(2)."""

    def __init__(self, path: Path, daemon: str) -> None:
        self.path, self.daemon = path, daemon
        self._seq, self._prev, self._left = 0, GENESIS, BYTES
        self._failed = self._spent = False
        self._tokens, self._filled = float(REFUSAL_BURST), time.monotonic()
        self._suppressed, self._counted = 0, float("-inf")
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover()
        except BlockingIOError as e:
            raise AuditError(f"audit log {path} is in use by another process") from e
        except OSError as e:
            raise AuditError(f"audit log {path}: {e.strerror}") from e

    @property
    def closed(self) -> bool:
        return self._failed or self._spent

    def append(self, line: Line, event: dict[str, Any]) -> int | None:
        """The line's seq; None for a refusal that was only counted. Raises AuditError, from then on
        always.
        """
        if self._failed or (self._spent and line is not Line.CLOSING):
            raise AuditError(f"audit log {self.path} is closed")
        written = line is not Line.REFUSAL or self._take()
        if line is not Line.CLOSING:
            self._count_suppressed(at_once=False)
        return self._write(line, event) if written else None

    def finish(self) -> None:
        """Accounts for refusals that had no line."""
        if not self._failed:
            self._count_suppressed(at_once=True)

    def _take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(
            float(REFUSAL_BURST), self._tokens + (now - self._filled) * REFUSALS_PER_SECOND
        )
        self._filled = now
        if self._tokens < 1:
            self._suppressed += 1
            return False
        self._tokens -= 1
        return True

    def _count_suppressed(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if not self._suppressed or not (at_once or now - self._counted >= 1):
            return
        count, self._suppressed, self._counted = self._suppressed, 0, now
        self._write(Line.CLOSING, self._own("suppressed", f"{count} refusals not written", "deny"))

    def _own(self, event: str, reason: str, verdict: str) -> dict[str, Any]:
        return {"daemon": self.daemon, "event": event, "verdict": verdict, "reason": reason}

    def _write(self, line: Line, event: dict[str, Any]) -> int:
        text, digest = self._link(event)
        if len(text) > self._left and line is not Line.CLOSING:
            self._spent = True
            said = self._own(
                "spent",
                f"budget spent: {BYTES} bytes for this run; nothing more is let through",
                "deny",
            )
            self._put(*self._link(said))
            raise AuditError(f"audit log {self.path}: the {BYTES} bytes for this run are spent")
        self._left = max(0, self._left - len(text))
        return self._put(text, digest)

    def _link(self, event: dict[str, Any]) -> tuple[bytes, str]:
        now = datetime.now(UTC)
        record = {
            "v": 1,
            "seq": self._seq + 1,
            "time": f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}Z",
        }
        record |= {
            key: _clean(value, CAPS.get(key, FIELD_CAP))
            for key, value in event.items()
            if value is not None
        }
        record["prev"] = self._prev
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )[:-1]
        digest = hashlib.sha256(self._prev.encode() + text).hexdigest()
        return text + b',"hash":"' + digest.encode() + b'"}\n', digest

    def _put(self, text: bytes, digest: str) -> int:
        try:
            whole = os.write(self._fd, text) == len(text)
        except OSError as e:
            self._failed = True
            raise AuditError(f"audit log {self.path}: {e.strerror}") from e
        if not whole:
            self._failed = True
            raise AuditError(f"audit log {self.path}: the disk is full")
        self._seq, self._prev = self._seq + 1, digest
        return self._seq

    def _recover(self) -> None:
        """Reads the last line, and removes an unfinished one (a machine that stopped in the middle
        of a write).
        """
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, min(size, _TAIL), max(0, size - _TAIL))
        whole, _, torn = tail.rpartition(b"\n")
        if whole:
            last = whole.rpartition(b"\n")[2]
            body, claimed = last[:-75], last[-75:]
            try:
                record = json.loads(last)
                self._seq, self._prev = int(record["seq"]), str(record["hash"])
                right = hashlib.sha256(record["prev"].encode() + body).hexdigest() == record["hash"]
            except (ValueError, KeyError, TypeError, AttributeError):
                right = False
            if not right or claimed != b',"hash":"' + self._prev.encode() + b'"}':
                raise AuditError(
                    f"audit log {self.path}: its last line was changed; keep the file as evidence, move it away and start again"
                )
        if torn:
            os.ftruncate(self._fd, size - len(torn))
            self.append(
                Line.OPENING,
                self._own(
                    "recovered", f"{len(torn)} bytes of an unfinished line were removed", "allow"
                ),
            )


def _clean(value: Any, cap: int) -> Any:
    """Text in at most `cap` characters and a `…`, with what a terminal would act on as `\\u{…}`."""
    if not isinstance(value, str):
        return value
    out: list[str] = []
    left = cap
    for c in value[: cap + 1]:
        code = ord(c)
        control = code < 0x20 or 0x7F <= code < 0xA0 or code in _HIDDEN or 0xD800 <= code < 0xE000
        shown = f"\\u{{{code:x}}}" if control else c
        if len(shown) > left:
            return "".join(out) + "…"
        left -= len(shown)
        out.append(shown)
    return "".join(out)
