//! The bottle that all clients run in, the upstreams they reach, and what is asked of each.

pub mod cases;
pub mod table;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;

use table::Client;

use crate::support::{Home, Running, assert_code, stderr, stdout};

/// Not a real token.
pub const TOKEN: &str = "clients-5d1f77a0c3e94b28-token";
/// The upstreams; each is a route of its own name.
const HOSTS: &[&str] = &["api", "h2", "git", "pypi", "npm", "crates", "go"];
const MANIFEST: &str = "\
version = 1
[agents.worker]
bottle = \"clients\"
provider = \"command\"
command = [\"true\"]
[bottles.clients]
image = \"clients\"
resources = { cpus = 2, memory = \"1GiB\" }
";
/// Trust anchors that are not the bottle's, for every client in its own words. A JVM that is shown
/// a missing file falls back to its own.
const OTHER_CA: &str = "\
    other=/usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt; \
    for v in SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO CARGO_HTTP_CAINFO PIP_CERT; do export $v=$other; done; \
    export SSL_CERT_DIR=/mnt GIT_SSL_CAPATH=/mnt JAVA_TOOL_OPTIONS=\"$JAVA_TOOL_OPTIONS -Djavax.net.ssl.trustStore=NONE\"; unset NODE_EXTRA_CA_CERTS; ";

/// tests/clients/upstreams.py. It ends with its standard input.
struct Upstreams(Child);

impl Drop for Upstreams {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The bottle and its upstreams.
pub struct World<'h> {
    pub bottle: Mutex<Option<Running<'h>>>,
    home: &'h Home,
    upstreams: Mutex<Option<Upstreams>>,
}

impl<'h> World<'h> {
    /// Starts the upstreams, and a bottle with a route to each.
    pub fn start(home: &'h Home) -> Self {
        let served = home.path().join("served");
        std::fs::create_dir(&served).expect("a directory");
        let token = home.project().join("token");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&token)
            .expect("the token's file");
        std::io::Write::write_all(&mut file, TOKEN.as_bytes()).expect("the token");

        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/upstreams.py");
        let mut command = Command::new("python3");
        command.arg(program).args([&served, &token]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut upstreams = Upstreams(command.spawn().expect("python3"));
        let mut said = String::new();
        BufReader::new(upstreams.0.stdout.take().expect("its output"))
            .read_line(&mut said)
            .expect("its ports");
        let ports: Vec<&str> =
            said.strip_prefix("listening ").expect(&said).split_whitespace().collect();

        std::fs::copy(served.join("ca.pem"), home.project().join("ca.pem"))
            .expect("the upstreams' CA");
        let routes = HOSTS.iter().map(|host| {
            let port = if *host == "h2" { ports[1] } else { ports[0] };
            let paths = if *host == "api" { "paths = [\"/echo/*\", \"/sse/*\", \"/ws/*\"]\n" } else { "" };
            format!(
                "[[bottles.clients.egress]]\nname = \"{host}\"\nhost = \"{host}.clients.test\"\nconnect = \"127.0.0.1:{port}\"\n{paths}\
                 allow_private = true\nca_file = \"ca.pem\"\ninject = {{ token = {{ file = \"token\" }} }}\n"
            )
        });
        std::fs::write(
            home.project().join("bottle.toml"),
            MANIFEST.to_owned() + &routes.collect::<String>(),
        )
        .expect("a manifest");
        let bottle = Mutex::new(Some(home.up("worker", &["worker"])));
        Self { bottle, home, upstreams: Mutex::new(Some(upstreams)) }
    }

    /// Tears everything down.
    pub fn stop(&self) {
        // First, as their command line names the home too.
        drop(self.upstreams.lock().expect("the upstreams").take());
        self.bottle.lock().expect("the bottle").take().expect("the bottle").stop();
    }

    /// Runs a script as the agent, in a directory of its own.
    pub fn sh(&self, script: &str) -> Output {
        let script = format!("cd $(mktemp -d); {script}");
        self.home.run(&["exec", "worker", "--", "bash", "-c", &script])
    }

    /// The audit lines of requests to `host`, for paths that begin with `path`.
    fn audited(&self, host: &str, path: &str) -> Vec<serde_json::Value> {
        let log = std::fs::read_to_string(self.home.state().join("bottles/worker/audit.jsonl"))
            .expect("the audit log");
        let lines =
            log.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("a line"));
        lines
            .filter(|l| {
                l["host"] == host && l["path"].as_str().unwrap_or_default().starts_with(path)
            })
            .collect()
    }
}

/// Runs the client's script with `$URL`.
fn run(world: &World<'_>, client: &Client, before: &str, url: &str) -> Output {
    world.sh(&format!("{before}export URL={url}; {}", client.script))
}

fn all(output: &Output) -> String {
    format!("{}{}", stdout(output), stderr(output))
}

/// With what the bottle gives it.
pub fn works(world: &World<'_>, client: &Client) {
    let output = run(world, client, "", &client.url());
    assert_code(&output, 0);
    assert!(
        stdout(&output).contains(client.expect),
        "no {:?} in:\n{}",
        client.expect,
        all(&output)
    );
    let lines = world.audited(&client.host(), &client.path());
    let admitted =
        lines.iter().filter(|l| l["event"] == "admitted" && l["route"] == client.service);
    assert_ne!(admitted.count(), 0, "not audited: {lines:?}");
}

/// To a host that no route names.
pub fn denied(world: &World<'_>, client: &Client) {
    let host = format!("{}.denied.test", client.name.replace('_', "-"));
    let output = run(world, client, "", &format!("https://{host}{}", client.path()));
    assert_ne!(output.status.code(), Some(0), "it works without a route:\n{}", all(&output));
    assert!(all(&output).contains(client.denied), "no {:?} in:\n{}", client.denied, all(&output));
    let lines = world.audited(&host, "");
    assert!(!lines.is_empty(), "not audited");
    assert!(
        lines
            .iter()
            .all(|l| l["event"] == "refused" && l["rule"] == "no-route" && l["status"] == 403),
        "{lines:?}"
    );
}

/// With trust anchors other than the bottle's.
pub fn untrusted(world: &World<'_>, client: &Client) {
    let path = format!("{}/untrusted", client.path().trim_end_matches('/'));
    let output = run(world, client, OTHER_CA, &format!("https://{}{path}", client.host()));
    assert_ne!(output.status.code(), Some(0), "it works without the CA:\n{}", all(&output));
    assert!(
        all(&output).contains(client.untrusted),
        "no {:?} in:\n{}",
        client.untrusted,
        all(&output)
    );
    let lines = world.audited(&client.host(), &path);
    assert!(lines.is_empty(), "something was let through: {lines:?}");
}
