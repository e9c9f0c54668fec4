//! Starts the daemons, and talks to them as a guest does, with blocking I/O.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

pub const TOKEN: &str = "tok-81e7-planted-value";
pub const BIN: &str = env!("CARGO_BIN_EXE_bottle-bundle");

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The bottle's CA: certificate and key, PEM.
fn ca() -> &'static (String, String) {
    static CA: OnceLock<(String, String)> = OnceLock::new();
    CA.get_or_init(|| {
        let key = KeyPair::generate().unwrap();
        let mut p = CertificateParams::default();
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (p.self_signed(&key).unwrap().pem(), key.serialize_pem())
    })
}

/// A self-signed certificate for `host`.
fn own(host: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (
        CertificateParams::new(vec![host.to_owned()]).unwrap().self_signed(&key).unwrap().pem(),
        key.serialize_pem(),
    )
}

fn policy(host: &str, port: u16, cert: &str, inject: bool) -> String {
    let mut route = serde_json::json!({"name": "up", "host": host, "connect": format!("127.0.0.1:{port}"), "ca": cert});
    if inject {
        route["inject"] =
            serde_json::json!({"header": "authorization", "scheme": "bearer", "token": "DEMO"});
    }
    serde_json::json!({"version": 1, "routes": [route]}).to_string()
}

fn me() -> String {
    std::process::id().to_string()
}

pub struct Demo {
    pub process: Child,
    port: u16,
    cert: String,
}

