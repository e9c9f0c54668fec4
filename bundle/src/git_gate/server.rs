//! Connections and their requests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::UpstreamName;
use bottle_policy::audit::AuditWriter;
use bottle_scan::Profile;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::git_gate::Limits;
use crate::git_gate::audit::Ticket;
use crate::git_gate::body::{Inflow, Outflow, Reply};
use crate::git_gate::fetch::initial_clone::{self, Answer, First};
use crate::git_gate::fetch::mirror::Repo;
use crate::git_gate::push::receive;
use crate::git_gate::refusal::{Guards, Refusal, Rule};
use crate::git_gate::request::{self, Asked, Service};
use crate::git_gate::scan::gitleaks::Warm;

/// All that a request needs.
pub struct Gate {
    /// Upstreams by name.
    pub repos: BTreeMap<UpstreamName, Arc<Repo>>,
    /// The audit log.
    pub log: Arc<AuditWriter>,
    /// What is looked for in pushes; it never stops at its first find.
    pub profile: Profile,
    /// What must not be written down.
    pub secrets: Profile,
    /// Bounds.
    pub limits: Limits,
    /// The rules in force.
    pub guards: Guards,
    /// What is under way.
    pub tasks: TaskTracker,
    /// gitleaks, begun before it is needed.
    pub warm: Arc<Warm>,
    /// Fetches and pushes at once.
    pub requests: Arc<Semaphore>,
    /// True once the daemon is to end.
    pub ending: watch::Receiver<bool>,
}

/// Accepts until the end is called, then lets what is under way finish, for a while.
///
/// # Errors
/// The listener fails for good.
pub async fn serve(gate: Arc<Gate>, listener: UnixListener) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(gate.limits.connections));
    let mut ending = gate.ending.clone();
    loop {
        let slot = slots.clone().acquire_owned().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ending.wait_for(|end| *end) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) if e.raw_os_error().is_some_and(|n| n == libc::EBADF || n == libc::EINVAL) => {
                return Err(e);
            }
            Err(e) => {
                tracing::warn!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(20)).await; // out of descriptors; a pause, not a hope
                continue;
            }
        };
        let handler = gate.clone();
        gate.tasks.spawn(async move {
            connection(handler, stream).await;
            drop(slot);
        });
    }
    drop(listener);
    gate.tasks.close();
    if timeout(gate.limits.drain, gate.tasks.wait()).await.is_err() {
        tracing::warn!("{} connections or pushes are cut off at the end", gate.tasks.len());
    }
    Ok(())
}

