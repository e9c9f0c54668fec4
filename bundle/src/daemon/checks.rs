//! Checks that tests can disable one at a time, to prove that an attack really succeeds without
//! the check. In release builds they cannot be disabled.

use std::marker::PhantomData;

use super::refusal::{Refusal, RefusalRule};

/// Which of a daemon's checks `C` are enabled: all of them, outside of this crate's tests.
#[derive(Debug, Clone)]
pub struct Checks<C> {
    #[cfg(test)]
    disabled: Vec<C>,
    checks: PhantomData<fn(C)>,
}

impl<C> Default for Checks<C> {
    fn default() -> Self {
        Self {
            #[cfg(test)]
            disabled: Vec::new(),
            checks: PhantomData,
        }
    }
}

impl<C: Copy + PartialEq> Checks<C> {
    /// All checks but `disabled`, for a negative control.
    #[cfg(test)]
    pub fn without(disabled: &[C]) -> Self {
        Self { disabled: disabled.to_vec(), checks: PhantomData }
    }

    /// Whether `check` is enabled. Always true outside of this crate's tests.
    #[must_use]
    #[cfg_attr(not(test), allow(clippy::unused_self))]
    pub fn enabled(&self, check: C) -> bool {
        #[cfg(test)]
        return !self.disabled.contains(&check);
        #[cfg(not(test))]
        {
            let _ = check;
            true
        }
    }
}

impl<R: RefusalRule> Checks<R> {
    /// Refuses by `rule` if `broken` is true and the rule is enabled.
    ///
    /// # Errors
    /// The refusal, with the reason that `why` returns.
    pub fn refuse_if(
        &self,
        broken: bool,
        rule: R,
        why: impl FnOnce() -> String,
    ) -> Result<(), Refusal<R>> {
        if broken && self.enabled(rule) { Err(Refusal::new(rule, why())) } else { Ok(()) }
    }
}
