"""The daemon: arguments, standard input, the socket, and an orderly end."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .audit import AuditError, AuditWriter
from .refusal import Refusal
from .routes import Policy, PolicyError

FIRST_LINE_MAX = 1 << 20
DRAIN_SECONDS = 1.0
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
EXIT_FAILED, EXIT_CONFIG, EXIT_ENGINE = 1, 3, 4


class StartError(Exception):
    """Why the daemon cannot start, and its exit code."""

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


def main() -> None:
    args = _arguments()
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s"
    )
    try:
        _harden(args.parent)
        _run(args)
    except StartError as e:
        print(f"bottle-egress-mitmproxy: {e}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(e.code)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bottle-egress-mitmproxy", description="bottle-bundle egress, by mitmproxy"
    )
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument(
        "--listen-fd", type=int, help="the socket, bound already and inherited under this number"
    )
    parser.add_argument("--policy", type=Path, required=True, help="policy, JSON")
    parser.add_argument("--audit", type=Path, required=True, help="audit log, JSONL, appended to")
    parser.add_argument("--slug", default="-", help="the bottle's name, for log lines")
    parser.add_argument("--parent", type=int, help="process id of the parent; die with it")
    parser.add_argument("--pipelock", type=Path, help="send everything on through this pipelock")
    return parser.parse_args()


def _harden(parent: int | None) -> None:
    """No core dump, no debugger, private files; the process dies with its parent."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if parent is not None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            raise StartError(f"parent process {parent} is gone", EXIT_ENGINE)
    # Without this the system's search list could turn a name into another one.
    os.environ["LOCALDOMAIN"] = ""


def _run(args: argparse.Namespace) -> None:
    try:
        text = args.policy.read_bytes()
        policy = Policy(text)
    except OSError as e:
        raise StartError(f"{args.policy}: {e.strerror}") from e
    except PolicyError as e:
        raise StartError(f"{args.policy}: {e}") from e
    from .limits import unsupported

    if cannot := unsupported(policy, pipelock=args.pipelock is not None):
        raise StartError("this chain cannot enforce the policy: " + "; ".join(cannot), EXIT_CONFIG)
    try:
        log = AuditWriter(args.audit, "egress")
    except AuditError as e:
        raise StartError(str(e)) from e
    listener = _listen(args)
    try:
        _serve(args, text, policy, log, listener)
    finally:
        args.socket.unlink(missing_ok=True)


def _listen(args: argparse.Namespace) -> socket.socket:
    if args.listen_fd is not None:
        listener = socket.socket(fileno=args.listen_fd)
        listener.setblocking(False)
        return listener
    path = str(args.socket)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            listener.bind(path)
        except OSError:
            # A socket on which nobody listens any more is replaced.
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == 0:
                    raise
            os.unlink(path)
            listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(128)
    except OSError as e:
        raise StartError(f"{path}: {e.strerror or e}") from e
    listener.setblocking(False)
    return listener


def _first_line() -> tuple[bytes, bytes]:
    """The first line of standard input, and what came with it."""
    data = bytearray()
    while (end := data.find(b"\n")) < 0:
        if len(data) > FIRST_LINE_MAX:
            raise StartError("the first line of standard input is too long")
        part = os.read(0, 65536)
        if not part:
            raise StartError("standard input ended before its first line did")
        data += part
    return bytes(data[:end]), bytes(data[end + 1 :])


def _input(line: bytes) -> dict[str, Any]:
    # The parser's message could quote a secret, so the error only says that it failed.
    try:
        text = json.loads(line)
        ok = (
            isinstance(text["ca_cert"], str)
            and isinstance(text["ca_key"], str)
            and isinstance(text["tokens"], dict)
        )
        ok = ok and all(isinstance(v, str) for v in text["tokens"].values())
    except (ValueError, KeyError, TypeError):
        ok = False
    if not ok:
        raise StartError("standard input is no egress input")
    return text


def _serve(
    args: argparse.Namespace,
    policy_text: bytes,
    policy: Policy,
    log: AuditWriter,
    listener: socket.socket,
) -> None:
    line, rest = _first_line()
    inputs = _input(line)
    try:
        policy.bind(inputs["tokens"])
    except PolicyError as e:
        raise StartError(str(e)) from e

    # mitmproxy takes half a second to import, so it comes after everything that can fail quickly.
    from . import app, reload, tls

    try:
        certificates = tls.LeafCertificates(inputs["ca_cert"], inputs["ca_key"])
    except ValueError as e:
        raise StartError(str(e)) from e
    for route in policy.routes:
        try:
            tls.read_ca(route.ca)
        except ValueError:
            raise StartError(f"route {route.name!r}: its ca holds no PEM certificate") from None

    upstream: str | None = None
    if args.pipelock is not None:
        from . import pipelock

        try:
            upstream, behind_ca = pipelock.start(args.pipelock, policy, args.socket.parent)
        except (pipelock.PipelockError, OSError) as e:
            raise StartError(f"pipelock: {e}", EXIT_ENGINE) from e
        for route in policy.routes:
            route.ca = behind_ca

    refreshable = set(inputs.get("refreshable", []))
    reported: set[str] = set()

    def stale(token: str) -> None:
        if token in refreshable and token not in reported:
            reported.add(token)
            print(json.dumps({"stale": {"token": token}}), flush=True)

    def apply_command(text: bytes) -> None:
        command = json.loads(text)["token"]
        reported.discard(command["name"])
        if command.get("value") is not None and command["name"] in policy.tokens:
            policy.tokens[command["name"]] = command["value"]

    async def serve() -> None:
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        lifeline = threading.Thread(
            target=_follow, args=(rest, loop, apply_command, ending.set), daemon=True
        )
        proxy = await app.start(policy, log, certificates, stale, listener, upstream)
        lifeline.start()
        watch = asyncio.create_task(
            reload.follow(
                args.policy, policy_text, policy, log, pipelock=args.pipelock is not None
            )
        )
        print("ready", flush=True)
        await ending.wait()
        watch.cancel()
        listener.close()
        deadline = time.monotonic() + DRAIN_SECONDS
        while proxy.open_requests() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for guest in list(proxy.guests.values()):
            if guest.audit is not None and guest.audit.admitted:
                guest.audit.close(Refusal("aborted", "cut off at teardown"))
        log.finish()
        args.socket.unlink(missing_ok=True)
        sys.stderr.flush()
        # pipelock, if any, dies with this process.
        os._exit(0)  # tasks of connections that were cut off have nothing more to write

    asyncio.run(serve())


def _follow(
    rest: bytes,
    loop: asyncio.AbstractEventLoop,
    apply_command: Callable[[bytes], None],
    ended: Callable[[], None],
) -> None:
    """Reads commands from standard input until it ends. This is a thread, because waiting for a pipe, a terminal and
    /dev/null in the event loop would need three different ways."""
    data = rest
    while True:
        *lines, data = data.split(b"\n")
        for line in lines:
            try:
                apply_command(line)
            except (ValueError, KeyError, TypeError):
                logging.getLogger("bottle").warning("a line of standard input is no command")
        try:
            part = os.read(0, 65536)
        except OSError:
            part = b""
        if not part or len(data) > FIRST_LINE_MAX:
            loop.call_soon_threadsafe(ended)
            return
        data += part


if __name__ == "__main__":
    main()
