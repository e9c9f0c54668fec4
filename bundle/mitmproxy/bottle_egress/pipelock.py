"""pipelock behind mitmproxy: its configuration, and its process.

It follows the published presets of pipelock 2.3.0 and 3.2.0. Neither was run here, because neither
is in a package registry.
docs/egress-chains.md lists the traps that this file steers around.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import datetime
import http.client
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .authority import address
from .routes import Policy

READY_SECONDS = 8.0
MIB = 1 << 20
# What we inject is pipelock's to see. In the mode `all` it would reject it; in `sensitive` it looks
# at these only.
GUEST_HEADERS = ["Cookie", "X-Token"]


class PipelockError(Exception):
    """pipelock cannot be started."""


def config(policy: Policy, listen: str, ca_cert: str, ca_key: str) -> dict[str, Any]:
    """pipelock's configuration. JSON is YAML; pipelock refuses keys it does not know, so there is
    none too many.
    """
    hosts = sorted(
        {r.host for r in policy.routes}
        | {r.host[2:] for r in policy.routes if r.apex and r.host.startswith("*.")}
    )
    private = [r for r in policy.routes if r.allow_private]
    literal = [ip for r in private if (ip := address(r.host)) is not None]
    off = sorted({r.host for r in policy.routes if r.scan.get("limit") == "off"})
    injected = {r.inject.header.lower() for r in policy.routes if r.inject and r.inject.header}
    return {
        "version": 1,
        "mode": "strict",
        # Never empty: strict mode without a list does not start.
        "api_allowlist": hosts or ["nothing.invalid"],
        "trusted_domains": sorted({r.host for r in private if address(r.host) is None}),
        "ssrf": {"ip_allowlist": [str(ipaddress.ip_network(ip)) for ip in literal]},
        "fetch_proxy": {
            "listen": listen,
            # By default 60 requests a minute and URLs of 500 bytes; rates and budgets are
            # mitmproxy's to keep.
            "monitoring": {"max_url_length": 16384, "max_requests_per_minute": 100_000},
        },
        # By default a tunnel ends after 300 s, in the middle of an agent's answer.
        "forward_proxy": {
            "enabled": True,
            "max_tunnel_seconds": 86400,
            "idle_timeout_seconds": 600,
        },
        "websocket_proxy": {"enabled": False},
        "tls_interception": {
            "enabled": True,
            "ca_cert": ca_cert,
            "ca_key": ca_key,
            # Over 5 MiB, and compressed, answers would be refused; those of these hosts are not
            # looked into.
            "max_response_bytes": 64 * MIB,
            "passthrough_domains": off,
        },
        "request_body_scanning": {
            "enabled": True,
            "action": "block",
            "max_body_bytes": 64 * MIB,
            "scan_headers": True,
            "header_mode": "sensitive",
            "sensitive_headers": [h for h in GUEST_HEADERS if h.lower() not in injected],
        },
        # Its own environment is empty, and so is what it would look for there.
        "dlp": {"scan_env": False},
    }


def throwaway_ca() -> tuple[bytes, bytes]:
    """Certificate and key (SEC1, as pipelock wants it), PEM, for the way from mitmproxy to pipelock
    alone.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "bot-bottle, between mitmproxy and pipelock")]
    )
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    sec1 = serialization.PrivateFormat.TraditionalOpenSSL
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, sec1, serialization.NoEncryption()),
    )


def start(program: Path, policy: Policy, directory: Path) -> tuple[str, str]:
    """Starts pipelock and waits until it answers: its address, and the CA (PEM) that its
    certificates are signed by.
    """
    certificate, key = throwaway_ca()
    with socket.socket() as probe:  # no way to tell it "any port" and to be told which
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = [_memory_file("ca.pem", certificate), _memory_file("ca.key", key)]
    paths = [f"/proc/self/fd/{fd}" for fd in files]
    text = config(policy, f"127.0.0.1:{port}", *paths)
    file = directory / "pipelock.yaml"
    file.write_text(json.dumps(text, indent=1))  # no secret in it
    try:
        child = subprocess.Popen(
            [program, "run", "-c", file], env={}, pass_fds=files, stdin=subprocess.DEVNULL, stdout=sys.stderr,
            preexec_fn=_die_with_parent,
        )  # fmt: skip
    except OSError as e:
        raise PipelockError(f"{program}: {e.strerror}") from e
    finally:
        for fd in files:
            os.close(fd)
    atexit.register(child.kill)
    deadline = time.monotonic() + READY_SECONDS
    while not _healthy(port):
        if child.poll() is not None:
            raise PipelockError(f"pipelock ended at its start (exit code {child.returncode})")
        if time.monotonic() > deadline:
            raise PipelockError(f"pipelock did not answer within {READY_SECONDS:.0f} s")
        time.sleep(0.02)
    return f"http://127.0.0.1:{port}", certificate.decode()


def _memory_file(name: str, content: bytes) -> int:
    fd = os.memfd_create(name, 0)
    os.fchmod(fd, 0o600)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _healthy(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False
