//! TLS: the certificates that the proxy makes for intercepted hosts, and the cryptography provider.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bottle_policy::Secret;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::request::authority::Authority;

/// Most hosts whose certificate is kept. A wildcard route lets a guest name any number.
const MAX_HOSTS: usize = 512;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// The bottle's CA cannot be read.
    #[error("the bottle's CA: {0}")]
    Ca(rcgen::Error),
    /// The certificate cannot be made.
    #[error("certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The bottle's CA is no X.509 certificate.
    #[error("the bottle's CA has no dates: {0}")]
    Dates(String),
    /// The TLS library refuses the certificate.
    #[error("certificate: {0}")]
    Tls(#[from] rustls::Error),
}

/// TLS server configurations by host, made when first needed.
pub struct LeafCertificates {
    issuer: Issuer<'static, KeyPair>,
    /// From when to when the CA is valid. So is every certificate: a guest whose clock is wrong
    /// can still connect, and nobody else trusts the CA.
    validity: (time::OffsetDateTime, time::OffsetDateTime),
    configs: Mutex<HashMap<String, (Instant, Arc<ServerConfig>)>>,
}

impl LeafCertificates {
    /// Reads the bottle's CA.
    ///
    /// # Errors
    /// [`LeafError::Ca`], [`LeafError::Dates`].
    pub fn new(ca_cert: &str, ca_key: &Secret) -> Result<Self, LeafError> {
        let key = KeyPair::from_pem(ca_key.expose()).map_err(LeafError::Ca)?;
        let issuer = Issuer::from_ca_cert_pem(ca_cert, key).map_err(LeafError::Ca)?;
        Ok(Self { issuer, validity: validity(ca_cert)?, configs: Mutex::default() })
    }

    /// The server configuration with a certificate for the host of `to`.
    ///
    /// # Errors
    /// The host does not fit into a certificate.
    pub fn config(&self, to: &Authority) -> Result<Arc<ServerConfig>, LeafError> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = configs.get(&to.host) {
            return Ok(config.clone());
        }
        if configs.len() >= MAX_HOSTS {
            if let Some(oldest) =
                configs.iter().min_by_key(|(_, (at, _))| *at).map(|(host, _)| host.clone())
            {
                configs.remove(&oldest);
            }
        }
        let config = Arc::new(self.make(to)?);
        configs.insert(to.host.clone(), (Instant::now(), config.clone()));
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
        (params.not_before, params.not_after) = self.validity;
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

/// From when to when the certificate in `pem` is valid.
fn validity(pem: &str) -> Result<(time::OffsetDateTime, time::OffsetDateTime), LeafError> {
    let unreadable = |e: &dyn std::fmt::Display| LeafError::Dates(e.to_string());
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| unreadable(&e))?;
    let certificate = pem.parse_x509().map_err(|e| unreadable(&e))?;
    let dates = certificate.validity();
    Ok((dates.not_before.to_datetime(), dates.not_after.to_datetime()))
}

/// The cryptography provider of all TLS connections, whatever else is linked in.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
