//! Checks that tests can disable one at a time, to prove that an attack really succeeds without the
//! check. In other builds they cannot be disabled.

/// Which checks are made: all of them, except those that a test has disabled.
#[derive(Debug, Clone)]
pub struct Checks<G> {
    #[cfg(test)]
    off: Vec<G>,
    #[cfg(not(test))]
    off: std::marker::PhantomData<G>,
}

impl<G: PartialEq> Checks<G> {
    /// All of them.
    #[must_use]
    pub fn on() -> Self {
        Self { off: Default::default() }
    }

    /// All except these.
    #[cfg(test)]
    pub fn without(off: &[G]) -> Self
    where
        G: Clone,
    {
        Self { off: off.to_vec() }
    }

    /// Whether `check` is made.
    #[must_use]
    #[cfg_attr(not(test), allow(clippy::unused_self))]
    pub fn enabled(&self, check: G) -> bool {
        #[cfg(test)]
        return !self.off.contains(&check);
        #[cfg(not(test))]
        {
            let _ = check;
            true
        }
    }
}
