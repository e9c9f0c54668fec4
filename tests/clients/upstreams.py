#!/usr/bin/env python3
"""upstreams.py DIR TOKEN_FILE: the world that the clients' check reaches, over TLS on loopback.

Makes in DIR a CA (ca.pem) and all that is served, prints `listening PORT H2PORT`, serves until its standard input ends.
Every request must carry `Authorization: Bearer TOKEN`, which only egress knows to add: else it gets 401, and so no client
that works can have worked without. Needs Python 3 with h2, openssl and git.
"""

import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import h2.config
import h2.connection
import h2.events

HOSTS = ["api", "h2", "git", "pypi", "npm", "crates", "go"]
DOMAIN = "clients.test"
# What the packages say when they are used.
GREETING = "hello from the registry"


def run(*argv, **more):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    if done.returncode:
        sys.exit(f"{argv}: exit {done.returncode}: {done.stderr.decode()}")
    return done.stdout


def certificates(top):
    """A CA, and one certificate for every host."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"]
    run("openssl", "req", "-x509", *key, "-subj", "/CN=upstreams of the clients' check", "-keyout", f"{top}/ca.key", "-out", f"{top}/ca.pem",
        "-addext", "keyUsage=critical,keyCertSign")
    names = ",".join(f"DNS:{host}.{DOMAIN}" for host in HOSTS)
    run("openssl", "req", *key, "-subj", "/CN=upstreams", "-keyout", f"{top}/leaf.key", "-out", f"{top}/leaf.csr")
    run("openssl", "x509", "-req", "-in", f"{top}/leaf.csr", "-CA", f"{top}/ca.pem", "-CAkey", f"{top}/ca.key", "-set_serial", "1", "-days", "3650",
        "-out", f"{top}/leaf.pem", "-extfile", "/dev/stdin", input=f"subjectAltName={names}\n".encode())


def context(top, protocol):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{top}/leaf.pem", f"{top}/leaf.key")
    tls.set_alpn_protocols([protocol])
    return tls


def repository(top):
    """A bare repository with one commit, which may be pushed to."""
    git = {"GIT_CONFIG_NOSYSTEM": "1", "HOME": top, "PATH": os.environ["PATH"], "GIT_COMMITTER_DATE": "@1 +0000", "GIT_AUTHOR_DATE": "@1 +0000"}
    for role in ("AUTHOR", "COMMITTER"):
        git |= {f"GIT_{role}_NAME": "upstream", f"GIT_{role}_EMAIL": "upstream@clients.test"}
    bare = f"{top}/git/tiny.git"
    run("git", "init", "-q", "--bare", "-b", "main", bare, env=git)
    run("git", "-C", bare, "config", "http.receivepack", "true", env=git)
    blob = run("git", "-C", bare, "hash-object", "-w", "--stdin", input=f"{GREETING}\n".encode(), env=git).decode().strip()
    tree = run("git", "-C", bare, "mktree", input=f"100644 blob {blob}\tgreeting\n".encode(), env=git).decode().strip()
    commit = run("git", "-C", bare, "commit-tree", "-m", "A greeting", tree, env=git).decode().strip()
    run("git", "-C", bare, "update-ref", "refs/heads/main", commit, env=git)
    return git


def tarball(files):
    """A .tar.gz of {name: text} that is the same each time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(out.getvalue(), mtime=0)


def pypi():
    """A simple index with one wheel."""
    files = {
        "tiny.py": f"GREETING = {GREETING!r}\n",
        "tiny-1.0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0.0\n",
        "tiny-1.0.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: upstreams\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digest = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    record = "".join(f"{name},sha256={digest(text)},{len(text)}\n" for name, text in files.items())
    files["tiny-1.0.0.dist-info/RECORD"] = record + "tiny-1.0.0.dist-info/RECORD,,\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(zipfile.ZipInfo(name), text)
    wheel, name = out.getvalue(), "tiny-1.0.0-py3-none-any.whl"
    page = f'<!DOCTYPE html><a href="/files/{name}#sha256={hashlib.sha256(wheel).hexdigest()}">{name}</a>\n'
    return {"/simple/tiny/": ("text/html", page.encode()), f"/files/{name}": ("application/octet-stream", wheel)}


def npm():
    """A registry with one package."""
    package = {"name": "tiny", "version": "1.0.0", "main": "index.js"}
    tar = tarball({"package/package.json": json.dumps(package), "package/index.js": f"module.exports = {json.dumps(GREETING)};\n"})
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(tar).digest()).decode()
    dist = {"tarball": f"https://npm.{DOMAIN}/tiny/-/tiny-1.0.0.tgz", "integrity": integrity, "shasum": hashlib.sha1(tar).hexdigest()}
    packument = {"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": package | {"dist": dist}}}
    return {"/tiny": ("application/json", json.dumps(packument).encode()), "/tiny/-/tiny-1.0.0.tgz": ("application/octet-stream", tar)}


def crates():
    """A sparse registry with one crate."""
    manifest = '[package]\nname = "tiny"\nversion = "1.0.0"\nedition = "2021"\n'
    crate = tarball({"tiny-1.0.0/Cargo.toml": manifest, "tiny-1.0.0/src/lib.rs": f"pub const GREETING: &str = {json.dumps(GREETING)};\n"})
    entry = {"name": "tiny", "vers": "1.0.0", "deps": [], "cksum": hashlib.sha256(crate).hexdigest(), "features": {}, "yanked": False}
    config = {"dl": f"https://crates.{DOMAIN}/dl/{{crate}}-{{version}}.crate", "api": f"https://crates.{DOMAIN}"}
    return {
        "/index/config.json": ("application/json", json.dumps(config).encode()),
        "/index/ti/ny/tiny": ("text/plain", json.dumps(entry).encode() + b"\n"),
        "/dl/tiny-1.0.0.crate": ("application/octet-stream", crate),
    }


