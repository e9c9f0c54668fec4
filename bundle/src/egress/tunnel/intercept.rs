//! A tunnel that is intercepted: TLS for the host that CONNECT names, and nothing else.

use std::io;

use hyper::upgrade::OnUpgrade;
use rustls::server::Acceptor;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::guest_stream::{
    HANDSHAKE_RECORD, Prefixed, UNRECOGNIZED_NAME, not_tls, send_last, send_refusal, take_over,
};
use crate::egress::refusal::{Checks, Refusal, Rule};
use crate::egress::request::authority::Authority;
use crate::egress::shared::Shared;

/// Takes the guest's connection over and does the TLS handshake as `to`. `None` when the guest went
/// away without a request, or the daemon ends.
///
/// # Errors
/// What follows CONNECT is not TLS, or TLS for another host.
pub async fn open(
    shared: &Shared,
    upgrade: OnUpgrade,
    to: &Authority,
) -> Result<Option<TlsStream<Prefixed>>, Refusal> {
    let mut ending = shared.ending.clone();
    let limit = shared.network.limits.handshake;
    tokio::select! {
        opened = timeout(limit, handshake(shared, upgrade, to)) => opened.unwrap_or(Ok(None)),
        _ = ending.wait_for(|end| *end) => Ok(None),
    }
}

async fn handshake(
    shared: &Shared,
    upgrade: OnUpgrade,
    to: &Authority,
) -> Result<Option<TlsStream<Prefixed>>, Refusal> {
    let Some((mut io, first)) = take_over(upgrade).await else { return Ok(None) };
    let tls = first.first() == Some(&HANDSHAKE_RECORD);
    if let Err(refusal) = shared.checks().refuse_if(!tls, Rule::NotTls, || not_tls(to)) {
        send_refusal(&mut io, &refusal, first.first()).await;
        return Err(refusal);
    }
    let io = Prefixed::new(first, io);
    #[cfg(test)]
    if !tls {
        return splice_unchecked(shared, io, to).await;
    }
    let start = match LazyConfigAcceptor::new(Acceptor::default(), io).await {
        Ok(start) => start,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(_) => return Err(Refusal::new(Rule::NotTls, not_tls(to))),
    };
    if let Err(refusal) = check_server_name(shared.checks(), &start, to) {
        let mut io = start.io;
        send_last(&mut io, &UNRECOGNIZED_NAME).await;
        return Err(refusal);
    }
    let config =
        shared.certificates.config(to).map_err(|e| Refusal::new(Rule::Authority, e.to_string()))?;
    // A guest that does not trust the bottle's CA breaks off here, without a request.
    match start.into_stream(config).await {
        Ok(stream) => Ok(Some(stream)),
        Err(e) => {
            tracing::debug!("handshake for {to}: {e}");
            Ok(None)
        }
    }
}

/// The server name must be the host that CONNECT names. Only for an IP address there is none.
fn check_server_name(
    checks: &Checks,
    start: &StartHandshake<Prefixed>,
    to: &Authority,
) -> Result<(), Refusal> {
    let hello = start.client_hello();
    let name = hello.server_name().map(str::to_ascii_lowercase);
    checks.refuse_if(name.is_none() && to.ip().is_none(), Rule::NoSni, || {
        format!("TLS to {to} without a server name")
    })?;
    let other = name.as_ref().is_some_and(|n| *n != to.host);
    checks.refuse_if(other, Rule::SniMismatch, || {
        format!("CONNECT was for {}, TLS is for {}", to.host, name.unwrap_or_default())
    })
}

/// Negative control of [`Rule::NotTls`]: carries whatever the guest sends.
#[cfg(test)]
async fn splice_unchecked(
    shared: &Shared,
    mut io: Prefixed,
    to: &Authority,
) -> Result<Option<TlsStream<Prefixed>>, Refusal> {
    let target = crate::egress::request::target::Target::parse("/").unwrap();
    let live = shared.policy.now().find(to, true, "GET", &target, shared.checks())?;
    let address = live.rules.route.connect.unwrap();
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut io, &mut tcp).await;
    Ok(None)
}
