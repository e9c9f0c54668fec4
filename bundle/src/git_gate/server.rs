//! Connections and their requests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;

use bottle_policy::UpstreamName;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};

use crate::daemon::accept::{accept_until, drain};
use crate::daemon::connection;
use crate::git_gate::audit::RequestAudit;
use crate::git_gate::body::{RequestBody, ResponseBody};
use crate::git_gate::fetch::serve::Fetch;
use crate::git_gate::push::receive::receive;
use crate::git_gate::push::report;
use crate::git_gate::push::upstream::Upstream;
use crate::git_gate::refusal::{Refusal, Rule};
use crate::git_gate::request::{self, GitRequest, Service};
use crate::git_gate::shared::Shared;

/// Largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The HTTP server of one bottle.
pub struct Server {
    /// What all requests share.
    pub shared: Arc<Shared>,
    /// The upstreams by name.
    pub upstreams: BTreeMap<UpstreamName, Arc<Upstream>>,
}

type Answer = Result<ResponseBody, (Refusal, RequestAudit)>;

impl Server {
    /// Accepts connections until the daemon is to end, then gives open ones time to finish.
    ///
    /// # Errors
    /// The listener is broken for good.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) -> io::Result<()> {
        let shared = &self.shared;
        let (limits, tasks) = (&shared.limits, &shared.tasks);
        accept_until(listener, limits.connections, shared.ending.clone(), |stream, slot| {
            let server = self.clone();
            tasks.spawn(async move {
                server.connection(stream).await;
                drop(slot);
            });
        })
        .await?;
        let open = drain(tasks, limits.drain).await;
        if open > 0 {
            tracing::warn!("{open} connections or pushes are cut off at the end");
        }
        Ok(())
    }

    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let server = self.clone();
        let service = service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.respond(request).await) }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.shared.limits.head)
            .max_buf_size(MAX_HEAD_BYTES)
            .half_close(true);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let ending = self.shared.ending.clone();
        // Connections that are open too long are dropped with the runtime.
        connection::serve(connection, |c| c.graceful_shutdown(), ending, pending()).await;
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let shared = &self.shared;
        let slot = shared.requests.clone().acquire_owned().await.ok();
        let mut audit = RequestAudit::start(shared.log.clone(), shared.secrets.clone(), slot);
        audit.event().path = Some(request.uri().path().to_owned());
        let (head, body) = request.into_parts();
        let (asked, upstream) = match self.find(&head.method, &head.uri, &mut audit) {
            Ok(found) => found,
            Err(refusal) => return refused(&refusal, audit),
        };
        let answer = match (asked.service, asked.advertise) {
            (Service::UploadPack, true) => {
                let stale = upstream.rules().stale;
                self.fetch(&upstream, &head.headers).advertise(stale, audit).await
            }
            (Service::UploadPack, false) => {
                let max = shared.limits.fetch_bytes;
                match self.body(body, &head.headers, asked.service, max) {
                    Ok(body) => self.fetch(&upstream, &head.headers).answer(body, audit).await,
                    Err(refusal) => Err((refusal, audit)),
                }
            }
            (Service::ReceivePack, true) => self.advertise_push(&upstream, audit).await,
            (Service::ReceivePack, false) => {
                let body = self
                    .body(body, &head.headers, asked.service, u64::MAX)
                    .and_then(|body| self.check_writable(&upstream).map(|()| body));
                match body {
                    Ok(body) => receive(shared.clone(), upstream, body, audit).await,
                    Err(refusal) => Err((refusal, audit)),
                }
            }
        };
        match answer {
            Ok(body) => response(&asked, body),
            Err((refusal, audit)) => refused(&refusal, audit),
        }
    }

    /// What is asked, and of which upstream.
    fn find(
        &self,
        method: &http::Method,
        uri: &http::Uri,
        audit: &mut RequestAudit,
    ) -> Result<(GitRequest, Arc<Upstream>), Refusal> {
        let asked = request::read(method, uri)?;
        let event = if asked.service == Service::UploadPack { "fetch" } else { "push" };
        event.clone_into(&mut audit.event().event);
        let unknown = || {
            let all: Vec<String> = self.upstreams.keys().map(ToString::to_string).collect();
            let reason = format!("this bottle has no upstream named {}", asked.name);
            Refusal::new(Rule::UnknownUpstream, reason)
                .hint(format!("its upstreams are: {}", all.join(", ")))
        };
        let upstream = self.upstreams.get(&asked.name).cloned().ok_or_else(unknown)?;
        audit.event().route = Some(asked.name.to_string());
        audit.event().host = Some(upstream.mirror.config.url.host().to_owned());
        Ok((asked, upstream))
    }

    fn fetch(&self, upstream: &Upstream, headers: &HeaderMap) -> Fetch {
        let (shared, mirror) = (self.shared.clone(), upstream.mirror.clone());
        Fetch { shared, mirror, protocol: request::protocol(headers) }
    }

    fn body(
        &self,
        body: Incoming,
        headers: &HeaderMap,
        service: Service,
        max: u64,
    ) -> Result<RequestBody, Refusal> {
        let gzip = request::body_headers(headers, service)?;
        Ok(RequestBody::new(body, gzip, max, self.shared.limits.idle))
    }

    /// # Errors
    /// [`Rule::ReadOnly`].
    fn check_writable(&self, upstream: &Upstream) -> Result<(), Refusal> {
        match upstream.rules().push() {
            Err(refusal) if self.shared.checks.enabled(refusal.rule) => Err(refusal),
            _ => Ok(()),
        }
    }

    /// The ref advertisement before a push. It also starts gitleaks.
    async fn advertise_push(&self, upstream: &Upstream, mut audit: RequestAudit) -> Answer {
        let mirror = &upstream.mirror;
        let refs = async {
            self.check_writable(upstream)?;
            audit.admit()?;
            self.shared.gitleaks.start(&mirror.programs);
            mirror.refresh_for_push(upstream.rules().stale).await?;
            mirror.refs().await
        };
        match refs.await {
            Ok(refs) => {
                audit.finish();
                Ok(report::advertisement(&refs).into())
            }
            Err(refusal) => Err((refusal, audit)),
        }
    }
}

/// A refusal of the request. git shows a text/plain body to its user, each line after `remote: `.
fn refused(refusal: &Refusal, mut audit: RequestAudit) -> Response<ResponseBody> {
    audit.set_status(refusal.rule.status().as_u16());
    audit.fail(refusal);
    let mut response = Response::new(ResponseBody::from(refusal.body().into_bytes()));
    *response.status_mut() = refusal.rule.status();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn response(asked: &GitRequest, body: ResponseBody) -> Response<ResponseBody> {
    let kind = if asked.advertise { "advertisement" } else { "result" };
    let content_type = format!("application/x-{}-{kind}", asked.service.name());
    let mut response = Response::new(body);
    if let Ok(value) = HeaderValue::from_str(&content_type) {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
