#!/usr/bin/env python3
"""vendors.py DIR: stand-ins for the model APIs of Anthropic and OpenAI, over TLS on loopback, speaking their streaming protocols.

Makes in DIR a CA (ca.pem), prints `listening PORT`, serves until its standard input ends. Every request goes to DIR/seen.jsonl, one
JSON object a line: host, method, path, headers, body. DIR/tokens.json says which credentials are good: {HOST: [VALUE of a header, …]};
others get the vendor's 401. The model is a script: each line of the last prompt that begins with `do ` is a tool call as
`do NAME JSON`, made in order, one a turn; then comes a text that quotes what the last call returned. Needs Python 3 and openssl.
"""

import http.server
import json
import os
import re
import ssl
import subprocess
import sys
import threading

HOSTS = ["api.anthropic.com", "api.openai.com", "chatgpt.com", "platform.claude.com", "auth.openai.com", "localhost"]
TOP = sys.argv[1]


def run(*argv, **more):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)


def context():
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"]
    run("openssl", "req", "-x509", *key, "-subj", "/CN=vendors of the agents' check", "-keyout", f"{TOP}/ca.key", "-out", f"{TOP}/ca.pem",
        "-addext", "keyUsage=critical,keyCertSign")
    run("openssl", "req", *key, "-subj", "/CN=vendors", "-keyout", f"{TOP}/leaf.key", "-out", f"{TOP}/leaf.csr")
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    run("openssl", "x509", "-req", "-in", f"{TOP}/leaf.csr", "-CA", f"{TOP}/ca.pem", "-CAkey", f"{TOP}/ca.key", "-set_serial", "1",
        "-days", "3650", "-out", f"{TOP}/leaf.pem", "-extfile", "/dev/stdin", input=f"subjectAltName={names}\n".encode())
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{TOP}/leaf.pem", f"{TOP}/leaf.key")
    tls.set_alpn_protocols(["http/1.1"])
    return tls


