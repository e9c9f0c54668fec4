//! Paths at which a guest's TLS clients find the bottle's certificate authority.

/// The certificate of the bottle's authority, as PEM.
pub const CA: &str = "/etc/ssl/bottle/ca.pem";
/// The guest's system-wide CA bundle, to which the certificate is added.
pub const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The same CA bundle as a Java trust store, at the default path of Debian's JVMs.
pub const JAVA_TRUST_STORE: &str = "/etc/ssl/certs/java/cacerts";
