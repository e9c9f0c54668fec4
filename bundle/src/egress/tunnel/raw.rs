//! A tunnel on a `passthrough` route: TLS goes through unread, once its ClientHello has named the
//! host of CONNECT. The content is not seen, so nothing of it is checked, searched or given a
//! credential.

use std::sync::Arc;

use bytes::BytesMut;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::client_hello::{self, ClientHello, NotClientHello};
use super::guest_stream::{not_tls, send_refusal, take_over};
use crate::egress::audit::RequestAudit;
use crate::egress::policy::routes::LiveRoute;
use crate::egress::refusal::{Checks, Refusal, Rule};
use crate::egress::request::authority::Authority;
use crate::egress::shared::Shared;

/// Buffer for one direction, bytes.
const BUFFER_BYTES: usize = 32 * 1024;

/// Carries one tunnel to its end, and writes its audit lines.
pub async fn carry(
    shared: &Shared,
    upgrade: OnUpgrade,
    to: Authority,
    live: Arc<LiveRoute>,
    mut audit: RequestAudit,
) {
    audit.set_route(&live.rules.route.name);
    audit.hold(shared.request_slot().await);
    let limit = shared.network.limits.handshake;
    let started = timeout(limit, read_client_hello(shared.checks(), upgrade, &to)).await;
    let outcome = match started.unwrap_or(Ok(None)) {
        Ok(Some((guest, hello))) => splice(shared, guest, hello, &to, &live, &mut audit).await,
        Ok(None) => return audit.discard(), // there was no request
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(()) => audit.finish(),
        Err(refusal) => audit.fail(&refusal),
    }
}

/// The guest's connection and its ClientHello. `None` when the guest went away.
async fn read_client_hello(
    checks: &Checks,
    upgrade: OnUpgrade,
    to: &Authority,
) -> Result<Option<(UnixStream, BytesMut)>, Refusal> {
    let Some((mut io, mut first)) = take_over(upgrade).await else { return Ok(None) };
    let checked = loop {
        match client_hello::peek(&first) {
            Ok(Some(hello)) => break check(checks, &hello, to),
            Ok(None) => {}
            Err(NotClientHello) => break checks.refuse_if(true, Rule::NotTls, || not_tls(to)),
        }
        if io.read_buf(&mut first).await.unwrap_or(0) == 0 {
            return Ok(None);
        }
    };
    match checked {
        Ok(()) => Ok(Some((io, first))),
        Err(refusal) => {
            send_refusal(&mut io, &refusal, first.first()).await;
            Err(refusal)
        }
    }
}

fn check(checks: &Checks, hello: &ClientHello, to: &Authority) -> Result<(), Refusal> {
    let name = hello.server_name.as_deref();
    checks.refuse_if(name.is_none() && to.ip().is_none(), Rule::NoSni, || {
        format!("TLS to {to} without a server name")
    })?;
    checks.refuse_if(name.is_some_and(|n| n != to.host), Rule::SniMismatch, || {
        format!("CONNECT was for {}, TLS is for {}", to.host, name.unwrap_or_default())
    })?;
    // Only the server could read for which host the connection really is.
    checks.refuse_if(hello.encrypted, Rule::Ech, || {
        "the ClientHello is encrypted (ECH); a passthrough route needs the plain server name"
            .to_owned()
    })
}

/// Carries bytes both ways until both have ended.
async fn splice(
    shared: &Shared,
    guest: UnixStream,
    hello: BytesMut,
    to: &Authority,
    live: &LiveRoute,
    audit: &mut RequestAudit,
) -> Result<(), Refusal> {
    let (checks, quota) = (shared.checks(), &live.rules.quota);
    let budget = &live.rules.route.budget;
    quota.request(live.rules.route.rate, budget, checks)?;
    quota.up(hello.len() as u64, budget, checks)?;
    audit.admit()?;
    let upstream = live.upstream.dial(to).await?;
    let meter = audit.meter().clone();
    let (mut guest_read, mut guest_write) = guest.into_split();
    let (mut up_read, mut up_write) = upstream.into_split();
    meter.add_up(hello.len());
    up_write.write_all(&hello).await.map_err(|_| upstream_gone())?;
    let up = pump(&mut guest_read, &mut up_write, |n| {
        meter.add_up(n);
        quota.up(n as u64, budget, checks)
    });
    let down = pump(&mut up_read, &mut guest_write, |n| {
        meter.add_down(n);
        quota.down(n as u64, budget, checks)
    });
    tokio::select! {
        both = async { tokio::try_join!(up, down) } => both.map(|_| ()),
        refusal = shared.timed_out(&meter, &live.rules) => Err(refusal),
        refusal = shared.cut_off() => Err(refusal),
    }
}

fn upstream_gone() -> Refusal {
    Refusal::new(Rule::Upstream, "the upstream broke off")
}

/// Carries one direction to its end, and passes the end on.
async fn pump<R, W>(
    from: &mut R,
    to: &mut W,
    mut count: impl FnMut(usize) -> Result<(), Refusal>,
) -> Result<(), Refusal>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
    loop {
        buffer.clear();
        let n = from.read_buf(&mut buffer).await.unwrap_or(0); // a reset is an end too
        if n == 0 {
            let _ = to.shutdown().await;
            return Ok(());
        }
        count(n)?;
        to.write_all(&buffer).await.map_err(|_| upstream_gone())?;
    }
}
