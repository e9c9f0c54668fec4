//! What the daemons are started with: a policy as a real bottle has one, and its tokens.

use super::upstream::{HOST, TOKEN, Upstream};

/// What a daemon is started with.
pub struct Setup {
    /// The policy (JSON).
    pub policy: String,
    /// The first line of standard input (JSON).
    pub input: String,
    /// The certificate of the bottle's CA (PEM).
    pub ca: String,
}

impl Setup {
    /// A policy of eleven routes. Those of the upstream come last, so that the others are tried
    /// first.
    pub fn new(upstream: &Upstream) -> Result<Self, String> {
        let key = rcgen::KeyPair::generate().map_err(|e| e.to_string())?;
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let ca = ca.self_signed(&key).map_err(|e| e.to_string())?.pem();
        let inject = |token: &str| serde_json::json!({"header": "authorization", "scheme": "bearer", "token": token});
        let mut routes: Vec<serde_json::Value> = (0..8)
            .map(|n| {
                serde_json::json!({
                    "name": format!("other-{n}"), "host": format!("api-{n}.example.test"), "methods": ["GET", "POST"],
                    "paths": ["/v1/*", "/repos/*/issues"], "inject": inject("OTHER"), "rate": "1000/m",
                })
            })
            .collect();
        routes.push(serde_json::json!({"name": "packages", "host": "*.packages.test", "apex": true, "methods": ["GET", "HEAD"]}));
        let ours = |name: &str, methods: &[&str], paths: &[&str]| {
            serde_json::json!({
                "name": name, "host": HOST, "methods": methods, "paths": paths, "inject": inject("BENCH"), "connect": upstream.address.to_string(),
                "ca": upstream.cert, "rate": "1000000/s", "max_body": 1_u64 << 30, "budget": {"up": 1_u64 << 50, "down": 1_u64 << 50},
            })
        };
        routes.push(ours("issues", &["GET", "PATCH"], &["/repos/*/issues", "/repos/*/*/pulls"]));
        routes.push(ours(
            "messages",
            &["GET", "POST"],
            &["/v1/messages", "/v1/big", "/v1/models/*"],
        ));
        let tokens = serde_json::json!({"BENCH": TOKEN, "OTHER": "other-77d1b2f0a9-token"});
        let input =
            serde_json::json!({"ca_cert": ca, "ca_key": key.serialize_pem(), "tokens": tokens});
        Ok(Self {
            policy: serde_json::json!({"version": 1, "routes": routes}).to_string(),
            input: input.to_string(),
            ca,
        })
    }
}
