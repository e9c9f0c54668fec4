"""One spelling for a path, and matching it (bundle/src/egress/request/target.rs, policy's PathPattern)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .refusal import Refusal

_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """`path` has no dot segment, no `//` and no needless escape; `query` is as sent; `encoded_slash`: it holds %2F."""

    path: str
    query: str | None
    encoded_slash: bool

    def __str__(self) -> str:
        return self.path if self.query is None else f"{self.path}?{self.query}"


def normalise(raw: str) -> Target:
    """Raises Refusal for what servers are known to read differently."""

    def bad(why: str) -> Refusal:
        return Refusal("path", f"the path {why}")

    if not raw.startswith("/"):
        raise bad("does not start with /")
    if not all("!" <= c <= "~" for c in raw):
        raise bad("has a character that must be escaped")
    if "#" in raw:
        raise bad("has a fragment")
    path, mark, rest = raw.partition("?")
    decoded, encoded_slash = _decode(path, bad)
    segments: list[str] = []
    parts = decoded.split("/")[1:]
    for part in parts:
        if part in ("", "."):
            continue
        if part == "..":
            if segments:
                segments.pop()
        elif part.startswith((".;", "..;")):
            raise bad("has a dot segment with a parameter")
        else:
            segments.append(part)
    normal = "".join(f"/{s}" for s in segments)
    if not segments or parts[-1] in ("", ".", ".."):
        normal += "/"
    return Target(normal, rest if mark else None, encoded_slash)


def _decode(path: str, bad: Callable[[str], Refusal]) -> tuple[str, bool]:
    out: list[str] = []
    encoded_slash = False
    at = 0
    while at < len(path):
        c = path[at]
        at += 1
        if c == "\\":
            raise bad("has a backslash")
        if c != "%":
            out.append(c)
            continue
        digits = path[at : at + 2]
        if len(digits) != 2 or not all(d in "0123456789abcdefABCDEF" for d in digits):
            raise bad("has a % that is no escape")
        at += 2
        code = int(digits, 16)
        if code == 0x5C:
            raise bad("has an escaped backslash")
        if code < 0x20 or code == 0x7F:
            raise bad("has an escaped control character")
        if chr(code) in _UNRESERVED:
            out.append(chr(code))
        else:
            encoded_slash |= code == 0x2F
            out.append(f"%{code:02X}")
    return "".join(out), encoded_slash


def matches(pattern: str, path: str) -> bool:
    """Whether the pattern means this *normalised* path."""
    if "*" not in pattern:
        return pattern == path
    wanted = pattern[1:].split("/")
    if wanted[-1] in ("*", "**"):
        wanted[-1:] = ["*", "**"]  # one segment, and then any number
    return _wild(wanted, path[1:].split("/"), "**", lambda p, s: _wild(p, s, "*", lambda a, b: a == b))


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
