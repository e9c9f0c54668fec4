//! The clients, one entry each.

/// A client.
pub struct Client {
    pub name: &'static str,
    /// The upstream, which is the route's name too.
    pub service: &'static str,
    /// Where in it; empty: `/` and the name.
    pub below: &'static str,
    /// What is run; `$URL` is where to.
    pub script: &'static str,
    /// What it prints when it works.
    pub expect: &'static str,
    /// What it prints without a route.
    pub denied: &'static str,
    /// What it prints without the bottle's CA.
    pub untrusted: &'static str,
}

impl Client {
    pub fn host(&self) -> String {
        format!("{}.clients.test", self.service)
    }

    pub fn path(&self) -> String {
        let name = if self.service == "api" { self.name } else { "" };
        format!("/{}{name}", self.below)
    }

    pub fn url(&self) -> String {
        format!("https://{}{}", self.host(), self.path())
    }
}

const GREETING: &str = "hello from the registry";
/// curl's words, and those of all that use its library.
const TUNNEL: &str = "CONNECT tunnel failed, response 403";

#[rustfmt::skip]
pub const CLIENTS: &[Client] = &[
    Client {
        name: "curl_http1", service: "api", below: "echo/",
        script: "curl -sS --http1.1 -w 'over %{http_version}' -d hi $URL",
        expect: "\"body\": \"hi\"}\nover 1.1", denied: TUNNEL, untrusted: "SSL certificate problem",
    },
    Client {
        name: "curl_http2", service: "api", below: "echo/",
        script: "curl -sS --http2 -w 'over %{http_version}' -d hi $URL",
        expect: "\"body\": \"hi\"}\nover 2", denied: TUNNEL, untrusted: "SSL certificate problem",
    },
    // The upstream speaks nothing else.
    Client {
        name: "curl_to_http2_only", service: "h2", below: "",
        script: "curl -sS -w 'over %{http_version}' -d hi ${URL}echo",
        expect: "\"version\": \"HTTP/2\", \"body\": \"hi\"}\nover 2", denied: TUNNEL, untrusted: "SSL certificate problem",
    },
    // Each event is stamped with the seconds since the first: they must come as they are sent, 200
    // ms apart.
    Client {
        name: "curl_sse", service: "api", below: "sse/",
        script: "set -o pipefail; curl -sSN $URL | { while read -r line; do t=${EPOCHREALTIME/./}; [ -z \"$line\" ] || echo $line; first=${first:-$t}; done; \
                 [ $((t - first)) -gt 500000 ] && echo in time; }",
        expect: "data: 0\ndata: 1\ndata: 2\ndata: 3\ndata: 4\nin time", denied: TUNNEL, untrusted: "SSL certificate problem",
    },
    Client {
        name: "git", service: "git", below: "",
        script: "git clone -q ${URL%/}/tiny.git && cd tiny && cat greeting && echo more > more && git add more && \
                 git -c user.name=a -c user.email=a@b commit -qm more && git push -q origin HEAD:refs/heads/agent && git ls-remote origin",
        expect: "refs/heads/agent", denied: TUNNEL, untrusted: "server certificate verification failed",
    },
    Client {
        name: "requests", service: "api", below: "echo/",
        script: "python3 -c 'import os, requests; print(requests.post(os.environ[\"URL\"], data=\"hi\").text)'",
        expect: "\"body\": \"hi\"", denied: "Tunnel connection failed: 403", untrusted: "CERTIFICATE_VERIFY_FAILED",
    },
    Client {
        name: "websocket_client", service: "api", below: "ws/",
        script: "python3 -c 'import os, websocket; s = websocket.create_connection(os.environ[\"URL\"].replace(\"https\", \"wss\")); \
                 s.send(\"x\" * 70000); print(len(s.recv())); s.close()'",
        expect: "70000", denied: "failed CONNECT via proxy status: 403", untrusted: "CERTIFICATE_VERIFY_FAILED",
    },
    // Its last word is about versions; -v has the reason too, at four times the length.
    Client {
        name: "pip", service: "pypi", below: "simple",
        script: "pip3 install --retries 0 --disable-pip-version-check --no-compile --target . --index-url $URL tiny && python3 -c 'import tiny; print(tiny.GREETING)'",
        expect: GREETING, denied: "No matching distribution found for tiny", untrusted: "CERTIFICATE_VERIFY_FAILED",
    },
    Client {
        name: "node_fetch", service: "api", below: "echo/",
        script: "node -e 'fetch(process.env.URL, { method: \"POST\", body: \"hi\" }).then(r => r.text()).then(console.log)'",
        expect: "\"body\": \"hi\"", denied: "Request was cancelled", untrusted: "unable to verify the first certificate",
    },
    Client {
        name: "node_websocket", service: "api", below: "ws/",
        script: "node -e 'const s = new WebSocket(process.env.URL.replace(\"https\", \"wss\")); s.onopen = () => s.send(\"hi\"); \
                 s.onmessage = m => { console.log(\"said \" + m.data); s.close() }; s.onerror = e => { console.log(\"error \" + e.message); process.exit(1) }'",
        expect: "said hi", denied: "error ", untrusted: "error ",
    },
    Client {
        name: "npm", service: "npm", below: "",
        script: "npm install --no-audit --no-fund --no-update-notifier --fetch-retries=0 --prefix . --loglevel=error --registry $URL tiny >&2 && \
                 node -p 'require(\"./node_modules/tiny\")'",
        expect: GREETING, denied: "403 Forbidden", untrusted: "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
    },
    // Vendors and not fetches, because that alone needs no compiler.
    Client {
        name: "cargo", service: "crates", below: "index",
        script: "mkdir src .cargo && touch src/lib.rs && printf '[package]\\nname = \"a\"\\nedition = \"2021\"\\n[dependencies]\\ntiny = \"1\"\\n' > Cargo.toml && \
                 printf '[source.crates-io]\\nreplace-with = \"ours\"\\n[source.ours]\\nregistry = \"sparse+'$URL'/\"\\n' > .cargo/config.toml && \
                 CARGO_NET_RETRY=0 cargo vendor -q --respect-source-config && cat vendor/tiny/src/lib.rs",
        expect: GREETING, denied: TUNNEL, untrusted: "SSL certificate problem",
    },
    Client {
        name: "go", service: "go", below: "proxy",
        script: "GOFLAGS=-modcacherw GONOSUMDB='*' GOPATH=$PWD GOPROXY=$URL go mod download go.clients.test/tiny@v1.0.0 && cat pkg/mod/go.clients.test/tiny@v1.0.0/tiny.go",
        expect: GREETING, denied: ": Forbidden", untrusted: "certificate signed by unknown authority",
    },
    Client {
        name: "java", service: "api", below: "echo/",
        script: "java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp /usr/local/lib/java Fetch $URL",
        expect: "HTTP_2 200\n{\"method\": \"GET\"", denied: "Tunnel failed, got: 403", untrusted: "the trustAnchors parameter must be non-empty",
    },
];
