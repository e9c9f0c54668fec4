//! Where a guest's TLS clients find the bottle's certificate authority.

/// The authority's certificate alone, as PEM.
pub const CA: &str = "/etc/ssl/bottle/ca.pem";
/// The guest's system bundle, to which it is added.
pub const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// All of the bundle as a Java trust store, where Debian's JVMs look by themselves.
pub const JAVA_TRUST_STORE: &str = "/etc/ssl/certs/java/cacerts";
