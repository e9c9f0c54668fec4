//! What smolvm makes of bad input. Run where it can run.

use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::attacks::Case;
use crate::support::{Home, PATIENCE, assert_code, output_within, stderr};

pub const CASES: &[Case] = &[
    ("lifecycle::smolvm::a_damaged_image_is_refused_before_it_boots", damaged),
    ("lifecycle::smolvm::its_libraries_are_missing", no_libkrun),
    ("lifecycle::smolvm::there_is_no_room_to_unpack_an_image", no_room),
    ("lifecycle::smolvm::a_kvm_that_may_not_be_opened", no_permission),
    ("lifecycle::smolvm::what_another_smolvm_left_is_in_nobodys_way", left_behind),
    ("lifecycle::smolvm::machines_of_two_sizes_share_an_image", two_sizes),
];

fn closure() -> Value {
    let path = std::env::var_os("BOTTLE_CLOSURE").expect("BOTTLE_CLOSURE");
    serde_json::from_slice(&std::fs::read(path).expect("the closure")).expect("JSON")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// A launch with this closure.
fn launch(home: &Home, closure: &Value) -> Command {
    let path = home.path().join("closure.json");
    std::fs::write(&path, closure.to_string()).expect("a closure");
    let mut command = home.bottle(&["launch", "demo", "--yes", "--", "true"]);
    command.env("BOTTLE_CLOSURE", path);
    command
}

fn refused(home: &Home, command: Command, code: i32, said: &str) {
    let output = output_within(command, PATIENCE);
    assert_code(&output, code);
    assert!(stderr(&output).contains(said), "{said:?} is not in {}", stderr(&output));
    assert_eq!(home.leftovers("demo"), Vec::<String>::new());
    // Nothing that was not whole is kept for the next launch.
    assert!(
        std::fs::read_dir(home.state().join("unpacked"))
            .into_iter()
            .flatten()
            .flatten()
            .all(|e| e.path().is_file())
    );
}

/// The demo's image with its bytes changed by `alter`, in a closure that may know of it.
fn with_image(home: &Home, known: bool, alter: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut closure = closure();
    let image = &mut closure["images"]["demo"]["smolmachine"];
    let mut bytes = std::fs::read(text(&image["path"])).expect("the image");
    alter(&mut bytes);
    let path = home.path().join("altered.smolmachine");
    std::fs::write(&path, &bytes).expect("an image");
    image["path"] = path.to_string_lossy().into();
    image["bytes"] = bytes.len().into();
    if known {
        image["sha256"] = hex::encode(Sha256::digest(&bytes)).into();
    }
    closure
}

/// The same length, so that the footer still fits.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = memchr::memmem::rfind(bytes, from.as_bytes()).expect("the text");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
}

fn damaged() {
    type Alter = fn(&mut Vec<u8>);
    let flip: Alter = |b| {
        let middle = b.len() / 2;
        b[middle] ^= 1;
    };
    let cases: [(bool, Alter, &str); 6] = [
        // The closure's hash finds everything; the rest is for what a closure might have been built
        // with.
        (false, flip, "was altered"),
        (true, flip, "hecksum"),
        (true, |b| b.truncate(b.len() / 2), "not a whole .smolmachine"),
        (true, |b| b.clear(), "not a whole .smolmachine"),
        (true, |b| replace(b, "\"linux/amd64\"", "\"linux/arm64\""), "it is for linux/arm64"),
        (
            true,
            |b| {
                let version = b.len() - 64 + 8;
                b[version] = 9;
            },
            "made for a newer smolvm",
        ),
    ];
    for (known, alter, said) in cases {
        let home = Home::new();
        let closure = with_image(&home, known, alter);
        refused(&home, launch(&home, &closure), 4, said);
    }
}

fn no_libkrun() {
    let home = Home::new();
    let closure = closure().to_string().replace("/libkrun.so\"", "/libkrun-gone.so\"");
    let closure = serde_json::from_str(&closure).expect("JSON");
    refused(&home, launch(&home, &closure), 4, "libkrun-gone.so is missing from the store");
}

/// `command` in a mount namespace of its own, after `before`.
fn mounted(before: &str, command: &Command) -> Command {
    let mut inside = Command::new("unshare");
    inside
        .args(["--user", "--map-current-user", "--keep-caps", "--mount", "sh", "-c"])
        .arg(format!("{before} && exec \"$0\" \"$@\""));
    inside.arg(command.get_program()).args(command.get_args()).env_clear();
    inside
        .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .stdin(std::process::Stdio::null());
    if let Some(dir) = command.get_current_dir() {
        inside.current_dir(dir);
    }
    inside
}

