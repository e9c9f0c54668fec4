//! Host names that carry data out: the owner of the zone sees every name that is looked up.

/// Whether a name below a wildcard looks like data. A label that a person chose has words with
/// hyphens between them; data is one long run of characters.
pub fn looks_like_data(host: &str) -> bool {
    let run = |run: &str| {
        let rare = run.bytes().filter(|b| !b"aeiou".contains(b)).count();
        run.len() >= 20 && (entropy(run) > 3.4 || rare * 4 > run.len() * 3)
    };
    let label = |l: &str| l.len() > 40 && !is_uuid_like(l) || l.split(['-', '_']).any(run);
    host.len() > 120 || host.split('.').any(label)
}

/// `8-4-4-4-12` hex digits: a common name of a tenant or a deployment.
fn is_uuid_like(label: &str) -> bool {
    label.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && label.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// Shannon entropy of the characters, bits each.
fn entropy(text: &str) -> f64 {
    let mut counts = [0u32; 256];
    for b in text.bytes() {
        counts[usize::from(b)] += 1;
    }
    let len = f64::from(u32::try_from(text.len()).unwrap_or(u32::MAX));
    counts.iter().filter(|n| **n > 0).map(|n| f64::from(*n) / len).map(|p| -p * p.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_data_are_told_apart() {
        for name in [
            "api",
            "my-deployment-name-europe-west4",
            "ec2-203-0-113-25.compute-1.amazonaws.com",
            "0b077150-0000-4000-8000-000000000001.apps.example.com",
            "customer-documentation-preview.pages.example.com",
            "d111111abcdef8.cloudfront.net",
            "internationalization.example.com",
        ] {
            assert!(!looks_like_data(name), "{name}");
        }
        for data in [
            "mfrggzdfmztwq2lknnwg23tpobyxe43u.evil.test",
            "c2stYW50LWFwaTAzLWFiY2RlZmdoaWprbG1u.evil.test",
            "736b2d616e742d6170693033.evil.test",
            &"a".repeat(41),
            &"ab.".repeat(41),
        ] {
            assert!(looks_like_data(data), "{data}");
        }
    }
}
