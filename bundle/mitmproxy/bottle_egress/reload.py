"""Another policy while the daemon runs: whoever replaces the file puts it in force
(bundle/src/egress/policy/reload.rs).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from pathlib import Path

from . import tls
from .audit import AuditError, AuditWriter, Line
from .limits import unsupported
from .routes import Policy, PolicyError

logger = logging.getLogger("bottle")
POLL_SECONDS = 0.2
# In JSON at most 12 bytes each, so that a line stays below the 4096 bytes that are read of it.
ERROR_CHARS_MAX = 300


async def follow(
    path: Path, text: bytes, policy: Policy, log: AuditWriter, *, pipelock: bool
) -> None:
    """Polls the policy file, and puts each new policy in force or reports why not, to the audit log
    and then to the orchestrator (ReloadReport in policy/src/rpc.rs). `policy` was made from `text`.
    """
    seen = None  # the file may be another one since `text` was read
    before = digest(text)
    while True:
        await asyncio.sleep(POLL_SECONDS)
        now = _stat(path)
        if now == seen:
            continue
        seen, after = now, None
        try:
            text = path.read_bytes()
            if (after := digest(text)) == before:
                continue
            if pipelock:
                raise PolicyError(
                    "pipelock reads its configuration at its start only; stop and launch the bottle again"
                )
            replace(text, policy)
        except (OSError, PolicyError, ValueError) as e:
            error = f"{path}: {e}"
            verdict, reason = "deny", f"the policy {before} stays in force: {error}"
        else:
            error = None
            verdict, reason, before = "allow", f"policy {after} in force, was {before}", after
        try:
            log.append(
                Line.OPENING,
                {"daemon": "egress", "event": "policy", "verdict": verdict, "reason": reason},
            )
        except AuditError as e:
            logger.error("%s", e)
        report = {"digest": after, "error": error and error[:ERROR_CHARS_MAX]}
        print(json.dumps({"reload": report}), flush=True)


def replace(text: bytes, policy: Policy) -> None:
    """Puts the policy `text` in force. Raises PolicyError or ValueError, and then changes
    nothing.
    """
    new = Policy(text)
    if cannot := unsupported(new, pipelock=False):
        raise PolicyError("this chain cannot enforce it: " + "; ".join(cannot))
    new.bind(policy.tokens)
    for route in new.routes:
        tls.read_ca(route.ca)
        for old in policy.routes:
            if old.name == route.name:
                route.inherit(old)
    policy.routes = new.routes


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
