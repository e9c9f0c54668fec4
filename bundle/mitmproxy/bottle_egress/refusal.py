"""Why a request is not answered. Codes and statuses are those of bundle/src/egress/refusal.rs."""

from __future__ import annotations

STATUS: dict[str, int] = {
    "bare-lf": 400, "obs-fold": 400, "request-line": 400, "header-name": 400, "header-value": 400, "te-and-cl": 400,
    "transfer-encoding": 400, "duplicate-length": 400, "length": 400, "duplicate-host": 400, "missing-host": 400,
    "connect-body": 400, "chunk": 400, "head-too-large": 431,
    "authority": 400, "userinfo": 400, "no-route": 403, "not-tls": 403, "no-sni": 403, "sni-mismatch": 403,
    "host-mismatch": 421, "not-proxy-form": 400, "https-absolute": 400, "nested-connect": 403, "wrong-scheme": 403,
    "path": 400, "not-allowed": 403, "trace": 403, "override": 403, "destination": 403, "upgrade": 400, "secret": 403, "max-body": 413, "budget": 403, "rate": 429,
    "address": 403, "resolve": 502, "connect": 502, "connect-timeout": 504, "upstream-tls": 502, "upstream": 502,
    "upstream-timeout": 504, "audit": 503, "aborted": 499,
}  # fmt: skip

# What the network decided, not policy.
FAILURES = frozenset(
    ["resolve", "connect", "connect-timeout", "upstream-tls", "upstream", "upstream-timeout", "audit", "aborted"]
)


class Refusal(Exception):
    """A rule that applied to one request. `reason` names what the guest sent, never a secret."""

    def __init__(self, code: str, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.code, self.reason, self.hint = code, reason, hint
        self.status = STATUS[code]

    @property
    def denial(self) -> bool:
        return self.code not in FAILURES

    def body(self) -> str:
        hint = f"hint: {self.hint}\n" if self.hint else ""
        return f"bot-bottle egress refused this: {self.reason} [{self.code}]\n{hint}"

    def response(self, *, head_only: bool = False) -> bytes:
        """The whole response. The connection ends with it: what came behind the refused head is not looked at."""
        body = self.body().encode("utf-8", "replace")
        lines = [
            f"HTTP/1.1 {self.status} Refused",
            "content-type: text/plain; charset=utf-8",
            f"x-bottle-refused: {self.code}",
            f"content-length: {len(body)}",
            "connection: close",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if head_only else body)


def unrecorded() -> Refusal:
    return Refusal("audit", "the audit log takes no more lines (disk full, or this launch's budget spent), so nothing is let through")
