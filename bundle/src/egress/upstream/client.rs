//! The HTTP client of one route, with its pool of connections.

use std::error::Error as _;
use std::sync::Arc;

use bottle_policy::Route;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::connector::{ConnectError, Connector, Dialer, Protocol};
use super::network::Network;
use crate::egress::body::upload::Upload;
use crate::egress::meter::Meter;
use crate::egress::refusal::{Refusal, Rule};
use crate::egress::request::authority::Authority;
use crate::egress::route::rules::{RouteRules, TimeLimit};

/// A route's `ca` holds no PEM certificate.
#[derive(Debug)]
pub struct NoCertificate;

/// The connections of one route.
pub struct Upstream {
    http1: Client<Connector, Upload>,
    http2: Client<Connector, Upload>,
    dialer: Arc<Dialer>,
    network: Arc<Network>,
}

impl Upstream {
    /// A client without connections yet.
    ///
    /// # Errors
    /// `route.ca` holds no certificate.
    pub fn new(route: &Route, network: Arc<Network>) -> Result<Self, NoCertificate> {
        let mut cas = Vec::new();
        if let Some(pem) = &route.ca {
            for ca in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                cas.push(ca.map_err(|_| NoCertificate)?);
            }
            if cas.is_empty() {
                return Err(NoCertificate);
            }
        }
        let dialer = Arc::new(Dialer::new(route, cas, network.clone()));
        let client = |protocol| {
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(network.limits.pool_idle)
                .pool_max_idle_per_host(64)
                .http1_max_buf_size(128 * 1024)
                .http2_initial_stream_window_size(128 * 1024)
                .http2_initial_connection_window_size(1024 * 1024)
                .http2_max_header_list_size(64 * 1024)
                .http2_max_send_buf_size(128 * 1024)
                .set_host(true) // for HTTP/1.1 only: nginx refuses Host beside :authority
                .build(Connector { dialer: dialer.clone(), protocol })
        };
        Ok(Self {
            http1: client(Protocol::Http1),
            http2: client(Protocol::Http2),
            dialer: dialer.clone(),
            network: network.clone(),
        })
    }

    /// A TCP connection for a tunnel that is not intercepted.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn dial(&self, to: &Authority) -> Result<TcpStream, Refusal> {
        let limit = self.network.limits.connect;
        let slow = || {
            Refusal::new(
                Rule::ConnectTimeout,
                format!("{to} could not be reached in {} s", limit.as_secs()),
            )
        };
        timeout(limit, self.dialer.dial(to)).await.map_err(|_| slow())?
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// # Errors
    /// Why there is no response.
    pub async fn send(
        &self,
        request: Request<Upload>,
        protocol: Protocol,
        meter: &Meter,
        rules: &RouteRules,
    ) -> Result<Response<Incoming>, Refusal> {
        let times = self.network.limits.times(&rules.route.timeout);
        let end = meter.started() + times.total;
        let client = if protocol == Protocol::Http2 { &self.http2 } else { &self.http1 };
        let mut answer = std::pin::pin!(client.request(request));
        loop {
            // The clock restarts with every byte of the upload, so that a long one is no slow answer.
            let deadline = (meter.touched() + times.first_byte).min(end);
            match timeout_at(deadline, &mut answer).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(e)) => return Err(explain(&e, meter)),
                Err(_) if end <= Instant::now() => {
                    return Err(rules.timed_out(TimeLimit::Total, times));
                }
                Err(_) if meter.touched() + times.first_byte > Instant::now() => {}
                Err(_) => return Err(rules.timed_out(TimeLimit::FirstByte, times)),
            }
        }
    }
}

fn explain(e: &ClientError, meter: &Meter) -> Refusal {
    if let Some(refusal) = meter.upload_refusal() {
        return refusal;
    }
    let mut cause = e.source();
    while let Some(inner) = cause {
        if let Some(ConnectError(refusal)) = inner.downcast_ref() {
            return refusal.clone();
        }
        cause = inner.source();
    }
    // hyper's own texts contain no header and no body.
    let inner = e.source().map(|s| format!(": {s}")).unwrap_or_default();
    Refusal::new(Rule::Upstream, format!("the upstream did not answer in HTTP{inner}"))
}