fn no_room() {
    let home = Home::new();
    let before = format!(
        "mount -t tmpfs -o size=100m,mode=0700 tmpfs {}",
        home.path().join("state").display()
    );
    refused(&home, mounted(&before, &launch(&home, &closure())), 3, "MiB are free for");
}

fn no_permission() {
    let home = Home::new();
    // Somebody else's, and nobody's to open.
    let before = "mount --bind /proc/kmsg /dev/kvm";
    refused(
        &home,
        mounted(before, &launch(&home, &closure())),
        4,
        "/dev/kvm may not be opened (sudo setfacl -m u:$USER:rw /dev/kvm)",
    );
    // Nobody has to have it.
    let mut command = home.bottle(&["plan", "demo"]);
    command.env("BOTTLE_CLOSURE", home.path().join("closure.json"));
    let output = output_within(mounted(before, &command), PATIENCE);
    assert_code(&output, 0);
    assert!(crate::support::stdout(&output).contains("qemu"), "auto takes what works");
}

fn left_behind() {
    let home = Home::new();
    let closure = closure();
    let smolvm = &closure["engines"]["smolvm"];
    // A machine of the name that all of ours have, in the user's own smolvm.
    let root = home.path().join("root/");
    std::fs::create_dir_all(root.join("bin")).expect("a root");
    let mut create = Command::new(text(&smolvm["binary"]["path"]));
    create
        .args([
            "machine",
            "create",
            "--name",
            "bottle",
            "--storage",
            "1",
            "--overlay",
            "1",
            "--image",
        ])
        .arg(&root)
        .env_clear();
    create.env("HOME", home.path()).env("PATH", format!("{}/bin", text(&smolvm["root"])));
    create
        .env("SMOLVM_LIB_DIR", text(&smolvm["libraries"]))
        .env("SMOLVM_AGENT_ROOTFS", text(&smolvm["agent"]));
    let foreign = output_within(create, PATIENCE);
    assert_code(&foreign, 0);
    let database = || {
        std::fs::read(home.path().join(".local/share/smolvm/server/smolvm.db"))
            .expect("its database")
    };
    let before = database();
    // What another version might have left where the bottle's own machine goes.
    let machine = home.state().join("bottles/demo/machine");
    for dir in [".local/share/smolvm/server", ".cache/smolvm/vms/7def9c79e5be6d7a"] {
        std::fs::create_dir_all(machine.join(dir)).expect("a directory");
    }
    std::fs::write(machine.join(".local/share/smolvm/server/smolvm.db"), "no database")
        .expect("a file");
    std::fs::write(machine.join(".cache/smolvm/vms/7def9c79e5be6d7a/storage.raw"), "no disk")
        .expect("a file");
    assert_code(&output_within(launch(&home, &closure), PATIENCE), 0);
    assert_eq!(home.leftovers("demo"), Vec::<String>::new());
    assert!(database() == before, "the other one's is untouched");
}

fn two_sizes() {
    let bottle = |name: &str, memory: &str, disk: &str| {
        format!(
            "[agents.{name}]\nbottle = \"{name}\"\nprovider = \"command\"\ncommand = [\"true\"]\n[bottles.{name}]\nimage = \"demo\"\n\
             resources = {{ cpus = 1, memory = \"{memory}\", disk = \"{disk}\" }}\n"
        )
    };
    let home = Home::with_manifest(&format!(
        "version = 1\n{}{}",
        bottle("small", "512MiB", "1GiB"),
        bottle("large", "768MiB", "2GiB")
    ));
    let sizes = ["small", "large", "small"].map(|agent| {
        let script = "grep -h MemTotal: /proc/meminfo; df --output=size / | tail -n 1";
        let output = output_within(
            home.bottle(&["launch", agent, "--yes", "--", "sh", "-c", script]),
            PATIENCE,
        );
        assert_code(&output, 0);
        let said = crate::support::stdout(&output);
        let kib: Vec<u32> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        (kib[0] >> 10, kib[1] >> 10)
    });
    let within = |(memory, disk): (u32, u32), most: (u32, u32)| {
        (most.0 * 8..most.0 * 11).contains(&(memory * 10))
            && (most.1 * 9..most.1 * 10).contains(&(disk * 10))
    };
    assert!(
        within(sizes[0], (512, 1024))
            && within(sizes[1], (768, 2048))
            && within(sizes[2], (512, 1024)),
        "{sizes:?} MiB"
    );
    let dirs = |dir: &std::path::Path| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(dir)
            .expect("a directory")
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.is_dir())
            .collect()
    };
    let images = dirs(&home.state().join("unpacked"));
    assert_eq!(images.len(), 1, "{images:?}");
    assert_eq!(dirs(&images[0].join("created")).len(), 2);
}
