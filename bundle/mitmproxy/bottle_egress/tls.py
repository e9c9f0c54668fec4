"""TLS on both sides: certificates by the bottle's CA, which is never on a disk, and verified
upstreams.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from mitmproxy.addons.tlsconfig import DEFAULT_HOSTFLAGS
from OpenSSL import SSL, crypto

from .authority import Authority

LEAVES_MAX = 1024
# CA certificates of Debian, Fedora, SUSE, Arch, Alpine and NixOS.
SYSTEM_CAS = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
]


class LeafCertificates:
    """Certificates for the guest, each with a key of its own.

    Not mitmproxy's CertStore: it reads the CA from files, signs every leaf for the CA's own key, and takes SHA-1 of that
    key for its identifier, where OpenSSL looks for the one that the CA's certificate states (seen: mitmproxy 11.0.2).
    """

    def __init__(self, ca_cert: str, ca_key: str) -> None:
        """Raises ValueError, which tells nothing of the key."""
        try:
            self._key = cast(
                ec.EllipticCurvePrivateKey, load_pem_private_key(ca_key.encode(), None)
            )
            self._ca = x509.load_pem_x509_certificate(ca_cert.encode())
        except Exception:
            raise ValueError("the bottle's CA cannot be read") from None
        self._made: dict[str, tuple[x509.Certificate, ec.EllipticCurvePrivateKey]] = {}

    def connection(self, to: Authority) -> SSL.Connection:
        """The server's side of TLS for this host."""
        if to.host not in self._made:
            if (
                len(self._made) >= LEAVES_MAX
            ):  # a wildcard route has as many hosts as a guest can think of
                self._made.clear()
            self._made[to.host] = self._make(to)
        certificate, key = self._made[to.host]
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_alpn_select_callback(_http11)
        connection = SSL.Connection(context)
        connection.use_certificate(crypto.X509.from_cryptography(certificate))
        connection.use_privatekey(crypto.PKey.from_cryptography_key(key))
        connection.set_accept_state()
        return connection

    def _make(self, to: Authority) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        name: x509.GeneralName = (
            x509.IPAddress(to.ip) if to.ip is not None else x509.DNSName(to.host)
        )
        try:
            stated = self._ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(stated)
        except x509.ExtensionNotFound:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._ca.not_valid_before_utc)
            .not_valid_after(self._ca.not_valid_after_utc)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate, key


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
