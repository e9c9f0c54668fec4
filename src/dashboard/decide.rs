//! What an operator's decision comes to, in a sentence: the same one on every screen.

use crate::error::Result;
use crate::launch;
use crate::state::Roots;
use crate::supervise::{Answer, Decide, Verdict};

/// Sends a decision about proposal `id` of `bottle`. `Ok` says what was done, `Err` why nothing
/// was decided.
pub(super) async fn decide(
    roots: &Roots,
    bottle: &str,
    id: u32,
    via: &str,
    verdict: Verdict,
) -> Result<String, String> {
    let dir = roots.bottle(bottle).map_err(|e| e.chain())?;
    let decision = Decide { id, via: via.to_owned(), verdict };
    match launch::decide(&dir, decision).await.map_err(|e| e.chain())? {
        Answer::Done { text } => Ok(text),
        Answer::Refused { why, .. } => Err(why),
        Answer::Outdated { .. } => {
            Err(format!("the policy has changed; look at {bottle}/{id} again"))
        }
    }
}

/// Stops a bottle. `Ok` says so, `Err` why it is not gone.
pub(super) async fn stop(roots: &Roots, bottle: &str) -> Result<String, String> {
    let dir = roots.bottle(bottle).map_err(|e| e.chain())?;
    let stopped = launch::stop(&dir, launch::STOP_DEADLINE).await;
    stopped.map(|()| format!("{bottle} is stopped")).map_err(|e| e.chain())
}
