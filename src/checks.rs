//! Checks that the twins of attacks switch off, to show that what each of them stops is real.
//! Outside of tests nothing can.

/// Which guards enabled: all of them, but for those that a test has switched off.
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

    /// All but these.
    #[cfg(test)]
    pub fn without(off: &[G]) -> Self
    where
        G: Clone,
    {
        Self { off: off.to_vec() }
    }

    /// Whether `guard` holds.
    #[must_use]
    #[cfg_attr(not(test), allow(clippy::unused_self))]
    pub fn enabled(&self, guard: G) -> bool {
        #[cfg(test)]
        return !self.off.contains(&guard);
        #[cfg(not(test))]
        {
            let _ = guard;
            true
        }
    }
}
