"""The ways in which servers read one path, and matching a path against a pattern
(bundle/src/egress/request/target.rs and readings.rs, policy's PathPattern).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .refusal import Refusal

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPE = re.compile(rb"%(?:([0-9a-fA-F]{2})|[uU]([0-9a-fA-F]{4}))")
_CODE_POINT = re.compile(
    rb"[\xc0-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf7][\x80-\xbf]{3}"
    rb"|[\xf8-\xfb][\x80-\xbf]{4}|[\xfc-\xfd][\x80-\xbf]{5}"
)
_COMPATIBLE = (
    dict.fromkeys((0x2024, 0x3002, 0xFE52, 0xFF61), b".")
    | {0x2025: b"..", 0x2026: b"..."}
    | dict.fromkeys((0x2044, 0x2215, 0x29F8), b"/")
    | dict.fromkeys((0x2216, 0x29F5, 0xFE68), b"\\")
)
_END = re.compile(rb"[?#\x00-\x1f\x7f]")
# Most readings of a path, and most bytes of all of them together.
_MOST, _MOST_BYTES = 64, 256 * 1024
P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """Path and query as the guest wrote them."""

    path: str
    query: str | None

    def __str__(self) -> str:
        return self.path if self.query is None else f"{self.path}?{self.query}"

    def readings(self) -> list[str]:
        """Every way in which a server may read the path, decoded; raises Refusal."""
        most = max(1, min(_MOST, _MOST_BYTES // len(self.path)))
        encoded = _closure([self.path.encode()], _BEFORE_DECODING, most)
        decoded = list(dict.fromkeys(_decode(path) for path in encoded))
        return [
            path.decode("utf-8", "replace") for path in _closure(decoded, _AFTER_DECODING, most)
        ]


def parse(raw: str) -> Target:
    """Raises Refusal for what cannot be sent on safely."""

    def bad(why: str) -> Refusal:
        return Refusal("path", f"the path {why}")

    if not raw.startswith("/"):
        raise bad("does not start with /")
    if not all("!" <= c <= "~" for c in raw):
        raise bad("has a character that must be escaped")
    if "#" in raw:
        raise bad("has a fragment")
    path, mark, query = raw.partition("?")
    if "\\" in path:
        raise bad("has a backslash")
    for escape in path.split("%")[1:]:
        if len(escape) < 2 or not set(escape[:2]) <= _HEX:
            raise bad("has a % that is no escape")
        if int(escape[:2], 16) < 0x20 or int(escape[:2], 16) == 0x7F:
            raise bad("has an escaped control character")
    return Target(path, query if mark else None)


def _closure(paths: list[bytes], steps: Sequence[Step], most: int) -> list[bytes]:
    """All paths that `steps` make of `paths` in any order; raises Refusal."""
    found = dict.fromkeys(paths)
    left = list(paths)
    for path in left:
        for step in steps:
            made = step(path)
            if made not in found:
                if len(found) >= most:
                    raise Refusal("path", "the path can be read in too many different ways")
                found[made] = None
                left.append(made)
    return left


def _decode(path: bytes) -> bytes:
    def character(escape: re.Match[bytes]) -> bytes:
        if escape[1]:
            return bytes([int(escape[1], 16)])
        code = int(escape[2], 16)
        return escape[0] if 0xD800 <= code <= 0xDFFF else chr(code).encode()

    return _ESCAPE.sub(character, path)


def _decode_unreserved(path: bytes) -> bytes:
    def character(escape: re.Match[bytes]) -> bytes:
        byte = int(escape[1], 16) if escape[1] else 0
        return bytes([byte]) if byte in _UNRESERVED else escape[0]

    return _ESCAPE.sub(character, path)


def _fold(path: bytes) -> bytes:
    """Replaces overlong UTF-8 and compatibility forms by the ASCII that lenient decoders make of
    them.
    """

    def character(match: re.Match[bytes]) -> bytes:
        text = match[0]
        code = text[0] & (0x1F, 0x0F, 0x07, 0x03, 0x01)[len(text) - 2]
        for byte in text[1:]:
            code = code << 6 | byte & 0x3F
        if code <= 0x7F:
            return bytes([code])
        if 0xFF01 <= code <= 0xFF5E:
            return bytes([code - 0xFEE0])
        return _COMPATIBLE.get(code, text)

    return _CODE_POINT.sub(character, path)


def _turn_backslashes(path: bytes) -> bytes:
    return path.replace(b"\\", b"/")


def _resolve_dots(path: bytes) -> bytes:
    """RFC 3986 section 5.2.4. Empty segments count as segments."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for n, segment in enumerate(segments):
        if segment not in (b".", b".."):
            kept.append(segment)
            continue
        if segment == b".." and kept:
            kept.pop()
        if n == len(segments) - 1:
            kept.append(b"")  # the path still ends in a slash
    return b"/" + b"/".join(kept)


def _merge_slashes(path: bytes) -> bytes:
    return re.sub(b"/+", b"/", path)


def _drop_parameters(path: bytes) -> bytes:
    return re.sub(b";[^/]*", b"", path)


def _cut_short(path: bytes) -> bytes:
    return _END.split(path, maxsplit=1)[0]


Step = Callable[[bytes], bytes]
_BEFORE_DECODING: Sequence[Step] = (
    _decode_unreserved,
    _resolve_dots,
    _merge_slashes,
    _drop_parameters,
)
_AFTER_DECODING: Sequence[Step] = (
    _decode,
    _fold,
    _turn_backslashes,
    _resolve_dots,
    _merge_slashes,
    _drop_parameters,
    _cut_short,
)


def matches(pattern: str, path: str) -> bool:
    """Whether the pattern means this decoded path."""
    if "*" not in pattern:
        return pattern == path
    wanted = pattern[1:].split("/")
    if wanted[-1] in ("*", "**"):
        wanted[-1:] = ["*", "**"]  # one segment, and then any number
    return _wild(
        wanted, path[1:].split("/"), "**", lambda p, s: _wild(p, s, "*", lambda a, b: a == b)
    )


def _wild(pattern: Sequence[P], items: Sequence[T], star: P, same: Callable[[P, T], bool]) -> bool:
    p = i = 0
    retry: tuple[int, int] | None = None  # the last star, and the item up to which it has taken
    while i < len(items):
        if p < len(pattern) and pattern[p] == star:
            retry = (p, i)
            p += 1
        elif p < len(pattern) and same(pattern[p], items[i]):
            p, i = p + 1, i + 1
        elif retry is not None:
            retry = (retry[0], retry[1] + 1)
            p, i = retry[0] + 1, retry[1]
        else:
            return False
    return all(x == star for x in pattern[p:])
