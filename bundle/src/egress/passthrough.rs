//! Tunnels that a route wants left alone: TLS goes through as it is, once it has said that it is
//! for that host. What is inside is not seen, so nothing of it is checked, searched or given a
//! credential.

use std::sync::Arc;

use bytes::BytesMut;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::audit::RequestAudit;
use super::authority::Authority;
use super::connect::{not_tls, say_refusal, take_over};
use super::hello::{self, Hello};
use super::proxy::Proxy;
use super::refusal::{Refusal, Rule};
use super::routes::LiveRoute;

/// Runs one tunnel to its end.
pub async fn tunnel(
    proxy: Arc<Proxy>,
    upgrade: OnUpgrade,
    to: Authority,
    live: Arc<LiveRoute>,
    mut audit: RequestAudit,
) {
    audit.set_route(&live.route.name);
    audit.hold(proxy.requests.clone().acquire_owned().await.ok());
    let began = timeout(proxy.network.limits.handshake, begin(&proxy, upgrade, &to)).await;
    let outcome = match began.unwrap_or(Ok(None)) {
        Ok(Some((guest, hello))) => splice(&proxy, guest, hello, &to, &live, &mut audit).await,
        Ok(None) => return audit.discard(), // nothing was asked
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(()) => audit.finish(),
        Err(refusal) => audit.fail(&refusal),
    }
}

/// The guest's side and its ClientHello. `None` when the guest went away.
async fn begin(
    proxy: &Proxy,
    upgrade: OnUpgrade,
    to: &Authority,
) -> Result<Option<(UnixStream, BytesMut)>, Refusal> {
    let Some((mut io, mut first)) = take_over(upgrade).await else { return Ok(None) };
    let checked = loop {
        match hello::peek(&first) {
            Ok(Some(hello)) => break check(proxy, &hello, to),
            Ok(None) => {}
            Err(hello::NotHello) => {
                break proxy.checks().refuse_if(true, Rule::NotTls, || not_tls(to));
            }
        }
        if io.read_buf(&mut first).await.unwrap_or(0) == 0 {
            return Ok(None);
        }
    };
    match checked {
        Ok(()) => Ok(Some((io, first))),
        Err(refusal) => {
            say_refusal(&mut io, &refusal, first.first()).await;
            Err(refusal)
        }
    }
}

fn check(proxy: &Proxy, hello: &Hello, to: &Authority) -> Result<(), Refusal> {
    let checks = proxy.checks();
    let name = hello.server_name.as_deref();
    checks.refuse_if(name.is_none() && to.ip().is_none(), Rule::NoSni, || {
        format!("TLS to {to} without a server name")
    })?;
    checks.refuse_if(name.is_some_and(|n| n != to.host), Rule::SniMismatch, || {
        format!("CONNECT was for {}, TLS is for {}", to.host, name.unwrap_or_default())
    })?;
    // The host that it is really for would be seen by nobody but the server.
    checks.refuse_if(hello.encrypted, Rule::Ech, || {
        "TLS with an encrypted server name, where nothing else tells the host".to_owned()
    })
}

/// Carries bytes both ways until both have ended.
async fn splice(
    proxy: &Proxy,
    guest: UnixStream,
    hello: BytesMut,
    to: &Authority,
    live: &LiveRoute,
    audit: &mut RequestAudit,
) -> Result<(), Refusal> {
    let checks = proxy.checks();
    live.spend.request(live.route.rate, &live.route.budget, checks)?;
    live.spend.up(hello.len() as u64, &live.route.budget, checks)?;
    audit.admit()?;
    let upstream = live.upstream.dial(to).await?;
    let meter = audit.meter().clone();
    let (mut guest_read, mut guest_write) = guest.into_split();
    let (mut up_read, mut up_write) = upstream.into_split();
    meter.add_up(hello.len());
    up_write.write_all(&hello).await.map_err(|_| gone())?;
    let up = pump(&mut guest_read, &mut up_write, |n| {
        meter.add_up(n);
        live.spend.up(n as u64, &live.route.budget, checks)
    });
    let down = pump(&mut up_read, &mut guest_write, |n| {
        meter.add_down(n);
        live.spend.down(n as u64, &live.route.budget, checks)
    });
    let mut cut = proxy.cut.subscribe();
    tokio::select! {
        both = async { tokio::try_join!(up, down) } => both.map(|_| ()),
        refusal = silence(proxy, &meter) => Err(refusal),
        _ = cut.wait_for(|cut| *cut) => Err(Refusal::new(Rule::Aborted, "cut off at teardown")),
    }
}

/// Ends when nothing was carried for too long, or at the end of the longest time for anything.
pub async fn silence(proxy: &Proxy, meter: &super::body::Meter) -> Refusal {
    let end = Instant::now() + proxy.network.limits.total;
    loop {
        let quiet = meter.touched() + proxy.network.limits.silence;
        sleep_until(quiet.min(end)).await;
        if Instant::now() >= end {
            return Refusal::new(Rule::UpstreamTimeout, "the connection took too long");
        }
        if meter.touched() + proxy.network.limits.silence <= Instant::now() {
            return Refusal::new(Rule::UpstreamTimeout, "the connection fell silent");
        }
    }
}

fn gone() -> Refusal {
    Refusal::new(Rule::Upstream, "the upstream broke off")
}

/// One direction, until its end, which is passed on.
async fn pump<R, W>(
    from: &mut R,
    to: &mut W,
    mut count: impl FnMut(usize) -> Result<(), Refusal>,
) -> Result<(), Refusal>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::with_capacity(32 * 1024);
    loop {
        buffer.clear();
        let n = from.read_buf(&mut buffer).await.unwrap_or(0); // a reset is an end too
        if n == 0 {
            let _ = to.shutdown().await;
            return Ok(());
        }
        count(n)?;
        to.write_all(&buffer).await.map_err(|_| gone())?;
    }
}