def flat(content):
    """The text of a message's or result's content."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    return "\n".join(flat(part.get("text", part.get("content", part.get("output", "")))) if isinstance(part, dict) else str(part) for part in content or [])


def calls_of(prompt):
    """The tool calls that a prompt asks for: (name, input)."""
    found = re.findall(r"^do ([\w.-]+) (\{.*\})$", prompt, re.MULTILINE)
    return [(name, json.loads(text)) for name, text in found]


def pieces(text):
    return [text[i:i + 7] for i in range(0, len(text), 7)] or [""]


class Vendor(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock = threading.Lock()

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind="application/json", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def stream(self, events):
        """Server-sent events, each a chunk of its own."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            text = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def handle_any(self):
        length = int(self.headers.get("content-length") or 0)
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        host = self.headers.get("host", "").split(":")[0]
        text = body.decode("utf-8", "replace")
        seen = {"host": host, "method": self.command, "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}, "body": text}
        with self.lock, open(f"{TOP}/seen.jsonl", "a") as log:
            log.write(json.dumps(seen) + "\n")
        tokens = json.load(open(f"{TOP}/tokens.json")).get(host, [])
        given = {self.headers.get("x-api-key"), self.headers.get("authorization")}
        path = self.path.split("?")[0]
        if path in ("/api/hello",):
            return self.answer(200, {"message": "hello"})
        if path.endswith("/oauth/token"):
            return self.refresh(json.loads(text) if text.startswith("{") else dict(p.split("=", 1) for p in text.split("&")))
        if not given & set(tokens):
            error = {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key", "code": "invalid_api_key"}}
            return self.answer(401, error)
        asked = json.loads(text) if text.startswith("{") else {}
        if path == "/v1/messages":
            return self.messages(asked)
        if path == "/v1/messages/count_tokens":
            return self.answer(200, {"input_tokens": 10})
        if path.endswith("/responses") and self.command == "POST":
            return self.respond(asked)
        if path.endswith("/models"):
            return self.answer(200, {"object": "list", "data": [], "models": []})
        return self.answer(404, {"type": "error", "error": {"type": "not_found_error", "message": path}})

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_PATCH = handle_any

    def refresh(self, asked):
        """OAuth: each refresh token is good once."""
        with self.lock:
            state = json.load(open(f"{TOP}/tokens.json"))
            grants = state.setdefault("refresh", {})
            grant = grants.pop(asked.get("refresh_token"), None)
            if grant is None:
                return self.answer(400, {"error": "invalid_grant"})
            host, access, again = grant
            state.setdefault(host, []).append(f"Bearer {access}")
            grants[again] = [host, access + "x", again + "x"]
            json.dump(state, open(f"{TOP}/tokens.json", "w"))
        self.answer(200, {"access_token": access, "refresh_token": again, "expires_in": 28800, "token_type": "Bearer", "id_token": "new-id-token"})

    # Anthropic

    def messages(self, asked):
        turns = asked.get("messages", [])
        # The prompt is the last message of the user's that is no tool's result.
        prompt, results = "", []
        for turn in turns:
            content = turn.get("content")
            if turn.get("role") != "user":
                continue
            blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
            returned = [flat(b.get("content")) for b in blocks if b.get("type") == "tool_result"]
            if returned:
                results += returned
            else:
                prompt, results = flat(blocks), []
        calls = calls_of(prompt)
        if not asked.get("tools"):
            calls = []
        if not asked.get("stream"):
            text = {"type": "text", "text": "{\"title\": \"A task\"}"}
            return self.answer(200, {"id": "msg_1", "type": "message", "role": "assistant", "model": asked.get("model"), "content": [text],
                                     "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}})
        usage = {"input_tokens": 10, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        message = {"id": f"msg_{len(turns)}", "type": "message", "role": "assistant", "model": asked.get("model"), "content": [],
                   "stop_reason": None, "stop_sequence": None, "usage": usage}
        events = [{"type": "message_start", "message": message}, {"type": "ping"}]
        if len(results) < len(calls):
            name, given = calls[len(results)]
            events.append({"type": "content_block_start", "index": 0,
                           "content_block": {"type": "tool_use", "id": f"toolu_{len(turns)}", "name": name, "input": {}}})
            events += [{"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": p}} for p in pieces(json.dumps(given))]
            reason = "tool_use"
        else:
            users = sum(1 for t in turns if t.get("role") == "user")
            said = f"The model has seen {users} turns. {results[-1] if results else 'No tool was used.'}"
            events.append({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
            events += [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}} for p in pieces(said)]
            reason = "end_turn"
        events += [{"type": "content_block_stop", "index": 0},
                   {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": {"output_tokens": 5}},
                   {"type": "message_stop"}]
        self.stream(events)

    # OpenAI

    def respond(self, asked):
        prompt, results, users = "", [], 0
        for item in asked.get("input", []):
            if item.get("type") in ("function_call_output", "custom_tool_call_output"):
                results.append(flat(item.get("output")))
            elif item.get("role") == "user":
                prompt, results, users = flat(item.get("content")), [], users + 1
        calls = calls_of(prompt)
        response = {"id": "resp_1", "object": "response", "created_at": 1, "model": asked.get("model"), "output": [], "status": "in_progress"}
        events = [{"type": "response.created", "response": response}]
        if len(results) < len(calls):
            name, given = calls[len(results)]
            if "input" in given and name in ("apply_patch", "exec"):
                item = {"type": "custom_tool_call", "id": "ctc_1", "call_id": f"call_{len(results)}_{users}", "name": name, "input": given["input"]}
            else:
                item = {"type": "function_call", "id": "fc_1", "call_id": f"call_{len(results)}_{users}", "name": name, "arguments": json.dumps(given), "status": "completed"}
            events += [{"type": "response.output_item.added", "output_index": 0, "item": item}, {"type": "response.output_item.done", "output_index": 0, "item": item}]
        else:
            said = f"The model has seen {users} turns. {results[-1] if results else 'No tool was used.'}"
            item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": said, "annotations": []}]}
            events.append({"type": "response.output_item.added", "output_index": 0, "item": dict(item, content=[], status="in_progress")})
            events += [{"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": p} for p in pieces(said)]
            events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
        done = dict(response, status="completed", output=[item],
                    usage={"input_tokens": 10, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
                           "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 15})
        events.append({"type": "response.completed", "response": done})
        self.stream(events)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


def main():
    os.umask(0o077)
    tls = context()
    server = Server(("127.0.0.1", 0), Vendor)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"listening {server.server_address[1]}", flush=True)
    sys.stdin.read()


main()