async fn connection(gate: Arc<Gate>, stream: UnixStream) {
    let handler = gate.clone();
    let service = service_fn(move |request| {
        let gate = handler.clone();
        async move { Ok::<_, Infallible>(handle(gate, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(gate.limits.head)
        .max_buf_size(64 * 1024)
        .half_close(true);
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut ending = gate.ending.clone();
    let ended = tokio::select! {
        done = served.as_mut() => Some(done),
        _ = ending.wait_for(|end| *end) => None,
    };
    let done = match ended {
        Some(done) => done,
        None => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(e) = done {
        tracing::debug!("connection: {e}");
    }
}

async fn handle(gate: Arc<Gate>, request: Request<Incoming>) -> Response<Reply> {
    let slot = gate.requests.clone().acquire_owned().await.ok();
    let mut ticket = Ticket::new(gate.log.clone(), gate.secrets.clone(), slot);
    ticket.event.path = Some(request.uri().path().to_owned());
    match answer(gate, request, ticket).await {
        Ok(response) => response,
        Err((refusal, mut ticket)) => {
            ticket.event.status = Some(refusal.rule.status().as_u16());
            ticket.fail(&refusal);
            refused(&refusal)
        }
    }
}

/// git shows a text/plain body to its user, each line after `remote: `.
fn refused(refusal: &Refusal) -> Response<Reply> {
    let mut response = Response::new(Reply::from(refusal.body().into_bytes()));
    *response.status_mut() = refusal.rule.status();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn reply(service: Service, kind: &str, reply: Reply) -> Response<Reply> {
    let mut response = Response::new(reply);
    *response.status_mut() = StatusCode::OK;
    if let Ok(value) = HeaderValue::from_str(&format!("application/x-{}-{kind}", service.name())) {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// The pack of the first fetch, as it arrives.
fn pass_on(gate: &Gate, first: Arc<First>, pack: tokio::fs::File, mut ticket: Ticket) -> Reply {
    let (tx, rx) = mpsc::channel(16);
    ticket.event.answer = Some("the first fetch, passed on as it arrived".to_owned());
    gate.tasks.spawn(async move {
        match first.send(pack, &tx, |bytes| ticket.down(bytes)).await {
            Ok(()) => ticket.finish(),
            Err(refusal) => ticket.fail(&refusal),
        }
    });
    Reply::Made(rx)
}

async fn answer(
    gate: Arc<Gate>,
    request: Request<Incoming>,
    mut ticket: Ticket,
) -> Result<Response<Reply>, (Refusal, Ticket)> {
    macro_rules! tried {
        ($what:expr) => {
            match $what {
                Ok(it) => it,
                Err(refusal) => return Err((refusal, ticket)),
            }
        };
    }
    let (head, body) = request.into_parts();
    let Asked { name, service, advertise } = tried!(request::read(&head.method, &head.uri));
    ticket.event.event = if service == Service::UploadPack { "fetch" } else { "push" }.to_owned();
    let unknown = || {
        let all: Vec<String> = gate.repos.keys().map(ToString::to_string).collect();
        Refusal::new(Rule::UnknownUpstream, format!("no upstream of this bottle is named {name}"))
            .hint(format!("there are: {}", all.join(", ")))
    };
    let repo = tried!(gate.repos.get(&name).cloned().ok_or_else(unknown));
    ticket.event.route = Some(name.to_string());
    ticket.event.host = Some(repo.upstream.url.host().to_owned());
    let protocol = request::protocol(&head.headers);
    match (service, advertise) {
        (Service::UploadPack, true) => {
            tried!(ticket.admit());
            let early = protocol == Some("version=2");
            tried!(if early { repo.refresh_or_first().await } else { repo.refresh().await });
            let call = repo
                .git()
                .args(["upload-pack", "--stateless-rpc", "--advertise-refs"])
                .arg(&repo.mirror);
            let call = if let Some(p) = protocol { call.env("GIT_PROTOCOL", p) } else { call };
            let running = tried!(call.start().map_err(|e| Refusal::host("run git", &e)));
            let prefix = if protocol == Some("version=2") {
                Vec::new()
            } else {
                b"001e# service=git-upload-pack\n0000".to_vec()
            };
            Ok(reply(
                service,
                "advertisement",
                Reply::Child(Box::new(Outflow::new(prefix, running, ticket))),
            ))
        }
        (Service::ReceivePack, true) => {
            if repo.rules().push.is_none() && !gate.guards.is_off(Rule::ReadOnly) {
                return Err((
                    Refusal::new(Rule::ReadOnly, "this bottle may not push to this upstream"),
                    ticket,
                ));
            }
            tried!(ticket.admit());
            gate.warm.up(&repo.programs);
            tried!(repo.refresh_for_push().await);
            let refs = tried!(repo.refs().await);
            ticket.finish();
            Ok(reply(service, "advertisement", receive::advertisement(&refs).into()))
        }
        (Service::UploadPack, false) => {
            let gzip = tried!(request::body_headers(&head.headers, service));
            let mut inflow = Inflow::new(body, gzip, gate.limits.wants, gate.limits.silence);
            tried!(ticket.admit());
            let mut asked = Vec::new();
            if let Some(first) = repo.first() {
                let whole = tried!(inflow.collect(&mut asked, initial_clone::ASKED).await);
                match first.answer(&asked).filter(|_| whole && protocol == Some("version=2")) {
                    Some(Answer::Refs(refs)) => {
                        ticket.up(inflow.taken);
                        ticket.down(refs.len() as u64);
                        ticket.finish();
                        return Ok(reply(service, "result", refs.into()));
                    }
                    Some(Answer::Pack) => {
                        if let Some(pack) = first.pack().await {
                            ticket.up(inflow.taken);
                            return Ok(reply(
                                service,
                                "result",
                                pass_on(&gate, first, pack, ticket),
                            ));
                        }
                    }
                    None => {}
                }
                tried!(first.whole().await);
            }
            let call = repo.git().args(["upload-pack", "--stateless-rpc"]).arg(&repo.mirror);
            let call = if let Some(p) = protocol { call.env("GIT_PROTOCOL", p) } else { call };
            let mut running = tried!(call.start().map_err(|e| Refusal::host("run git", &e)));
            // What is wanted is small and comes whole before anything is answered: git's HTTP knows
            // no other way.
            if let Some(mut stdin) = running.stdin.take() {
                let mut next = Some(Bytes::from(asked)).filter(|asked| !asked.is_empty());
                while let Some(bytes) =
                    if next.is_some() { next.take() } else { tried!(inflow.next().await) }
                {
                    if stdin.write_all(&bytes).await.is_err() {
                        break; // it has told the client why
                    }
                }
            }
            ticket.up(inflow.taken);
            Ok(reply(
                service,
                "result",
                Reply::Child(Box::new(Outflow::new(Vec::new(), running, ticket))),
            ))
        }
        (Service::ReceivePack, false) => {
            let gzip = tried!(request::body_headers(&head.headers, service));
            if repo.rules().push.is_none() && !gate.guards.is_off(Rule::ReadOnly) {
                return Err((
                    Refusal::new(Rule::ReadOnly, "this bottle may not push to this upstream"),
                    ticket,
                ));
            }
            let inflow = Inflow::new(body, gzip, u64::MAX, gate.limits.silence);
            let made = receive::receive(gate, repo, inflow, ticket).await?;
            Ok(reply(service, "result", made))
        }
    }
}
