//! Upstreams that record what they receive: one with TLS for every host of the tests, one without.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A request as the upstream received it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn headers_named(&self, name: &str) -> usize {
        self.headers.iter().filter(|(n, _)| n == name).count()
    }
}

/// Both upstreams, and the requests that they received.
pub struct Site {
    pub tls_port: u16,
    pub plain_port: u16,
    /// The CA that signed for the TLS upstream, and another CA, both in PEM.
    pub ca: String,
    pub other_ca: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Length of the body of `/v1/big`.
pub const BIG: usize = 8 << 20;

impl Site {
    pub fn start(hosts: &[&str]) -> Self {
        let (ca, issuer) = authority();
        let leaf = KeyPair::generate().unwrap();
        let names: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        let cert = CertificateParams::new(names).unwrap().signed_by(&leaf, &issuer).unwrap().pem();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(leaf.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
        let config = Arc::new(config);
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (tls, plain) = (listen(), listen());
        let (tls_port, plain_port) =
            (tls.local_addr().unwrap().port(), plain.local_addr().unwrap().port());
        let log = seen.clone();
        std::thread::spawn(move || {
            for tcp in tls.incoming().flatten() {
                let _ = tcp.set_nodelay(true);
                let io = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp);
                let log = log.clone();
                std::thread::spawn(move || serve(io, &log));
            }
        });
        let log = seen.clone();
        std::thread::spawn(move || {
            for tcp in plain.incoming().flatten() {
                let log = log.clone();
                std::thread::spawn(move || serve(tcp, &log));
            }
        });
        Self { tls_port, plain_port, ca, other_ca: authority().0, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request at the upstream")
    }
}

fn authority() -> (String, rcgen::Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Another name than the leaves have: OpenSSL takes a certificate for self-signed if its issuer has
    // the same name.
    params.distinguished_name.push(rcgen::DnType::CommonName, "the tests' CA");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.self_signed(&key).unwrap().pem(), rcgen::Issuer::new(params, key))
}

/// Serves HTTP/1.1 with keep-alive until the other end closes.
fn serve(io: impl Read + Write, log: &Mutex<Vec<Seen>>) {
    let mut io = BufReader::new(io);
    while let Some(seen) = request(&mut io) {
        let path = seen.line.split(' ').nth(1).unwrap_or_default().to_owned();
        let head = seen.line.starts_with("HEAD ");
        log.lock().unwrap().push(seen);
        if answer(io.get_mut(), &path, head).is_err() {
            return;
        }
    }
}

fn request(io: &mut impl BufRead) -> Option<Seen> {
    let mut read = || {
        let mut line = String::new();
        match io.read_line(&mut line) {
            Ok(1..) => Some(line.trim_end().to_owned()),
            _ => None,
        }
    };
    let line = read()?;
    let mut headers = Vec::new();
    loop {
        let line = read()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut seen = Seen { line, headers, body: Vec::new() };
    if seen.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            io.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut part = vec![0; size + 2];
            io.read_exact(&mut part).ok()?;
            if size == 0 {
                break;
            }
            seen.body.extend_from_slice(&part[..size]);
        }
    } else if let Some(length) = seen.header("content-length") {
        seen.body = vec![0; length.parse().ok()?];
        io.read_exact(&mut seen.body).ok()?;
    }
    Some(seen)
}

fn answer(io: &mut impl Write, path: &str, head: bool) -> std::io::Result<()> {
    match path.split('?').next().unwrap_or_default() {
        "/v1/events" => {
            write!(
                io,
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nAlt-Svc: h3=\":443\"\r\n\r\n"
            )?;
            for n in 0..3 {
                let event = format!("data: {n}\n\n");
                write!(io, "{:x}\r\n{event}\r\n", event.len())?;
                io.flush()?;
                std::thread::sleep(Duration::from_millis(150)); // apart from each other: that is what is tested
            }
            write!(io, "0\r\n\r\n")?;
        }
        "/v1/big" => {
            write!(io, "HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n")?;
            io.write_all(&vec![b'x'; BIG])?;
        }
        "/v1/nothing" => write!(io, "HTTP/1.1 204 No Content\r\n\r\n")?,
        "/v1/stale" => write!(io, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")?,
        "/v1/switch" => write!(
            io,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nraw"
        )?,
        _ if head => write!(io, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")?,
        _ => write!(io, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?,
    }
    io.flush()
}