impl Demo {
    pub fn start() -> Self {
        let (cert, key) = own("demo.bottle.test");
        let mut process = Command::new(BIN)
            .args(["demo-upstream"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let line = serde_json::json!({"cert_chain": cert, "key": key, "token": TOKEN});
        writeln!(process.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut said = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        let port = said.trim().strip_prefix("listening ").unwrap().parse().unwrap();
        Self { process, port, cert }
    }

    pub fn policy(&self) -> String {
        policy("demo.bottle.test", self.port, &self.cert, true)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

/// An egress program, with arguments that come before those of the contract.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    pub args: Vec<String>,
    /// Parent process that the program is told to die with; by default this process.
    pub parent: Option<u32>,
}

impl Program {
    pub fn ours() -> Self {
        Self { path: BIN.into(), args: vec!["egress".to_owned()], parent: None }
    }

    pub fn at(path: PathBuf) -> Self {
        Self { path, args: Vec::new(), parent: None }
    }
}

pub struct Egress {
    pub process: Child,
    pub dir: tempfile::TempDir,
}

impl Egress {
    /// The bottle's CA in DER.
    pub fn ca_certificate() -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(ca().0.as_bytes()).unwrap()
    }

    pub fn input() -> String {
        let (cert, key) = ca();
        serde_json::json!({"ca_cert": cert, "ca_key": key, "tokens": {"DEMO": TOKEN}}).to_string()
    }

    pub fn spawn(dir: tempfile::TempDir, policy: &str, input: &str) -> Self {
        Self::spawn_with(dir, policy, input, std::process::id())
    }

    pub fn spawn_with(dir: tempfile::TempDir, policy: &str, input: &str, parent: u32) -> Self {
        Self::spawn_in(dir, policy, input, parent, &[])
    }

    pub fn spawn_in(
        dir: tempfile::TempDir,
        policy: &str,
        input: &str,
        parent: u32,
        env: &[(&str, &std::path::Path)],
    ) -> Self {
        Self::spawn_as(
            &Program { parent: Some(parent), ..Program::ours() },
            dir,
            policy,
            input,
            env,
        )
    }

    /// Another program with the same contract.
    pub fn spawn_program(
        program: &Program,
        dir: tempfile::TempDir,
        policy: &str,
        input: &str,
    ) -> Self {
        Self::spawn_as(program, dir, policy, input, &[])
    }

    fn spawn_as(
        program: &Program,
        dir: tempfile::TempDir,
        policy: &str,
        input: &str,
        env: &[(&str, &std::path::Path)],
    ) -> Self {
        let run = dir.path().join("run");
        let _ = fs::DirBuilder::new().mode(0o700).create(&run);
        fs::write(dir.path().join("policy.json"), policy).unwrap();
        let mut process = Command::new(&program.path)
            .envs(env.iter().copied())
            .args(&program.args)
            .args([
                "--slug",
                "test",
                "--parent",
                &program.parent.unwrap_or_else(std::process::id).to_string(),
            ])
            .arg("--socket")
            .arg(run.join("s"))
            .arg("--policy")
            .arg(dir.path().join("policy.json"))
            .arg("--audit")
            .arg(dir.path().join("audit.jsonl"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = writeln!(process.stdin.as_mut().unwrap(), "{input}");
        Self { process, dir }
    }

    pub fn ready(mut self) -> Self {
        let mut said = String::new();
        BufReader::new(self.process.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        if said != "ready\n" {
            let mut log = String::new();
            self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            panic!("{said:?} {log}");
        }
        self
    }

    /// Spawns the program as `bottle` does. The parent-death signal is tied to the spawning thread,
    /// which is the test's.
    pub fn start(policy: &str) -> Self {
        Self::spawn(tempfile::tempdir().unwrap(), policy, &Self::input()).ready()
    }

    /// Starts another daemon in place of one that was killed.
    pub fn again(mut self, policy: &str) -> Self {
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        Self::spawn(dir, policy, &Self::input()).ready()
    }

    pub fn audit(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    /// The audit log once it has `n` lines besides the opening lines.
    pub fn audit_lines(&self, n: usize) -> String {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let text = fs::read_to_string(self.audit()).unwrap();
            let lines = text.lines().filter(|l| !l.contains(r#""event":"admitted""#)).count();
            if lines >= n || Instant::now() > deadline {
                assert_eq!(lines, n, "{text}");
                return text;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn connect(&self) -> UnixStream {
        let io = UnixStream::connect(self.dir.path().join("run/s")).unwrap();
        io.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        io
    }

    pub fn tls(&self, host: &str) -> StreamOwned<ClientConnection, UnixStream> {
        self.tls_as(host, host)
    }

    /// TLS for `name` in a tunnel to `host`.
    pub fn tls_as(&self, host: &str, name: &str) -> StreamOwned<ClientConnection, UnixStream> {
        self.tls_offering(host, name, &[])
    }

    /// The same, and offers these protocols by ALPN.
    pub fn tls_offering(
        &self,
        host: &str,
        name: &str,
        protocols: &[&str],
    ) -> StreamOwned<ClientConnection, UnixStream> {
        let mut io = self.connect();
        write!(io, "CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut b = [0];
            io.read_exact(&mut b).unwrap();
            head.push(b[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca().0.as_bytes()).unwrap()).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), io)
    }

    pub fn get(&self, host: &str, path: &str, headers: &str) -> String {
        let mut io = self.tls(host);
        write!(io, "GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n")
            .unwrap();
        let mut all = Vec::new();
        let _ = io.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Peak memory of the daemon, KiB.
    pub fn peak_kib(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A TLS upstream with big bodies.
pub struct Upstream {
    port: u16,
    cert: String,
}

impl Upstream {
    pub fn start(size: usize) -> Self {
        let (cert, key) = own("up.test");
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for tcp in listener.incoming() {
                let tcp = tcp.unwrap();
                tcp.set_nodelay(true).unwrap();
                let io = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp);
                std::thread::spawn(move || serve(io, size));
            }
        });
        Self { port, cert }
    }

    pub fn policy(&self) -> String {
        policy("up.test", self.port, &self.cert, false)
    }

    /// The certificate to be trusted, PEM.
    pub fn certificate(&self) -> &str {
        &self.cert
    }
}

fn serve(io: StreamOwned<ServerConnection, std::net::TcpStream>, size: usize) {
    let mut io = BufReader::new(io);
    loop {
        let (mut first, mut length, mut authorization) = (String::new(), 0, String::new());
        if io.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            io.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            if let Some(n) = line.strip_prefix("content-length: ") {
                length = n.trim().parse().unwrap();
            }
            if let Some(value) = line.strip_prefix("authorization: ") {
                authorization = value.trim().to_owned();
            }
        }
        std::io::copy(&mut io.by_ref().take(length), &mut std::io::sink()).unwrap();
        if first.starts_with("POST /never ") {
            std::thread::sleep(Duration::from_secs(60)); // an upstream that got all and does not answer
        }
        let n = if first.starts_with("GET /big ") { size } else { 2 };
        // `/wants/TOKEN` accepts only that token.
        let wanted = first.split(' ').nth(1).and_then(|path| path.strip_prefix("/wants/"));
        let status = if wanted.is_none_or(|w| authorization.ends_with(w)) {
            "200 OK"
        } else {
            "401 Unauthorized"
        };
        let out = io.get_mut();
        write!(out, "HTTP/1.1 {status}\r\nContent-Length: {n}\r\n\r\n").unwrap();
        let block = vec![b'x'; 64 * 1024];
        let mut left = n;
        while left > 0 {
            let part = left.min(block.len());
            if out.write_all(&block[..part]).is_err() {
                return;
            }
            left -= part;
        }
    }
}

/// Reads a response up to its Content-Length. Returns the length of the body, bytes.
pub fn read_body(io: &mut impl Read) -> usize {
    let mut io = BufReader::new(io);
    let mut length = 0;
    loop {
        let mut line = String::new();
        io.read_line(&mut line).unwrap();
        if line == "\r\n" {
            break;
        }
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = n.trim().parse().unwrap();
        }
    }
    let got = std::io::copy(&mut io.take(length), &mut std::io::sink()).unwrap();
    usize::try_from(got).unwrap()
}
