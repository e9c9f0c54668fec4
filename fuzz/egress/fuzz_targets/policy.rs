//! Arbitrary bytes as a policy. Nothing may panic, an error must say where, and an accepted policy
//! must have one text and one digest.
#![no_main]

use bottle_policy::Policy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let policy = match Policy::from_json(bytes) {
        Ok(policy) => policy,
        Err(e) => {
            let lines = bytes.iter().filter(|b| **b == b'\n').count() + 1;
            assert!(e.line <= lines && !e.why.is_empty(), "{e}");
            return;
        }
    };
    let text = serde_json::to_vec(&policy).expect("a policy is JSON");
    let again = Policy::from_json(&text).expect("its own text");
    assert_eq!(again, policy);
    assert_eq!(again.digest(), policy.digest());
    for route in &policy.routes {
        let host = route.host.as_str();
        assert!(host.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()), "{host}");
        assert!(host.starts_with("*.") || route.names(host, route.port), "{host}");
        let _ = route.passthrough_conflicts();
    }
});
