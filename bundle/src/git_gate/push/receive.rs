//! One push, from its first byte to the report: the refs are checked, the pack goes into a
//! quarantine, is scanned and forwarded, and only then enters the mirror.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::forward::Forward;
use super::head::{PushHead, PushHeadReader};
use super::pack::receive_pack;
use super::report::{self, ClientProgress};
use super::upstream::Upstream;
use crate::git_gate::audit::RequestAudit;
use crate::git_gate::body::{RequestBody, ResponseBody};
use crate::git_gate::refusal::{Refusal, Rule};
use crate::git_gate::shared::Shared;

/// How much of a refused push is read before the answer, in bytes, and for how long.
const DRAIN: (u64, Duration) = (1 << 30, Duration::from_secs(60));
/// Messages that wait for the client to read them.
const PROGRESS_QUEUE: usize = 16;

/// Handles a push. The response begins when all of the request was read.
///
/// # Errors
/// The request is malformed. A push that is refused is not an error: the response says so.
pub async fn receive(
    shared: Arc<Shared>,
    upstream: Arc<Upstream>,
    mut body: RequestBody,
    mut audit: RequestAudit,
) -> Result<ResponseBody, (Refusal, RequestAudit)> {
    let (head, rest) = match read_head(&mut body).await {
        Ok(it) => it,
        Err(refusal) => {
            body.drain(DRAIN.0, DRAIN.1).await;
            return Err((refusal, audit));
        }
    };
    if head.updates.is_empty() {
        // git sends an empty list first, to learn whether it may push, before a large pack.
        audit.finish();
        return Ok(Vec::new().into());
    }
    audit.event().refs = head.updates.iter().map(|update| update.summary()).collect();
    let received = receive_pack(&shared, &upstream, &head, &rest, &mut body).await;
    audit.up(body.received);
    let pack = match received {
        Ok(it) => it,
        Err(refusal) => {
            body.drain(DRAIN.0, DRAIN.1).await;
            audit.fail(&refusal);
            return Ok(report::result(&head, Some(&refusal)).into());
        }
    };
    let (tx, rx) = mpsc::channel(PROGRESS_QUEUE);
    // From here on the push goes on even if the client goes away.
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let client = ClientProgress { tx, capabilities: head.capabilities };
        let forward =
            Forward { shared: &shared, upstream: &upstream, head: &head, client: &client };
        let done = forward.run(pack, &mut audit).await;
        match &done {
            Ok(()) => audit.finish(),
            Err(refusal) => audit.fail(refusal),
        }
        let result = report::result(&head, done.err().as_ref());
        let _ = client.tx.send(result.into()).await; // the client may be gone
    });
    Ok(ResponseBody::Channel(rx))
}

async fn read_head(body: &mut RequestBody) -> Result<(PushHead, Vec<u8>), Refusal> {
    let mut reader = PushHeadReader::default();
    while let Some(bytes) = body.next().await? {
        if let Some(done) = reader.push(&bytes)? {
            return Ok(done);
        }
    }
    Err(Refusal::new(Rule::PktLine, "the request ends inside its list of refs"))
}
