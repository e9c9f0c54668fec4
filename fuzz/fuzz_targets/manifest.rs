//! Parses, plans and shows arbitrary bytes as `bottle.toml` and as an agent file. Nothing may
//! panic, each error must name a place that exists in its file, and the output must not act on a
//! terminal.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use bottle::manifest::{MAX_FILE, Manifest, ManifestErrors, MemFiles, parse};
use bottle::plan::{Engine, Host, ImageFacts, LaunchPlan, Options, diff, plan, render};
use bottle::values::Guest;
use libfuzzer_sys::fuzz_target;

/// Number of lines of the fuzzed file, as editors count them.
fn lines(bytes: &[u8]) -> u32 {
    let newlines =
        bytes.iter().filter(|b| **b == b'\n').count() + usize::from(!bytes.ends_with(b"\n"));
    u32::try_from(newlines.max(1)).unwrap_or(u32::MAX)
}

fn check(result: Result<Manifest, ManifestErrors>, file: &str, bytes: &[u8]) -> Option<Manifest> {
    let errors = match result {
        Ok(manifest) => return Some(manifest),
        Err(errors) => errors,
    };
    assert!(!errors.0.is_empty());
    for e in errors.0.iter().filter(|e| e.file == Path::new(file)) {
        let whole = e.line == 0 && bytes.len() as u64 > MAX_FILE;
        assert!(whole || ((1..=lines(bytes)).contains(&e.line) && e.column >= 1), "{e:?}");
        assert!(!e.message.trim().is_empty());
    }
    let text = errors.to_string();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    None
}

fuzz_target!(|bytes: &[u8]| {
    let mut files = MemFiles::default();
    for name in ["prompts/x.md", "skills/review/SKILL.md"] {
        files.files.insert(name.to_owned(), b"text".to_vec());
    }
    files.files.insert("ca.pem".to_owned(), bytes.to_vec());
    let as_manifest = check(parse(bytes, Path::new("bottle.toml"), &files), "bottle.toml", bytes);
    files.files.insert("agents/fuzzed.md".to_owned(), bytes.to_vec());
    let as_agent =
        check(parse(b"version = 1", Path::new("bottle.toml"), &files), "agents/fuzzed.md", bytes);

    let env = |name: &str| (name.len() % 2 == 0).then(|| format!("{name}\u{1b}[31m\u{202e}"));
    let image = ImageFacts {
        image: "/nix/store/x".into(),
        guest: Guest {
            user: "node".into(),
            uid: 1000,
            gid: 1000,
            home: "/home/node".into(),
            workdir: "/".into(),
            path: "/bin".into(),
        },
    };
    let images: BTreeMap<_, _> =
        "demo".parse().into_iter().map(|name| (name, image.clone())).collect();
    let engine = Engine { name: "qemu".to_owned(), reason: "fuzzing".to_owned() };
    let host = Host { env: &env, engine, images, identity: None, logins: BTreeMap::new() };
    let mut previous: Option<LaunchPlan> = None;
    for manifest in [as_manifest, as_agent].iter().flatten() {
        for agent in manifest.agents.keys().take(8) {
            match plan(manifest, agent.as_str(), &host, &Options::default()) {
                Ok(planned) => {
                    let text = render(&planned);
                    assert!(
                        text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
                        "{text:?}"
                    );
                    let json = serde_json::to_vec(&planned).expect("a plan is JSON");
                    assert_eq!(
                        serde_json::from_slice::<LaunchPlan>(&json).expect("and back"),
                        planned
                    );
                    assert!(diff(&planned, &planned).is_empty());
                    previous.iter().for_each(|p| drop(diff(p, &planned)));
                    previous = Some(planned);
                }
                Err(e) => assert!(!e.to_string().is_empty()),
            }
        }
    }
});
