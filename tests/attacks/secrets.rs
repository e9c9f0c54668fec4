//! A planted token must be nowhere but in the memory of the orchestrator and of egress.

use std::path::Path;

use super::Case;
use crate::support::{Home, assert_code, processes_naming, stdout};

pub const CASES: &[Case] = &[
    ("attacks::secrets::a_planted_token_is_in_no_artefact_of_a_launch", planted_token),
    (
        "attacks::secrets::a_token_in_the_guests_environment_stops_the_launch",
        leaked_into_the_environment,
    ),
];

/// Not a real token, and not compressible into something else by chance.
const TOKEN: &str = "planted-7f3a9c51e2d84b06-token";

const MANIFEST: &str = r#"
version = 1
[agents.worker]
bottle = "dev"
provider = "command"
command = ["sleep", "1000"]
[bottles.dev]
image = "demo"
[[bottles.dev.egress]]
host = "api.example.com"
inject = { header = "authorization", scheme = "bearer", token = { file = "~/token" } }
"#;

fn holds_token(bytes: &[u8]) -> bool {
    // Base64 at each of its three alignments would need the daemon to have encoded it: only `basic`
    // routes do.
    let hex = hex::encode(TOKEN);
    [TOKEN.as_bytes(), hex.as_bytes()]
        .iter()
        .any(|needle| memchr::memmem::find(bytes, needle).is_some())
}

/// Whether a file, which may be a sparse disk of many GiB, holds the token.
fn file_holds_token(path: &Path) -> bool {
    use nix::unistd::{Whence, lseek};
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).expect("a file of the launch");
    let mut at = 0;
    // An extent of data, then a hole, and so on; ENXIO after the last.
    while let Ok(begin) = lseek(&file, at, Whence::SeekData) {
        let end = lseek(&file, begin, Whence::SeekHole).expect("its end");
        let mut extent = vec![0; usize::try_from(end - begin).expect("its length")];
        let _ = file.read_exact_at(&mut extent, u64::try_from(begin).expect("its place"));
        if holds_token(&extent) {
            return true;
        }
        at = end;
    }
    false
}

fn files_below(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().expect("its type");
        if kind.is_dir() {
            files_below(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

fn planted_token() {
    let store = || -> Vec<_> {
        std::fs::read_dir("/nix/store")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name())
            .collect()
    };
    let before = store();
    let home = Home::with_manifest(MANIFEST);
    let token_file = home.path().join("token");
    std::fs::write(&token_file, format!("{TOKEN}\n")).expect("the token");
    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    // Use it once, so that egress has had it in its hands (the host does not resolve here: a 502 is
    // fine).
    bottle.sh(false, "curl -sm10 https://api.example.com/ -o /dev/null; true");

    // The twin: the search finds the token where it is.
    assert!(file_holds_token(&token_file));
    let mut files = Vec::new();
    files_below(&home.state(), &mut files);
    files_below(&home.path().join("run"), &mut files);
    assert!(
        files.iter().any(|f| f.ends_with("disk.img"))
            && files.iter().any(|f| f.ends_with("policy.json")),
        "{files:?}"
    );
    for file in &files {
        assert!(!file_holds_token(file), "the token is in {}", file.display());
    }
    // Argument vectors and environments of every process of the launch.
    let processes = processes_naming(home.path());
    assert!(processes.len() >= 2, "{processes:?}");
    let own = std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    for pid in own {
        for name in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            assert!(!holds_token(&bytes), "the token is in /proc/{pid}/{name}");
        }
    }
    // Inside: every environment, every file, the kernel's log. First the twin: what is planted
    // there is found.
    let search = |needle: &str| {
        format!(
            "n={needle}; cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -F \"$n\" | grep -v '^n=' ; \
             grep -rlF --exclude-dir=proc --exclude-dir=sys --exclude-dir=lower \"$n\" /etc /home /root /tmp /run /var /opt /usr/lib/bottle 2>/dev/null; \
             dmesg 2>/dev/null | grep -F \"$n\"; true"
        )
    };
    let found =
        bottle.sh(true, &format!("echo decoy-4711 > /var/tmp/decoy; {}", search("decoy-4711")));
    assert!(stdout(&found).contains("/var/tmp/decoy"), "{found:?}");
    let (head, tail) = TOKEN.split_at(9);
    let found = bottle.sh(true, &search(&format!("{head}''{tail}")));
    assert_code(&found, 0);
    assert_eq!(stdout(&found), "", "the token is in the guest");
    let said = bottle.said();
    assert!(!holds_token(said.as_bytes()), "{said}");
    bottle.stop();
    assert!(store().iter().all(|path| before.contains(path)), "a launch added to the store");
    // What outlives the launch.
    let mut files = Vec::new();
    files_below(&home.state(), &mut files);
    assert!(files.iter().any(|f| f.ends_with("audit.jsonl")), "{files:?}");
    for file in files {
        assert!(!file_holds_token(&file), "the token is in {}", file.display());
    }
}

fn leaked_into_the_environment() {
    // The demo's token is random, so only the launch itself can leak it: the build with faults does.
    let home = Home::faulty();
    let mut command = home.bottle(&["launch", "demo", "--yes"]);
    command.env("BOTTLE_FAULT", "leak-token");
    let output = crate::support::output_within(command, crate::support::PATIENCE);
    assert_code(&output, 5);
    assert!(crate::support::stderr(&output).contains("holds a token's value"), "{output:?}");
    assert_eq!(home.leftovers("demo"), Vec::<String>::new());
}
