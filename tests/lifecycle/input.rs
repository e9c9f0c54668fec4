//! Bad input: a clear error with its exit code, before anything starts.

use std::os::unix::fs::DirBuilderExt;

use crate::support::{Home, PATIENCE, assert_code, output_within, stderr};

pub struct Case {
    pub name: &'static str,
    /// `bottle.toml`, when there is one.
    manifest: &'static str,
    args: &'static [&'static str],
    /// Prepares the home and the command.
    prepare: fn(&Home, &mut std::process::Command),
    code: i32,
    said: &'static str,
}

fn nothing(_: &Home, _: &mut std::process::Command) {}

/// A closure of a system that has no smolvm, whether or not this one has KVM.
fn without_smolvm(home: &Home, command: &mut std::process::Command) {
    let closure = std::env::var_os("BOTTLE_CLOSURE").expect("BOTTLE_CLOSURE");
    let mut closure: serde_json::Value =
        serde_json::from_slice(&std::fs::read(closure).expect("the closure")).expect("JSON");
    closure["engines"].as_object_mut().expect("engines").remove("smolvm");
    let path = home.path().join("closure.json");
    std::fs::write(&path, closure.to_string()).expect("a closure");
    command.env("BOTTLE_CLOSURE", path);
}

const LAUNCH: &[&str] = &["launch", "worker", "--yes"];

macro_rules! manifest {
    ($bottle:literal) => {
        concat!(
            "version = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"true\"]\n[bottles.dev]\nimage = \"demo\"\n",
            $bottle
        )
    };
}

pub const CASES: &[Case] = &[
    Case {
        name: "unknown_command",
        manifest: "",
        args: &["lunch", "demo"],
        prepare: nothing,
        code: 2,
        said: "launch",
    },
    Case {
        name: "unknown_agent",
        manifest: "",
        args: &["launch", "dmo", "--yes"],
        prepare: nothing,
        code: 3,
        said: "demo",
    },
    Case {
        name: "unknown_key",
        manifest: manifest!("[[bottles.dev.egress]]\nhots = \"a.example\"\n"),
        args: LAUNCH,
        prepare: nothing,
        code: 3,
        said: "bottle.toml:9",
    },
    Case {
        name: "unknown_image",
        manifest: "version = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"true\"]\n[bottles.dev]\nimage = \"dmo\"\n",
        args: LAUNCH,
        prepare: nothing,
        code: 3,
        said: "demo",
    },
    Case {
        name: "missing_host_variable",
        manifest: manifest!("env = { A = \"${NO_SUCH_VARIABLE}\" }\n"),
        args: LAUNCH,
        prepare: nothing,
        code: 3,
        said: "NO_SUCH_VARIABLE",
    },
    Case {
        name: "missing_token",
        manifest: manifest!(
            "[[bottles.dev.egress]]\nhost = \"a.example\"\ninject = { header = \"authorization\", token = { env = \"NO_SUCH_TOKEN\" } }\n"
        ),
        args: LAUNCH,
        prepare: nothing,
        code: 3,
        said: "NO_SUCH_TOKEN",
    },
    Case {
        name: "an_upstream_without_pinned_host_keys",
        manifest: manifest!("[[bottles.dev.git]]\nurl = \"git@git.example.com:a.git\"\n"),
        args: LAUNCH,
        prepare: nothing,
        code: 3,
        said: "ssh-keyscan git.example.com",
    },
    Case {
        name: "name_with_dots",
        manifest: "",
        args: &["launch", "demo", "--yes", "--name", "../x"],
        prepare: nothing,
        code: 2,
        said: "name",
    },
    Case {
        name: "no_terminal_and_no_yes",
        manifest: "",
        args: &["launch", "demo"],
        prepare: nothing,
        code: 2,
        said: "--yes",
    },
    Case {
        name: "unanswered_question",
        manifest: manifest!("env = { A = \"?What is A\" }\n"),
        args: LAUNCH,
        prepare: nothing,
        code: 2,
        said: "--env A=",
    },
    Case {
        name: "smolvm_is_not_there",
        manifest: "",
        args: &["launch", "demo", "--yes", "--engine", "smolvm"],
        prepare: without_smolvm,
        code: 4,
        said: "qemu",
    },
    Case {
        name: "smolvm_without_kvm",
        manifest: "",
        args: &["launch", "demo", "--yes", "--engine", "smolvm"],
        prepare: without_kvm,
        code: 4,
        said: "--engine qemu",
    },
    Case {
        name: "exec_in_a_bottle_that_is_not",
        manifest: "",
        args: &["exec", "nobody", "--", "true"],
        prepare: nothing,
        code: 2,
        said: "not running",
    },
    Case {
        name: "no_closure",
        manifest: "",
        args: &["launch", "demo", "--yes"],
        prepare: |_, c| {
            c.env("BOTTLE_CLOSURE", "/no/such/closure.json");
        },
        code: 4,
        said: "closure",
    },
    Case {
        name: "a_store_path_is_missing",
        manifest: "",
        args: &["launch", "demo", "--yes"],
        prepare: |h, c| edited_closure(h, c, "vmlinux", "vmlinux-gone"),
        code: 4,
        said: "missing",
    },
    Case {
        name: "a_store_path_was_altered",
        manifest: "",
        args: &["launch", "demo", "--yes"],
        prepare: altered_kernel,
        code: 4,
        said: "altered",
    },
    Case {
        name: "no_home",
        manifest: "",
        args: &["list"],
        prepare: |_, c| {
            c.env_remove("HOME").env_remove("XDG_STATE_HOME");
        },
        code: 3,
        said: "HOME",
    },
    Case {
        name: "the_state_directory_is_a_file",
        manifest: "",
        args: &["launch", "demo", "--yes"],
        prepare: |h, _| std::fs::write(h.state(), b"").expect("a file"),
        code: 74,
        said: "cannot create",
    },
    Case {
        name: "the_disk_is_full",
        manifest: "",
        args: &["launch", "demo", "--yes"],
        prepare: full_disk,
        code: 3,
        said: "MiB are free",
    },
    Case {
        name: "socket_path_too_long",
        manifest: "",
        args: &["launch", "demo", "--yes"],
        prepare: long_runtime,
        code: 3,
        said: "too long",
    },
];

