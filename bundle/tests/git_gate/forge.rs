//! A forge on https that gives its repositories to one token: `git http-backend` behind a TLS
//! server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::client::{git_program, run};

pub struct Forge {
    pub port: u16,
    pub cert: String,
    /// The `Authorization` of each request, or `-`.
    pub seen: Arc<Mutex<Vec<String>>>,
}

impl Forge {
    /// Serves the repositories in `root` as `forge.test`.
    pub fn start(root: PathBuf, token: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["forge.test".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .pem();
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let der = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, der)
        .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let want = format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"))
        );
        let log = seen.clone();
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (config, root, want, log) =
                    (config.clone(), root.clone(), want.clone(), log.clone());
                std::thread::spawn(move || {
                    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
                    let _ = answer(&mut tls, &root, &want, &log);
                    tls.conn.send_close_notify();
                    let _ = tls.flush();
                });
            }
        });
        Self { port, cert, seen }
    }
}

fn answer(
    io: &mut (impl Read + Write),
    root: &Path,
    want: &str,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(&mut *io);
    let (mut first, mut headers) = (String::new(), Vec::new());
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        let (name, value) = line.trim_end().split_once(": ").unwrap();
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let header =
        |name: &str| headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    drop(reader);
    let auth = header("authorization");
    log.lock().unwrap().push(if auth.is_empty() { "-".to_owned() } else { auth.to_owned() });
    if auth != want {
        let no = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        io.write_all(no.as_bytes())?;
        return io.flush();
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let exec = run(Command::new(git_program().unwrap()).arg("--exec-path"));
    let mut child = Command::new(Path::new(exec.trim()).join("git-http-backend"))
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", exec.trim()))
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("REMOTE_USER", "gate")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdin = child.stdin.take().unwrap();
    let feed = std::thread::spawn(move || stdin.write_all(&body));
    let out = child.wait_with_output()?.stdout;
    let _ = feed.join();
    let split = out.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(out.len());
    let head = String::from_utf8_lossy(&out[..split]).into_owned();
    let status =
        head.lines().find_map(|l| l.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    write!(io, "HTTP/1.1 {status}\r\n{head}\r\nConnection: close\r\n\r\n")?;
    io.write_all(&out[(split + 4).min(out.len())..])?;
    io.flush()
}
