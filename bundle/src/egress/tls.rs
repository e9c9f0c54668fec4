//! Certificates that the proxy makes for the hosts that a bottle talks to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bottle_policy::Secret;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::request::authority::Authority;

/// A certificate is made anew after this long; it is valid for longer.
const FRESH: Duration = Duration::from_secs(24 * 3600);
/// Days before now from which a certificate is valid, for guests whose clock is slow.
const BACKDATE: time::Duration = time::Duration::days(1);
/// Days from now until which it is valid.
const VALID: time::Duration = time::Duration::days(8);
/// Most hosts remembered: a wildcard route lets a guest name any number.
const HOSTS: usize = 512;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// The bottle's CA cannot be read.
    #[error("the bottle's CA: {0}")]
    Ca(rcgen::Error),
    /// The certificate cannot be made.
    #[error("certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS refuses it.
    #[error("certificate: {0}")]
    Tls(#[from] rustls::Error),
}

/// Server configurations by host, made when first asked for.
pub struct LeafCertificates {
    issuer: Issuer<'static, KeyPair>,
    made: Mutex<HashMap<String, (Instant, Arc<ServerConfig>)>>,
}

impl LeafCertificates {
    /// Reads the bottle's CA.
    ///
    /// # Errors
    /// [`LeafError::Ca`].
    pub fn new(ca_cert: &str, ca_key: &Secret) -> Result<Self, LeafError> {
        let key = KeyPair::from_pem(ca_key.expose()).map_err(LeafError::Ca)?;
        let issuer = Issuer::from_ca_cert_pem(ca_cert, key).map_err(LeafError::Ca)?;
        Ok(Self { issuer, made: Mutex::default() })
    }

    /// The configuration that answers as `host`.
    ///
    /// # Errors
    /// A host that does not fit into a certificate.
    pub fn config(&self, to: &Authority) -> Result<Arc<ServerConfig>, LeafError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = made.get(&to.host).filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(config.clone());
        }
        if made.len() >= HOSTS {
            if let Some(oldest) =
                made.iter().min_by_key(|(_, (at, _))| *at).map(|(host, _)| host.clone())
            {
                made.remove(&oldest);
            }
        }
        let config = Arc::new(self.make(to)?);
        made.insert(to.host.clone(), (Instant::now(), config.clone()));
        Ok(config)
    }

    fn make(&self, to: &Authority) -> Result<ServerConfig, LeafError> {
        let key = KeyPair::generate()?; // ECDSA P-256
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match to.ip() {
            Some(ip) => SanType::IpAddress(ip),
            None => SanType::DnsName(to.host.as_str().try_into()?),
        }];
        params.distinguished_name = DistinguishedName::new();
        if to.host.len() <= 64 {
            params.distinguished_name.push(DnType::CommonName, to.host.as_str());
        }
        let now = time::OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - BACKDATE, now + VALID);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The one cryptography provider, whatever else is linked in.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
