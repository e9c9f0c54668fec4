//! A tunnel that is intercepted: TLS for the host that CONNECT names, or HTTP/1.1 without TLS for a
//! route with `tls = false`, and nothing else.

use std::io;

use hyper::upgrade::OnUpgrade;
use rustls::server::Acceptor;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::guest_stream::{
    HANDSHAKE_RECORD, Prefixed, UNRECOGNIZED_NAME, begins_request, not_tls, send_last,
    send_refusal, take_over,
};
use crate::egress::policy::routes::TunnelUse;
use crate::egress::refusal::{Checks, Refusal, Rule};
use crate::egress::request::authority::Authority;
use crate::egress::shared::Shared;

/// The guest's connection in a tunnel.
pub enum Tunnel {
    /// After the TLS handshake.
    Tls(Box<TlsStream<Prefixed>>),
    /// Without TLS.
    Plain(Prefixed),
}

/// Takes the guest's connection over and does the TLS handshake as `to`, if there is TLS. `None` when
/// the guest went away without a request, or the daemon ends.
///
/// # Errors
/// What follows CONNECT is not what `allowed` says, or TLS for another host.
pub async fn open(
    shared: &Shared,
    upgrade: OnUpgrade,
    to: &Authority,
    allowed: TunnelUse,
) -> Result<Option<Tunnel>, Refusal> {
    let mut ending = shared.ending.clone();
    let limit = shared.network.limits.handshake;
    tokio::select! {
        opened = timeout(limit, handshake(shared, upgrade, to, allowed)) => opened.unwrap_or(Ok(None)),
        _ = ending.wait_for(|end| *end) => Ok(None),
    }
}

async fn handshake(
    shared: &Shared,
    upgrade: OnUpgrade,
    to: &Authority,
    allowed: TunnelUse,
) -> Result<Option<Tunnel>, Refusal> {
    let Some((mut io, first)) = take_over(upgrade).await else { return Ok(None) };
    if let Err(refusal) = check_first_bytes(shared.checks(), &first, to, allowed) {
        send_refusal(&mut io, &refusal, first.first()).await;
        return Err(refusal);
    }
    let tls = first.first() == Some(&HANDSHAKE_RECORD);
    let http = allowed.plain && begins_request(&first);
    let io = Prefixed::new(first, io);
    #[cfg(test)]
    if !tls && !http {
        return splice_unchecked(shared, io, to, allowed.tls).await;
    }
    if !tls && http {
        return Ok(Some(Tunnel::Plain(io)));
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
        Ok(stream) => Ok(Some(Tunnel::Tls(Box::new(stream)))),
        Err(e) => {
            tracing::debug!("handshake for {to}: {e}");
            Ok(None)
        }
    }
}

/// The first bytes must be those of TLS or of HTTP/1.1, as far as the routes allow them.
fn check_first_bytes(
    checks: &Checks,
    first: &[u8],
    to: &Authority,
    allowed: TunnelUse,
) -> Result<(), Refusal> {
    if first.first() == Some(&HANDSHAKE_RECORD) {
        return checks.refuse_if(!allowed.tls, Rule::WrongScheme, || {
            format!(
                "the route for {to} is plain http (tls = false), so use http:// instead of https"
            )
        });
    }
    if !allowed.plain {
        return checks.refuse_if(true, Rule::NotTls, || not_tls(to));
    }
    checks.refuse_if(!begins_request(first), Rule::NotHttp, || {
        format!("what came after CONNECT {to} is not HTTP/1.1; there are no raw tunnels")
    })
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

/// Negative control of [`Rule::NotTls`] and [`Rule::NotHttp`]: carries whatever the guest sends.
#[cfg(test)]
async fn splice_unchecked(
    shared: &Shared,
    mut io: Prefixed,
    to: &Authority,
    tls: bool,
) -> Result<Option<Tunnel>, Refusal> {
    let target = crate::egress::request::target::Target::parse("/").unwrap();
    let live = shared.policy.now().find(to, tls, "GET", &target, shared.checks())?;
    let address = live.rules.route.connect.unwrap();
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut io, &mut tcp).await;
    Ok(None)
}
