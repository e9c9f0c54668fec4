//! Answers that come before the request's body was read.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2_client::{Outcome, upload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::Bench;
use super::upstream::Upstream;

/// Bytes of an upload: more than all windows and buffers on the way.
const UPLOAD_BYTES: usize = 8 << 20;

async fn bench(upstream: &Upstream) -> Bench {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut dead = upstream.route("dead", "dead.test");
    dead.connect = Some(closed);
    let mut small = upstream.route("small", "small.test");
    small.max_body = Some(1000);
    let api = upstream.route("api", "api.test");
    Bench::start(vec![dead, small, api])
}

/// Host, path, status, and a part of the body.
const EARLY: &[(&str, &str, u16, &str)] = &[
    ("dead.test", "/", 502, "[connect]"),
    ("small.test", "/", 413, "[max-body]"),
    ("evil.small.test", "/", 421, "[host-mismatch]"),
    ("api.test", "/early-401", 401, "who are you"),
    ("api.test", "/early-413", 413, "too much"),
];

#[tokio::test(flavor = "multi_thread")]
async fn they_reach_http2_guests_without_a_reset() {
    for alpn in [&[&b"h2"[..]][..], &[&b"http/1.1"[..]][..]] {
        let upstream = Upstream::start_for(&["api.test", "small.test"], true, alpn).await;
        let bench = bench(&upstream).await;
        for (host, path, status, text) in EARLY {
            let tunnel = host.strip_prefix("evil.").unwrap_or(host);
            let uri = format!("https://{host}{path}");
            let Outcome { answer, body, sent } = upload(&bench, tunnel, &uri, UPLOAD_BYTES).await;
            assert_eq!(answer.as_u16(), *status, "{uri} {alpn:?}");
            assert!(body.contains(text), "{uri}: {body}");
            assert_eq!(sent, UPLOAD_BYTES, "{uri} {alpn:?}: the upload was reset");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_reach_http1_guests() {
    let upstream = Upstream::start(&["api.test", "small.test"], true).await;
    let bench = Arc::new(bench(&upstream).await);
    for (host, path, status, text) in EARLY.iter().filter(|case| !case.0.starts_with("evil.")) {
        let io = bench.tls(host).await;
        let (mut read, mut write) = tokio::io::split(io);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n"
        );
        let sender = tokio::spawn(async move {
            write.write_all(head.as_bytes()).await?;
            write.write_all(&vec![b'x'; UPLOAD_BYTES]).await?;
            write.flush().await
        });
        let mut got = BytesMut::new();
        let want = format!("HTTP/1.1 {status} ");
        while !String::from_utf8_lossy(&got).contains(text) {
            let read = tokio::time::timeout(Duration::from_secs(10), read.read_buf(&mut got)).await;
            let some = read.is_ok_and(|n| n.is_ok_and(|n| n > 0));
            assert!(some, "{host}{path}: {got:?} {}", bench.audit_text());
        }
        assert!(got.starts_with(want.as_bytes()), "{host}{path}: {got:?}");
        assert!(sender.await.unwrap().is_ok(), "{host}{path}: the upload was cut off");
    }
}

/// A client that, as curl does, sends the whole body before it takes the answer.
mod h2_client {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::{Bench, Bytes};
    use http::{Request, StatusCode};
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::body::Frame;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use rustls_pki_types::ServerName;

    pub struct Outcome {
        pub answer: StatusCode,
        pub body: String,
        /// Bytes of the request's body that were sent before the end or a reset of the stream.
        pub sent: usize,
    }

    pub async fn upload(bench: &Bench, tunnel: &str, uri: &str, size: usize) -> Outcome {
        let io = bench.tunnel(&format!("{tunnel}:443")).await.unwrap();
        let name = ServerName::try_from(tunnel.to_owned()).unwrap();
        let tls = bench.ca.connector_for(true, &[b"h2"]).connect(name, io).await.unwrap();
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut client, connection) = builder.handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let block = Bytes::from(vec![b'x'; 64 * 1024]);
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let blocks = (0..size / block.len()).map(move |_| {
            counter.fetch_add(block.len(), Ordering::Relaxed);
            Ok::<_, Infallible>(Frame::data(block.clone()))
        });
        let body = StreamBody::new(futures_util::stream::iter(blocks));
        let answer = client.send_request(Request::post(uri).body(body).unwrap()).await.unwrap();
        // The stream holds the second reference until it ends or is reset.
        for _ in 0..1000 {
            if Arc::strong_count(&sent) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (head, body) = answer.into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        Outcome {
            answer: head.status,
            body: String::from_utf8(text.to_vec()).unwrap(),
            sent: sent.load(Ordering::Relaxed),
        }
    }
}
