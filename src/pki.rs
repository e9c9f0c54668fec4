//! The bottle's own certificate authority. Its key exists only in memory and is sent to egress by
//! pipe.

use bottle_policy::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::error::{Context, ErrorKind, Result};

/// A certificate authority of one launch (or of the demo's upstream).
pub struct Authority {
    name: String,
    /// Certificate, PEM; public.
    pub certificate: String,
    /// PKCS#8 PEM key.
    pub key: Secret,
}

/// A certificate with its key, signed by an [`Authority`].
pub struct Leaf {
    /// PEM chain, leaf first.
    pub chain: String,
    /// PKCS#8 PEM key.
    pub key: Secret,
}

impl Authority {
    /// Makes an ECDSA P-256 authority whose subject says which bottle it is of.
    ///
    /// # Errors
    /// `Internal` when the system has no randomness.
    pub fn new(name: &str) -> Result<Self> {
        let what = || "cannot make a certificate authority".to_owned();
        let key = KeyPair::generate().context(ErrorKind::Internal, what)?;
        let certificate =
            Self::parameters(name).self_signed(&key).context(ErrorKind::Internal, what)?.pem();
        Ok(Self { name: name.to_owned(), certificate, key: Secret::new(key.serialize_pem()) })
    }

    fn parameters(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params);
        params
    }

    /// Signs a server certificate for the DNS name `host`.
    ///
    /// # Errors
    /// `Internal` when `host` is no DNS name or signing fails.
    pub fn leaf(&self, host: &str) -> Result<Leaf> {
        let what = || format!("cannot make a certificate for {host}");
        let ca_key = KeyPair::from_pem(self.key.expose()).context(ErrorKind::Internal, what)?;
        let issuer = Issuer::new(Self::parameters(&self.name), ca_key);
        let key = KeyPair::generate().context(ErrorKind::Internal, what)?;
        let mut params =
            CertificateParams::new(vec![host.to_owned()]).context(ErrorKind::Internal, what)?;
        set_validity(&mut params);
        let chain = params.signed_by(&key, &issuer).context(ErrorKind::Internal, what)?.pem();
        Ok(Leaf { chain, key: Secret::new(key.serialize_pem()) })
    }
}

/// The keys live as long as the launch; wide dates keep a guest whose clock is wrong working.
fn set_validity(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bottles_never_share_an_authority() {
        let (a, b) = (Authority::new("a").expect("a"), Authority::new("b").expect("b"));
        assert_ne!(a.certificate, b.certificate);
        assert_ne!(a.key.expose(), b.key.expose());
        assert!(
            a.leaf("hello.demo.test")
                .expect("leaf")
                .chain
                .starts_with("-----BEGIN CERTIFICATE-----")
        );
    }
}
