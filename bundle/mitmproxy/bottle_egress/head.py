"""The head of a request, byte by byte, and the body behind it (bundle/src/egress/http1, RFC 9112).

mitmproxy's own reader takes bare LF, folded lines and superfluous white space, and repairs framing; what is repaired is
not seen. So requests are read here, and mitmproxy gets only what has one reading.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .refusal import Refusal

MAX_HEAD = 60 * 1024
MAX_LINES = 100
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_METHOD = re.compile(rb"[A-Z-]{1,32}\Z")
_TARGET = re.compile(rb"[\x21-\x7e]+\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")


@dataclass(frozen=True)
class Head:
    """`length` of the body in bytes; None: chunked."""

    method: str
    target: str
    http10: bool
    headers: list[tuple[bytes, bytes]]
    length: int | None

    def get(self, name: bytes) -> bytes | None:
        return next((v for n, v in self.headers if n.lower() == name), None)


class HeadReader:
    """Finds the end of a head in a buffer that grows."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, int]] = []
        self._start = self._scanned = 0

    def feed(self, data: bytes | bytearray) -> tuple[int, Head] | None:
        """The head's length in bytes and what it says, once it is complete; raises Refusal."""
        while (lf := data.find(b"\n", self._scanned)) >= 0:
            if lf == self._start or data[lf - 1] != 0x0D:
                raise Refusal("bare-lf", "a line ends without CR")
            start, end = self._start, lf - 1
            self._start = self._scanned = lf + 1
            if start == end and self._lines:
                lines = [bytes(data[a:b]) for a, b in self._lines]
                return lf + 1, _read(lines)
            self._lines.append((start, end))
            if len(self._lines) > MAX_LINES:
                raise Refusal("head-too-large", "too many header lines")
        self._scanned = len(data)
        if len(data) > MAX_HEAD:
            raise Refusal("head-too-large", "the head is too large")
        return None


def _read(lines: list[bytes]) -> Head:
    method, target, http10 = _request_line(lines[0])
    headers: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t"):
            raise Refusal("obs-fold", "a header goes on in a second line")
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.match(name):
            raise Refusal("header-name", "a header name has a character it cannot have")
        value = value.strip(b" \t\r")
        if _CONTROL.search(value):
            raise Refusal("header-value", "a header value has a control character")
        headers.append((name, value))

    def values(name: bytes) -> list[bytes]:
        return [v for n, v in headers if n.lower() == name]

    hosts, lengths, codings = values(b"host"), values(b"content-length"), values(b"transfer-encoding")
    connect = method == "CONNECT"
    if len(hosts) > 1:
        raise Refusal("duplicate-host", "more than one Host")
    if not hosts and not connect:
        raise Refusal("missing-host", "no Host")
    if lengths and codings:
        raise Refusal("te-and-cl", "both Transfer-Encoding and Content-Length")
    if len(lengths) > 1:
        raise Refusal("duplicate-length", "more than one Content-Length")
    if codings and (http10 or len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise Refusal("transfer-encoding", "Transfer-Encoding is not one chunked, of HTTP/1.1")
    if lengths and not _LENGTH.match(lengths[0]):
        raise Refusal("length", "Content-Length is no plain number")
    length = None if codings else int(lengths[0]) if lengths else 0
    if connect and length != 0:
        raise Refusal("connect-body", "CONNECT has no body")
    return Head(method, target, http10, headers, length)


def _request_line(line: bytes) -> tuple[str, str, bool]:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise Refusal("request-line", "the first line is not METHOD TARGET VERSION")
    method, target, version = parts
    if not _METHOD.match(method):
        raise Refusal("request-line", "not a method")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise Refusal("request-line", "not HTTP/1.1")
    if b"#" in target:
        raise Refusal("path", "the path has a fragment")
    if b"\\" in target:
        raise Refusal("path", "the path has a backslash")
    if not _TARGET.match(target):
        raise Refusal("request-line", "not a request target")
    return method.decode(), target.decode(), version == b"HTTP/1.0"


class Sized:
    """A body of a known length."""

    def __init__(self, length: int) -> None:
        self._left = length

    def feed(self, data: bytearray) -> tuple[bytes, bool]:
        """Takes the body's bytes off the front of `data`; whether the body ends with them."""
        part = bytes(data[: self._left])
        del data[: len(part)]
        self._left -= len(part)
        return part, self._left == 0


class Chunked:
    """A chunked body: no extensions, no trailers, CRLF only."""

    def __init__(self) -> None:
        self._left = 0
        self._state = "size"

    def feed(self, data: bytearray) -> tuple[bytes, bool]:
        out: list[bytes] = []
        while data:
            if self._state == "data":
                part = bytes(data[: self._left])
                del data[: len(part)]
                out.append(part)
                self._left -= len(part)
                if self._left:
                    break
                self._state = "data end"
            elif self._state == "size":
                line = _SIZE_LINE.match(data)
                if line is None:
                    if len(data) < 17 and re.match(rb"[0-9A-Fa-f]{1,15}\r?\Z", data):
                        break
                    raise Refusal("chunk", "a chunk is not strictly formed")
                self._left = int(line[1], 16)
                self._state = "data" if self._left else "body end"
                del data[: line.end()]
            else:
                if not b"\r\n".startswith(data[:2]):
                    raise Refusal("chunk", "a chunk is not strictly formed")
                if len(data) < 2:
                    break
                del data[:2]
                if self._state == "body end":
                    return b"".join(out), True
                self._state = "size"
        return b"".join(out), False