fn closure_text() -> String {
    std::fs::read_to_string(std::env::var_os("BOTTLE_CLOSURE").expect("BOTTLE_CLOSURE"))
        .expect("the closure")
}

fn edited_closure(home: &Home, command: &mut std::process::Command, from: &str, to: &str) {
    let path = home.path().join("closure.json");
    std::fs::write(&path, closure_text().replace(from, to)).expect("a closure");
    command.env("BOTTLE_CLOSURE", path);
}

fn altered_kernel(home: &Home, command: &mut std::process::Command) {
    let closure: serde_json::Value = serde_json::from_str(&closure_text()).expect("JSON");
    let kernel = closure["engines"]["qemu"]["kernel"]["path"].as_str().expect("a path").to_owned();
    let copy = home.path().join("vmlinux");
    let mut bytes = std::fs::read(&kernel).expect("the kernel");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&copy, bytes).expect("a copy");
    edited_closure(home, command, &kernel, &copy.to_string_lossy());
}

/// The same command in a mount namespace of its own, after `before`.
fn mounted(home: &Home, command: &mut std::process::Command, before: &str) {
    let mut inside = std::process::Command::new("unshare");
    inside
        .args(["-m", "sh", "-c", &format!("{before} && exec \"$0\" \"$@\"")])
        .arg(command.get_program())
        .args(command.get_args());
    inside
        .env_clear()
        .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .current_dir(home.project())
        .stdin(std::process::Stdio::null());
    *command = inside;
}

/// A state directory on a file system of 128 KiB.
fn full_disk(home: &Home, command: &mut std::process::Command) {
    mounted(
        home,
        command,
        &format!(
            "mount -t tmpfs -o size=128k,mode=0700 tmpfs {}",
            home.path().join("state").display()
        ),
    );
}

/// A processor that cannot, whether or not this one can.
fn without_kvm(home: &Home, command: &mut std::process::Command) {
    let cpuinfo = home.path().join("cpuinfo");
    std::fs::write(&cpuinfo, "flags : fpu sse\n").expect("a file");
    mounted(home, command, &format!("mount --bind {} /proc/cpuinfo", cpuinfo.display()));
}

fn long_runtime(home: &Home, command: &mut std::process::Command) {
    let dir = home.path().join("x".repeat(100));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).expect("a directory");
    command.env("XDG_RUNTIME_DIR", dir);
}

impl Case {
    pub fn run(&self) {
        let home = Home::new();
        if !self.manifest.is_empty() {
            std::fs::write(home.project().join("bottle.toml"), self.manifest).expect("a manifest");
        }
        let mut command = home.bottle(self.args);
        (self.prepare)(&home, &mut command);
        let output = output_within(command, PATIENCE);
        assert_code(&output, self.code);
        assert!(stderr(&output).contains(self.said), "{}", stderr(&output));
        assert!(
            !home.runtime("worker").exists() && !home.runtime("demo").exists(),
            "something was started"
        );
    }
}
