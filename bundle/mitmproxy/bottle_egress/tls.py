"""TLS on both sides: leaves by the bottle's CA, which is never on a disk, and verified upstreams."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from mitmproxy import certs
from mitmproxy import tls as mtls
from mitmproxy.addons.tlsconfig import DEFAULT_HOSTFLAGS
from mitmproxy.net import tls as net_tls
from OpenSSL import SSL, crypto

from .authority import Authority

# CA certificates of Debian, Fedora, SUSE, Arch, Alpine and NixOS.
SYSTEM_CAS = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
]


class Leaves:
    """Certificates for the guest."""

    def __init__(self, ca_cert: str, ca_key: str) -> None:
        """Raises ValueError, which tells nothing of the key."""
        try:
            key = load_pem_private_key(ca_key.encode(), None)
            ca = certs.Cert(x509.load_pem_x509_certificate(ca_cert.encode()))
        except Exception:
            raise ValueError("the bottle's CA cannot be read") from None
        # Without a chain file and DH parameters the store touches no file.
        self._store = certs.CertStore(key, ca, None, None)  # type: ignore[arg-type]

    def connection(self, to: Authority) -> SSL.Connection:
        name = x509.IPAddress(to.ip) if to.ip is not None else x509.DNSName(to.host)
        entry = self._store.get_cert(to.host, [name])
        context = net_tls.create_client_proxy_context(
            method=net_tls.Method.TLS_SERVER_METHOD, min_version=net_tls.DEFAULT_MIN_VERSION,
            max_version=net_tls.DEFAULT_MAX_VERSION, cipher_list=None, ecdh_curve=None, chain_file=None,
            alpn_select_callback=_http11, request_client_cert=False, extra_chain_certs=(), dhparams=None,  # type: ignore[arg-type]
        )  # fmt: skip
        connection = SSL.Connection(context)
        connection.use_certificate(entry.cert.to_pyopenssl())
        connection.use_privatekey(crypto.PKey.from_cryptography_key(entry.privatekey))
        connection.set_accept_state()
        return connection


def _http11(_connection: SSL.Connection, offers: list[bytes]) -> bytes | object:
    return b"http/1.1" if b"http/1.1" in offers else SSL.NO_OVERLAPPING_PROTOCOLS


class Upstreams:
    """Connections to upstreams: the system's CAs, and those of the route."""

    def __init__(self) -> None:
        self._contexts: dict[str | None, SSL.Context] = {}

    def connection(self, to: Authority, ca: str | None) -> SSL.Connection:
        connection = SSL.Connection(self._context(ca))
        param = SSL._lib.SSL_get0_param(connection._ssl)  # type: ignore[attr-defined]
        SSL._lib.X509_VERIFY_PARAM_set_hostflags(param, DEFAULT_HOSTFLAGS)  # type: ignore[attr-defined]
        if to.ip is not None:
            packed = to.ip.packed
            ok = SSL._lib.X509_VERIFY_PARAM_set1_ip(param, packed, len(packed))  # type: ignore[attr-defined]
        else:
            name = to.host.encode()
            connection.set_tlsext_host_name(name)
            ok = SSL._lib.X509_VERIFY_PARAM_set1_host(param, name, len(name))  # type: ignore[attr-defined]
        if ok != 1:
            raise RuntimeError("the host's name cannot be verified")
        connection.set_alpn_protos([b"http/1.1"])
        connection.set_connect_state()
        return connection

    def _context(self, ca: str | None) -> SSL.Context:
        if ca not in self._contexts:
            context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            context.set_min_proto_version(SSL.TLS1_2_VERSION)
            context.set_verify(SSL.VERIFY_PEER, None)
            if (system := _system_cas()) is not None:
                context.load_verify_locations(system)
            for certificate in read_ca(ca):
                store = context.get_cert_store()
                assert store is not None
                store.add_cert(crypto.X509.from_cryptography(certificate))
            self._contexts[ca] = context
        return self._contexts[ca]


def read_ca(ca: str | None) -> list[x509.Certificate]:
    """Raises ValueError when there is text without a certificate."""
    return [] if ca is None else x509.load_pem_x509_certificates(ca.encode())


def _system_cas() -> str | None:
    named = os.environ.get("SSL_CERT_FILE")
    candidates = SYSTEM_CAS if named is None else [named]
    return next((path for path in candidates if Path(path).is_file()), None)


def client_name(hello: mtls.ClientHello) -> str | None:
    return None if hello.sni is None else hello.sni.lower()
