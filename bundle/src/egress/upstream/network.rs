//! What the connections of all routes share.

use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::resolver::Resolver;
use crate::egress::limits::Limits;
use crate::egress::refusal::Checks;

/// Coded bodies that are decoded at once. A decoder's window takes megabytes.
const MAX_DECODERS: usize = 64;

/// Name lookup, the system's CAs and limits. Connections belong to routes.
#[derive(Default)]
pub struct Network {
    /// Name lookup.
    pub resolver: Resolver,
    roots: OnceLock<RootCertStore>,
    /// Numbers and deadlines.
    pub limits: Limits,
    /// The rules that are enabled.
    pub checks: Checks,
    /// Places for decoders of coded bodies.
    pub decoders: DecoderSlots,
}

/// Limits how many coded bodies are decoded at once.
pub struct DecoderSlots(Arc<Semaphore>);

impl Default for DecoderSlots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_DECODERS)))
    }
}

impl DecoderSlots {
    /// Waits for a place.
    pub async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().acquire_owned().await.ok()
    }
}

impl Network {
    /// Connections within `limits`, with these `checks`.
    #[must_use]
    pub fn new(limits: Limits, checks: Checks) -> Self {
        Self { limits, checks, ..Self::default() }
    }

    /// The system's CAs. The first call reads them, which takes milliseconds.
    pub fn roots(&self) -> &RootCertStore {
        self.roots.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            for e in &found.errors {
                tracing::debug!("system CAs: {e}");
            }
            let mut roots = RootCertStore::empty();
            let (good, _) = roots.add_parsable_certificates(found.certs);
            if good == 0 {
                tracing::warn!("the system has no CA certificates; set SSL_CERT_FILE");
            }
            roots
        })
    }
}
