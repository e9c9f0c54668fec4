#!/usr/bin/env python3
"""forge.py DIR TOKEN_FILE KEYS_FILE OPTIONS: a forge's deploy-key API as GitHub, Gitea and GitLab have it, over TLS on loopback.

Makes DIR/ca.pem, prints `listening PORT`, serves until its standard input ends. The keys are in KEYS_FILE, an authorized_keys file, each
behind OPTIONS; what it knows of them is in DIR/keys.json. While DIR/fail exists every answer is 500; while DIR/hang exists a key is
registered and the answer never comes.
"""

import http.server
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time

TOP, TOKEN_FILE, KEYS_FILE, OPTIONS = sys.argv[1:]
TOKEN = open(TOKEN_FILE).read().strip()
# Few keys a page: a client has to turn pages.
PAGE = 2
LOCK = threading.Lock()
# Somebody else's keys, which must be left alone.
KEYS = [{"id": n, "repo": repo, "title": f"other {n}", "key": f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{n:043}", "write": False}
        for n, repo in enumerate(["gh/x"] * 3 + ["tea/x"] * 3 + ["lab/sub/x"] * 3)]
DIALECTS = [
    ("Authorization", f"Bearer {TOKEN}", re.compile(r"/github/repos/([\w.-]+/[\w.-]+)/keys(?:/(\d+))?$")),
    ("Authorization", f"token {TOKEN}", re.compile(r"/gitea/repos/([\w.-]+/[\w.-]+)/keys(?:/(\d+))?$")),
    ("PRIVATE-TOKEN", TOKEN, re.compile(r"/gitlab/projects/([\w.%-]+)/deploy_keys(?:/(\d+))?$")),
]


def save():
    with open(f"{TOP}/keys.json.new", "w") as f:
        json.dump(KEYS, f)
    os.rename(f"{TOP}/keys.json.new", f"{TOP}/keys.json")
    with open(KEYS_FILE, "w") as f:
        f.writelines(f"{OPTIONS} {k['key']}\n" for k in KEYS if not k["title"].startswith("other"))


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, value=None):
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        query = dict(pair.split("=") for pair in query.split("&") if pair)
        if os.path.exists(f"{TOP}/fail"):
            return self.answer(500, {"message": f"out of order, {self.headers.get('Authorization')}"})
        for header, value, form in DIALECTS:
            match = form.match(path)
            if match is None:
                continue
            if self.headers.get(header) != value or not self.headers.get("User-Agent"):
                return self.answer(401, {"message": "Bad credentials"})
            repo, number = match[1].replace("%2F", "/"), match[2]
            with LOCK:
                return self.keys(path, repo, number, query, body)
        return self.answer(404, {"message": "Not Found"})

    do_GET = do_POST = do_DELETE = handle_any

    def keys(self, path, repo, number, query, body):
        ours = [k for k in KEYS if k["repo"] == repo]
        if self.command == "GET" and number is None:
            page = int(query["page"])
            shown = ours[(page - 1) * PAGE:page * PAGE]
            return self.answer(200, [{"id": k["id"], "title": k["title"], "key": k["key"] + " added by the forge"} for k in shown])
        if self.command == "POST" and number is None:
            asked = json.loads(body)
            if any(k["key"] == asked["key"] for k in KEYS):
                return self.answer(422, {"message": "key is already in use"})
            write = asked["can_push"] if "/gitlab/" in path else not asked["read_only"]
            KEYS.append({"id": 1000 + len(KEYS), "repo": repo, "title": asked["title"], "key": asked["key"], "write": write})
            save()
            while os.path.exists(f"{TOP}/hang"):
                time.sleep(0.05)
            return self.answer(201, {"id": KEYS[-1]["id"]})
        if self.command == "DELETE" and number is not None:
            found = [k for k in ours if k["id"] == int(number)]
            if not found:
                return self.answer(404, {"message": "Not Found"})
            KEYS.remove(found[0])
            save()
            return self.answer(204)
        return self.answer(405)


def openssl(*args, **more):
    subprocess.run(["openssl", *args], check=True, stderr=subprocess.DEVNULL, **more)


def main():
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"]
    openssl("req", "-x509", *key, "-subj", "/CN=forge's CA", "-keyout", f"{TOP}/ca.key", "-out", f"{TOP}/ca.pem")
    openssl("req", *key, "-subj", "/CN=forge", "-keyout", f"{TOP}/leaf.key", "-out", f"{TOP}/leaf.csr")
    openssl("x509", "-req", "-in", f"{TOP}/leaf.csr", "-CA", f"{TOP}/ca.pem", "-CAkey", f"{TOP}/ca.key", "-set_serial", "1", "-days", "3650",
            "-out", f"{TOP}/leaf.pem", "-extfile", "/dev/stdin", input=b"subjectAltName=IP:127.0.0.1\n")
    save()
    http.server.ThreadingHTTPServer.handle_error = lambda *_: None  # clients are killed
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{TOP}/leaf.pem", f"{TOP}/leaf.key")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"listening {server.server_address[1]}", flush=True)
    sys.stdin.read()


main()