def go():
    """A module proxy with one module."""
    module, version = f"go.{DOMAIN}/tiny", "v1.0.0"
    mod = f"module {module}\n\ngo 1.19\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as source:
        for name, text in {"go.mod": mod, "tiny.go": f"package tiny\n\nconst Greeting = {json.dumps(GREETING)}\n"}.items():
            source.writestr(zipfile.ZipInfo(f"{module}@{version}/{name}"), text)
    info = {"Version": version, "Time": "1970-01-01T00:00:00Z"}
    files = {"info": json.dumps(info).encode(), "mod": mod.encode(), "zip": out.getvalue()}
    return {f"/proxy/{module}/@v/{version}.{kind}": ("application/octet-stream", data) for kind, data in files.items()}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Nagle's algorithm would hold events back.
    disable_nagle_algorithm = True

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass

    def answer(self, status, kind, body, headers=()):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def do_GET(self):
        body = self.body()
        if self.headers.get_all("authorization") != [f"Bearer {self.server.token}"]:
            return self.answer(401, "text/plain", b"not egress's token\n")
        path = self.path.partition("?")[0]
        host = self.headers["host"].removesuffix(f".{DOMAIN}")
        if host == "git":
            return self.git(body)
        if found := self.server.files.get(host, {}).get(path):
            return self.answer(200, *found)
        service = path.split("/")[1] if host == "api" else None
        if service == "echo":
            echo = {"method": self.command, "path": self.path, "version": self.request_version, "body": body.decode("utf-8", "replace")}
            return self.answer(200, "application/json", json.dumps(echo).encode() + b"\n")
        if service == "sse":
            return self.events()
        if service == "ws":
            return self.websocket()
        self.answer(404, "text/plain", b"no such thing\n")

    do_POST = do_PUT = do_HEAD = do_GET

    def git(self, body):
        path, _, query = self.path.partition("?")
        env = self.server.git | {
            "GIT_PROJECT_ROOT": f"{self.server.top}/git", "GIT_HTTP_EXPORT_ALL": "1", "REMOTE_USER": "agent", "PATH_INFO": path, "QUERY_STRING": query,
            "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("content-type", ""), "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""), "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
        }
        head, _, out = run("git", "http-backend", env=env, input=body).partition(b"\r\n\r\n")
        headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n")]
        status = next((int(value[:3]) for name, value in headers if name == "Status"), 200)
        kind = next((value for name, value in headers if name == "Content-Type"), "text/plain")
        self.answer(status, kind, out, [h for h in headers if h[0] not in ("Status", "Content-Type", "Content-Length")])

    def events(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for n in range(5):
            if n:
                time.sleep(0.2)
            event = f"data: {n}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def websocket(self):
        """RFC 6455: says each frame back until a close."""
        key = self.headers["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        for name, value in ("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", base64.b64encode(hashlib.sha1(key).digest()).decode()):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        while head := self.rfile.read(2):
            size = head[1] & 127
            if size > 125:
                form = "!H" if size == 126 else "!Q"
                size = struct.unpack(form, self.rfile.read(struct.calcsize(form)))[0]
            mask = self.rfile.read(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(size)))
            length = bytes([size]) if size < 126 else b"\x7e" + struct.pack("!H", size) if size < 65536 else b"\x7f" + struct.pack("!Q", size)
            self.wfile.write(head[:1] + length + data)
            if head[0] & 15 == 8:
                break


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, tls, **more):
        super().__init__(("127.0.0.1", 0), Handler)
        self.tls = tls
        self.__dict__.update(more)

    def finish_request(self, request, client):
        # Here, on the connection's thread: a slow handshake holds nobody up.
        try:
            with self.tls.wrap_socket(request, server_side=True) as connection:
                self.RequestHandlerClass(connection, client, self)
        except OSError:
            pass


def serve_h2(tls, listener, token):
    """Only HTTP/2: who has not negotiated it is hung up on."""
    while True:
        threading.Thread(target=h2_connection, args=(tls, listener.accept()[0], token), daemon=True).start()


def h2_connection(tls, connection, token):
    try:
        with tls.wrap_socket(connection, server_side=True) as connection:
            if connection.selected_alpn_protocol() == "h2":
                h2_requests(connection, token)
    except OSError:
        pass


def h2_requests(connection, token):
    h2c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    h2c.initiate_connection()
    connection.sendall(h2c.data_to_send())
    heads, bodies = {}, {}
    while data := connection.recv(65536):
        for event in h2c.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                heads[event.stream_id], bodies[event.stream_id] = dict(event.headers), b""
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] += event.data
                h2c.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                head = heads[event.stream_id]
                allowed = head.get("authorization") == f"Bearer {token}"
                echo = {"method": head[":method"], "path": head[":path"], "version": "HTTP/2", "body": bodies[event.stream_id].decode()}
                body = json.dumps(echo).encode() + b"\n" if allowed else b"not egress's token\n"
                h2c.send_headers(event.stream_id, [(":status", "200" if allowed else "401"), ("content-length", str(len(body)))])
                h2c.send_data(event.stream_id, body, end_stream=True)
        connection.sendall(h2c.data_to_send())


def main():
    top, token_file = sys.argv[1:]
    with open(token_file) as file:
        token = file.read().strip()
    certificates(top)
    server = Server(context(top, "http/1.1"), top=top, token=token, git=repository(top), files={"pypi": pypi(), "npm": npm(), "crates": crates(), "go": go()})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve_h2, args=(context(top, "h2"), listener, token), daemon=True).start()
    print(f"listening {server.server_address[1]} {listener.getsockname()[1]}", flush=True)
    sys.stdin.read()


main()
