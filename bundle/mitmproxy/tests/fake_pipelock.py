"""Stands in for pipelock, which no registry has: `run -c FILE`, /health, CONNECT, interception by the CA of FILE. What it
gets it sends on, marked, to UPSTREAM, which the test writes above this text. It scans nothing."""

import datetime
import json
import os
import socket
import ssl
import sys
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

UPSTREAM: tuple[str, int]
assert sys.argv[1:3] == ["run", "-c"], sys.argv
CONFIG = json.load(open(sys.argv[3]))
assert not os.environ or set(os.environ) <= {"LC_CTYPE"}, "its environment may hold secrets"
TLS = CONFIG["tls_interception"]
KEY_TEXT = open(TLS["ca_key"], "rb").read()
assert KEY_TEXT.startswith(b"-----BEGIN EC PRIVATE KEY-----"), "pipelock reads SEC1 keys only"
CA_KEY = serialization.load_pem_private_key(KEY_TEXT, None)
CA = x509.load_pem_x509_certificate(open(TLS["ca_cert"], "rb").read())


def context(host):
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(CA.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(CA_KEY.public_key()), critical=False
        )
        .sign(CA_KEY, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.TraditionalOpenSSL
    fd = os.memfd_create("leaf")
    os.write(
        fd, leaf.public_bytes(pem) + key.private_bytes(pem, form, serialization.NoEncryption())
    )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(f"/proc/self/fd/{fd}")
    os.close(fd)
    return made


def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def serve(client):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = client.recv(1)
        if not part:
            return
        head += part
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
    if method == "GET" and target == "/health":
        client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        return client.close()
    host = target.rpartition(":")[0]
    if method != "CONNECT" or host == "blocked.test" or host not in CONFIG["api_allowlist"]:
        client.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        return client.close()
    client.sendall(b"HTTP/1.1 200 Connection Established\r\n\r\n")
    inner = context(host).wrap_socket(client, server_side=True)
    upstream = socket.create_connection(UPSTREAM)
    threading.Thread(target=copy, args=(upstream, inner), daemon=True).start()
    upstream.sendall(inner.recv(65536).replace(b"\r\n", b"\r\nx-fake-pipelock: 1\r\n", 1))
    copy(inner, upstream)


host, port = CONFIG["fetch_proxy"]["listen"].split(":")
listener = socket.create_server((host, int(port)))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
