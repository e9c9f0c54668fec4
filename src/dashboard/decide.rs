//! What an operator's decision comes to, in a sentence: the same one on every screen.

use crate::error::Result;
use crate::launch;
use crate::state::Roots;
use crate::supervise::{Decide, Verdict};

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
    let outcome = launch::decide(&dir, decision).await.map_err(|e| e.chain())?;
    outcome.into_result(&format!("{bottle}/{id}")).map_err(|e| e.chain())
}

/// The answer to a question with `choices`: the choice whose number was typed, otherwise what was
/// typed.
pub(crate) fn answer_text(choices: &[String], typed: &str) -> String {
    let number = typed.trim().parse::<usize>().ok();
    let choice = number.and_then(|n| choices.get(n.checked_sub(1)?));
    choice.map_or_else(|| typed.to_owned(), Clone::clone)
}

/// Stops a bottle. `Ok` says so, `Err` why it is not gone.
pub(super) async fn stop(roots: &Roots, bottle: &str) -> Result<String, String> {
    let dir = roots.bottle(bottle).map_err(|e| e.chain())?;
    let stopped = launch::stop(&dir, launch::STOP_DEADLINE).await;
    stopped.map(|()| format!("{bottle} is stopped")).map_err(|e| e.chain())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_for_its_choice() {
        let choices = ["a".to_owned(), "b".to_owned()];
        for (typed, text) in [("1", "a"), (" 2 ", "b"), ("0", "0"), ("3", "3"), ("b c", "b c")] {
            assert_eq!(answer_text(&choices, typed), text);
        }
    }
}
