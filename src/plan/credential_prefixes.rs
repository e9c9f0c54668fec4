//! Prefixes of credentials, taken from the scanner's rules (scan/src/rules.toml). A test compares
//! the two and prints the list that belongs here.

/// A prefix, and the least length in bytes of a credential that begins with it. Sorted.
#[rustfmt::skip]
pub(super) const PREFIXES: &[(&str, usize)] = &[
    ("CCIPAT_", 70), ("CCIPRJ_", 70), ("GOCSPX-", 35), ("HRKU-", 41), ("NRAK-", 24), ("NRII-", 24),
    ("NRJS-", 24), ("NRRA-", 24), ("PMAK-", 31), ("PMAT-", 31), ("access-development-", 51),
    ("access-production-", 51), ("access-sandbox-", 51), ("api_org_", 37), ("bkua_", 45),
    ("cfat_", 44), ("cfk_", 44), ("cfut_", 44), ("dckr_oat_", 36), ("dckr_pat_", 36),
    ("doo_v1_", 71), ("dop_v1_", 71), ("dor_v1_", 71), ("dp.audit.", 46), ("dp.ct.", 46),
    ("dp.pt.", 46), ("dp.sa.", 46), ("dp.scim.", 46), ("dp.st.", 46), ("dt0c01.", 96),
    ("dt0s01.", 96), ("figd_", 43), ("figu_", 43), ("fm2_", 47), ("fo1_", 47), ("gho_", 40),
    ("ghp_", 40), ("ghr_", 40), ("ghs_", 40), ("ghu_", 40), ("github_pat_", 93), ("glagent-", 25),
    ("glc_", 40), ("glcbt-", 25), ("gldt-", 25), ("glft-", 25), ("glimt-", 25), ("gloas-", 25),
    ("glpat-", 25), ("glptt-", 25), ("glrt-", 25), ("glsa_", 40), ("glsoat-", 25), ("gsk_", 56),
    ("hvb.", 28), ("hvr.", 28), ("hvs.", 28), ("key-", 36), ("lin_api_", 48), ("lin_oauth_", 48),
    ("nfc_", 40), ("nfo_", 40), ("nfp_", 40), ("npm_", 40), ("ntn_", 50), ("pat-eu1-", 44),
    ("pat-na1-", 44), ("pat-na2-", 44), ("pplx-", 53), ("pscale_oauth_", 42), ("pscale_pw_", 42),
    ("pscale_tkn_", 42), ("pubkey-", 36), ("pul-", 44), ("rk_live_", 30), ("rk_test_", 30),
    ("rubygems_", 57), ("sb_secret_", 41), ("sbp_", 41), ("secret_", 50), ("shpat_", 38),
    ("shpca_", 38), ("shppa_", 38), ("shpss_", 38), ("shpua_", 38), ("sk-ant-", 70),
    ("sk-or-v1-", 73), ("sk_live_", 30), ("sk_prod_", 30), ("sk_test_", 30), ("sntrys_", 60),
    ("sntryu_", 60), ("sq0atp-", 29), ("sq0csp-", 29), ("tskey-", 40), ("v1.0-", 44), ("vca_", 28),
    ("vci_", 28), ("vck_", 28), ("vcp_", 28), ("vcr_", 28), ("whsec_", 30), ("xai-", 84),
    ("xapp-", 26), ("xkeysib-", 89), ("xoxa-", 26), ("xoxb-", 26), ("xoxc-", 26), ("xoxd-", 26),
    ("xoxe-", 26), ("xoxe.", 26), ("xoxo-", 26), ("xoxp-", 26), ("xoxr-", 26), ("xoxs-", 26),
    ("ya29.", 35),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_list_is_the_scanners() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/scan/src/rules.toml");
        let Ok(text) = std::fs::read_to_string(file) else {
            assert!(std::env::var_os("CI").is_none(), "{file} must be here");
            println!("skipped: {file} is not here");
            return;
        };
        let rules: toml_edit::DocumentMut = text.parse().unwrap();
        let mut expected: BTreeMap<String, usize> = BTreeMap::new();
        for rule in rules["rule"].as_array_of_tables().unwrap() {
            let at_a_boundary = rule.get("before").is_none_or(|b| b.as_str() == Some("boundary"));
            if rule.contains_key("nocase") || rule.contains_key("suffixes") || !at_a_boundary {
                continue;
            }
            let min = usize::try_from(rule["min"].as_integer().unwrap()).unwrap();
            for keyword in rule["keywords"].as_array().unwrap() {
                let keyword = keyword.as_str().unwrap();
                if keyword.len() >= 4
                    && keyword.ends_with(['-', '_', '.'])
                    && !keyword.contains(' ')
                {
                    let least = expected.entry(keyword.to_owned()).or_insert(min);
                    *least = min.min(*least);
                }
            }
        }
        let list: Vec<_> = expected.iter().map(|(k, min)| (k.as_str(), *min)).collect();
        assert_eq!(list, PREFIXES);
    }
}
