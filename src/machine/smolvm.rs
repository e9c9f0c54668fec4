//! The smolvm engine (libkrun): needs KVM. Its own guest kernel and init; no network device.
//!
//! smolvm's programs run in namespaces that end with the launch (`bottle-bundle machine`): an empty
//! network, their own processes, and of the file system the store and this machine's private
//! directory. Of smolvm's ways into a guest two are used: one mounted socket, which is the bottle's
//! channel, and one `exec`, which starts `bottle-guest serve` on it. The rest is the channel's, the
//! same as with every engine.

use std::ffi::OsString;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bottle_channel::{Key, Session, host_handshake};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::net::UnixListener;

use super::console::Console;
use super::image_cache::Unpacked;
use super::{Engine, MachineSpec, Running, Virtualisation, virtualisation};
use crate::closure::{Closure, Smolvm as Files};
use crate::error::{Context, Error, Kind, Result};
use crate::host::process::{Daemon, Program};
use crate::state::{Journal, Step, private_dir};

/// Longest time from the start to an answering agent; then it is started once more. It is 1 s on a
/// quiet host with KVM, 25 s in a machine that is emulated itself.
const BOOT_WATCHDOG: Duration = Duration::from_secs(180);
/// What smolvm says of a guest that takes longer than it waits.
const SLOW: &str = "did not become ready";
/// Versions that the tests have run.
pub const TESTED: &str = "1.32.2";
/// Where the programs find the machine's directory, and the channel's socket in it (see
/// `bottle-bundle machine`).
const INSIDE: &str = "/tmp";
/// The channel's socket in the guest.
const CHANNEL: &str = "/run/bottle/channel";
/// The bottle's own binary in every image.
const GUEST: &str = "/usr/lib/bottle/bottle-guest";
/// Size of [`SECOND`] in GiB, the least there is.
const OVERLAY: &str = "1";
const GIB: u64 = 1 << 30;
/// In smolvm's directory, its machines'.
const MACHINES: &str = ".cache/smolvm/vms";
/// And what they share: of each image a directory of its layers, and files about it.
const SHARED: &str = ".cache/smolvm/vms/_shared";
/// What helps where an image is damaged.
const REPACK: &str = "nix/bootstrap build .#bottle   # packs the image anew";
/// In an image's directory: it was unpacked to its end.
const WHOLE: &str = ".smolvm-extracted";
/// In a machine's directory, the disk on which all writes end.
const DISK: &str = "storage.raw";
/// The disk that holds what smolvm changes on its own root.
const SECOND: &str = "overlay.raw";
/// Beside a disk: it has a file system.
const FORMATTED: &str = "formatted";
/// What every machine is called: each has a state directory of its own.
const NAME: &str = "bottle";
/// Of what is kept between launches, the unpacked image, as smolvm's [`SHARED`].
const IMAGE: &str = "image";
/// And the machines of it that were created.
const CREATED: &str = "created";

/// smolvm out of the closure.
#[derive(Debug)]
pub struct Smolvm<'a> {
    closure: &'a Closure,
    files: &'a Files,
}

impl<'a> Smolvm<'a> {
    /// # Errors
    /// `Engine` when it cannot run here, with what would help.
    pub fn new(closure: &'a Closure) -> Result<Self> {
        let missing =
            || Error::new(Kind::Engine, "smolvm is not in this closure").hint("--engine qemu");
        let files = closure.engines.smolvm.as_ref().ok_or_else(missing)?;
        match virtualisation() {
            Virtualisation::Kvm => Ok(Self { closure, files }),
            Virtualisation::None(why) => {
                Err(Error::new(Kind::Engine, format!("smolvm needs KVM: {why}"))
                    .hint("--engine qemu"))
            }
        }
    }

    /// Why it runs the way it runs, for preflight.
    #[must_use]
    pub fn reason(&self) -> String {
        format!("smolvm {} with KVM", self.files.version)
    }

    /// `bottle-bundle machine --dir DIR …`, without the programs that it is to run.
    fn confined(&self, dir: &Path, image: &Path) -> Program {
        let files = self.files;
        Program::new("smolvm", &self.closure.bundle.binary.path)
            .env("HOME", INSIDE)
            .env("TMPDIR", INSIDE)
            .env("PATH", files.path())
            .env("MKE2FS_CONFIG", files.root.join("etc/mke2fs.conf"))
            .env("SMOLVM_LIB_DIR", &files.libraries)
            .env("SMOLVM_AGENT_ROOTFS", &files.agent)
            // Its own patience of 30 s is too little where everything is emulated.
            .env("SMOLVM_START_TIMEOUT_SECS", (BOOT_WATCHDOG.as_secs() - 30).to_string())
            // Started by root, it would become a user of its own for each machine, whom nothing
            // here is granted.
            .env("SMOLVM_VM_UID_DROP", "off")
            .arg("machine")
            .arg("--parent")
            .arg(std::process::id().to_string())
            .arg("--dir")
            .arg(dir)
            .arg("--ro")
            .arg(image)
            .args(["--ro", "/sys", "--rw", "/dev/kvm", "--rx"])
            .arg(&files.root)
    }

    /// The arguments of `smol-vmm machine VERB`, as JSON.
    fn machine(&self, verb: &str, args: &[&str]) -> String {
        let words =
            ["machine", verb, "--error-format", "json", "--state-dir", INSIDE, "--name", NAME];
        let binary = self.files.binary.path.to_string_lossy();
        serde_json::json!([&*binary].iter().chain(&words).chain(args).collect::<Vec<_>>())
            .to_string()
    }

    /// `machine create`, with everything in which a machine differs from another one of the same
    /// image.
    fn create(&self, spec: &MachineSpec<'_>) -> String {
        let gib = spec.disk_bytes.div_ceil(GIB).to_string();
        let (cpus, memory) = (spec.cpus.to_string(), (spec.memory_bytes >> 20).to_string());
        let (path, socket) =
            (spec.image.path.to_string_lossy(), format!("{INSIDE}/channel:{CHANNEL}"));
        let resources =
            ["--cpus", &cpus, "--mem", &memory, "--storage", &gib, "--overlay", OVERLAY];
        self.machine(
            "create",
            &[&["--from", &*path], &resources[..], &["--mount-socket", &socket]].concat(),
        )
    }

    /// The unpacked image, and what `machine create` wrote of a machine of it: both are made once,
    /// as smolvm reads the whole image for each, and a launch starts on a copy. No machine is
    /// started, and no guest has been near what comes out.
    async fn created(
        &self,
        spec: &MachineSpec<'_>,
        journal: &mut Journal,
    ) -> Result<(Unpacked, Unpacked)> {
        let what = || format!("cannot unpack {}", spec.image.path.display());
        let create = self.create(spec);
        let name = hex::encode(&Sha256::digest(format!("{create} {}", spec.disk_bytes))[..16]);
        let key = format!(
            "{}-{}-created",
            spec.image.sha256.get(..32).unwrap_or_default(),
            self.files.version
        );
        let image = Unpacked::get(
            &spec.unpacked,
            &key,
            journal,
            async |new: &Path, journal: &mut Journal| {
                // smolvm itself says less clearly what it cannot take.
                let manifest = bottle_pack::inspect(&spec.image.path, bottle_pack::host_platform())
                    .map_err(|e| {
                        Error::new(Kind::Engine, format!("{}: {e}", spec.image.path.display()))
                            .hint(REPACK)
                    })?;
                room(new, manifest.image_size)?;
                let machine = new.join(CREATED).join(&name);
                private_dir(&machine)?;
                self.run_create(spec, &create, None, &machine, journal).await?;
                std::fs::rename(machine.join(SHARED), new.join(IMAGE)).context(Kind::Config, what)
            },
        )
        .await?;
        // There by now, but for a machine of another size.
        let machine = Unpacked::get(
            &image.dir().join(CREATED),
            &name,
            journal,
            async |new: &Path, journal: &mut Journal| {
                let shared = share(&image, new)?;
                self.run_create(spec, &create, Some(shared), new, journal).await?;
                crate::state::remove_tree(&new.join(SHARED)).context(Kind::Config, what)
            },
        )
        .await?;
        Ok((image, machine))
    }

    /// Has smolvm create the machine in `dir`, and formats its disks.
    async fn run_create(
        &self,
        spec: &MachineSpec<'_>,
        create: &str,
        shared: Option<(PathBuf, PathBuf)>,
        dir: &Path,
        journal: &mut Journal,
    ) -> Result<()> {
        let what = || format!("cannot write {}", dir.display());
        let mut program = self.confined(dir, &spec.image.path).arg("--step").arg(create);
        let unpacked_before = shared.is_some();
        if let Some((image, place)) = shared {
            program = program.arg("--shared").arg(image).arg(place);
        }
        let mut smolvm = program.spawn(&spec.log, journal)?;
        let late = || {
            Error::new(
                Kind::Engine,
                format!(
                    "{} was not unpacked in {} s",
                    spec.image.path.display(),
                    BOOT_WATCHDOG.as_secs()
                ),
            )
        };
        tokio::time::timeout(BOOT_WATCHDOG, smolvm.ended()).await.map_err(|_| late())?;
        let (machine, image) = (dir.join(MACHINES).join(id(NAME)), dir.join(SHARED));
        let overlay = machine.join(SECOND);
        let whole = unpacked_before
            || unpacked_image(&image).is_some_and(|of| image.join(of).join(WHOLE).exists());
        if !whole || !overlay.exists() {
            return Err(failure(&mut smolvm, spec, dir).await);
        }
        for (disk, bytes) in [(machine.join(DISK), spec.disk_bytes), (overlay, GIB)] {
            std::fs::remove_file(&disk).context(Kind::Config, what)?;
            super::disk::format(self.closure, &disk, bytes).await?;
            std::fs::write(disk.with_extension(FORMATTED), b"").context(Kind::Config, what)?;
        }
        Ok(())
    }

    /// `bottle-bundle machine … --step START --step EXEC --afterwards STOP`
    fn program(
        &self,
        spec: &MachineSpec<'_>,
        (shared, place): (PathBuf, PathBuf),
        dir: &Path,
    ) -> Program {
        let exec =
            ["--interactive", "--user", "0:0", "--workdir", "/", "--", GUEST, "serve", CHANNEL];
        let mut program = self
            .confined(dir, &spec.image.path)
            .arg("--channel")
            .arg(&spec.channel)
            .arg("--shared")
            .arg(shared)
            .arg(place);
        for (verb, args) in [("start", &[][..]), ("exec", &exec)] {
            program = program.arg("--step").arg(self.machine(verb, args));
        }
        // The guest has said good-bye: its disk is to be whole.
        program.arg("--afterwards").arg(self.machine("stop", &[]))
    }

    async fn boot(&self, spec: &MachineSpec<'_>, journal: &mut Journal) -> Result<Running> {
        let what = || "cannot make the machine's channel".to_owned();
        let (image, machine) = self.created(spec, journal).await?;
        // Never the files of an earlier launch: a guest, or another version, wrote them.
        let dir = spec.disk.with_file_name("machine");
        journal.record(&Step::Tree { path: dir.clone() })?;
        crate::state::remove_tree(&dir)
            .context(Kind::Config, || format!("cannot remove {}", dir.display()))?;
        private_dir(&dir)?;
        crate::state::copy_tree(machine.dir(), &dir)
            .context(Kind::Config, || format!("cannot write {}", dir.display()))?;
        super::disk::share(spec, &dir.join(MACHINES).join(id(NAME)).join(DISK), journal)?;
        let shared = share(&image, &dir)?;
        let _ = std::fs::remove_file(&spec.channel);
        let listener = UnixListener::bind(&spec.channel).context(Kind::Internal, what)?;
        let key = Key::random().context(Kind::Internal, what)?;
        let mut vmm = self.program(spec, shared, &dir).spawn(&spec.log, journal)?;
        vmm.feed(key.expose()).await?;
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(BOOT_WATCHDOG, listener.accept()) => accepted,
            _ = vmm.ended() => return Err(failure(&mut vmm, spec, &dir).await),
        };
        // One connection, ever.
        drop(listener);
        let _ = std::fs::remove_file(&spec.channel);
        let late = || {
            Error::new(
                Kind::Engine,
                format!("the agent of the machine did not answer in {} s", BOOT_WATCHDOG.as_secs()),
            )
        };
        let (mut channel, _) = accepted.map_err(|_| late())?.context(Kind::Internal, what)?;
        match tokio::time::timeout(BOOT_WATCHDOG, host_handshake(&mut channel, &key)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                return Err(Error::new(Kind::Engine, format!("the machine did not start: {e}"))
                    .hint("bottle doctor"));
            }
            Err(_) => return Err(late()),
        }
        if !runs_on(&dir, &spec.disk) {
            return Err(Error::new(
                Kind::Engine,
                format!("smolvm {} does not use the bottle's disk", self.files.version),
            )
            .hint("--engine qemu"));
        }
        let (session, incoming, driver) = Session::host(channel);
        tokio::spawn(async move {
            if let Err(e) = driver.await {
                tracing::debug!("the channel ended: {e}");
            }
        });
        Ok(Running {
            session,
            incoming: Some(incoming),
            vmm,
            console: Console::file(console(&dir)),
            _image: Some(image),
        })
    }
}

impl Engine for Smolvm<'_> {
    fn name(&self) -> &'static str {
        "smolvm"
    }

    async fn start(&self, spec: &MachineSpec<'_>, journal: &mut Journal) -> Result<Running> {
        match self.boot(spec, journal).await {
            // smolvm waits 30 s for the guest's next sign of life, which is little where it is
            // emulated. Nothing has happened yet.
            Err(error) if error.to_string().contains(SLOW) => {
                tracing::warn!("{error}; booting once more");
                let console = || Console::file(console(&spec.disk.with_file_name("machine")));
                self.boot(spec, journal).await.map_err(|e| console().explain(e))
            }
            other => other,
        }
    }
}

/// Lays out in `dir` what smolvm knows of the unpacked image. Returns the image itself, and its
/// place relative to `dir`.
fn share(image: &Unpacked, dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let (from, to) = (image.dir().join(IMAGE), dir.join(SHARED));
    let what = || format!("cannot write {}", to.display());
    let damaged = || Error::new(Kind::Engine, format!("{} is damaged", image.dir().display()));
    let layers = unpacked_image(&from)
        .ok_or_else(|| damaged().hint(format!("rm -r {}", image.dir().display())))?;
    private_dir(&to.join(&layers))?;
    for entry in std::fs::read_dir(&from).context(Kind::Config, what)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_file()) {
            std::fs::copy(entry.path(), to.join(entry.file_name())).context(Kind::Config, what)?;
        }
    }
    Ok((from.join(&layers), Path::new(SHARED).join(layers)))
}

/// Requires room in `dir` for an image with layers of `bytes`, which are unpacked twice: to tar
/// files, and those to a tree.
fn room(dir: &Path, bytes: u64) -> Result<()> {
    let (free, needed) = (crate::state::free_mib(dir)?, bytes.saturating_mul(2) >> 20);
    if free >= needed {
        return Ok(());
    }
    let error = Error::new(
        Kind::Config,
        format!("only {free} MiB are free for {}, and the image needs {needed}", dir.display()),
    );
    Err(error.hint(
        "df -h ~/.local/state   # free some space, or export XDG_STATE_HOME=/somewhere/with/room",
    ))
}

/// What smolvm calls the directory of the machine `name`: the beginning of the name's SHA-256.
fn id(name: &str) -> String {
    hex::encode(&Sha256::digest(name)[..8])
}

/// The one directory in `shared`, which is named after the image's checksum.
fn unpacked_image(shared: &Path) -> Option<OsString> {
    let mut dirs = std::fs::read_dir(shared)
        .ok()?
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let (one, other) = (dirs.next(), dirs.next());
    one.filter(|_| other.is_none()).map(|e| e.file_name())
}

/// The directories of smolvm's machines below `dir`: of one, if all is well.
fn machines(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir.join(MACHINES)).into_iter().flatten().flatten().map(|m| m.path())
}

/// Whether the machine's disk is the file `disk`, and no other.
fn runs_on(dir: &Path, disk: &Path) -> bool {
    let file = |path: &Path| std::fs::symlink_metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let used: Vec<_> = machines(dir).filter_map(|m| file(&m.join(DISK))).collect();
    file(disk).is_some_and(|disk| used == [disk])
}

/// The console that smolvm keeps in its directory for the one machine in it.
fn console(dir: &Path) -> PathBuf {
    let mut logs = machines(dir).map(|m| m.join("agent-console.log"));
    // The guest does not choose what this is, but it can write into it.
    logs.find(|l| {
        l.symlink_metadata().is_ok_and(|m| m.file_type().is_file() && !m.file_type().is_socket())
    })
    .unwrap_or_default()
}

/// One line of smolvm's own errors.
#[derive(Deserialize)]
struct Reported {
    error: ReportedError,
}

#[derive(Deserialize)]
struct ReportedError {
    message: String,
}

async fn failure(vmm: &mut Daemon, spec: &MachineSpec<'_>, dir: &Path) -> Error {
    let failure = vmm.failure().await;
    let said = std::fs::read_to_string(&spec.log).unwrap_or_default();
    let startup = console(dir).with_file_name("agent-startup-error.log");
    let startup = std::fs::read_to_string(startup).unwrap_or_default();
    explain(&said, &startup).unwrap_or(failure)
}

/// What smolvm reported in JSON, among the other lines it says, in our words and with what helps.
/// `None` when it reported nothing.
fn explain(said: &str, startup: &str) -> Option<Error> {
    let reported =
        said.lines().rev().find_map(|line| serde_json::from_str::<Reported>(line.trim()).ok())?;
    let message = crate::manifest::neutral(&reported.error.message).to_string();
    let all = format!("{message} {startup}").to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| all.contains(w));
    let (kind, hint) = if has(&["kvmopen(error(13", "/dev/kvm: permission"]) {
        (
            Kind::Engine,
            "sudo usermod -aG kvm $USER   # and log in again; or: sudo setfacl -m u:$USER:rw /dev/kvm",
        )
    } else if has(&["kvmopen", "/dev/kvm"]) {
        (Kind::Engine, "--engine qemu")
    } else if has(&["no space left", "enospc", "disk full"]) {
        (
            Kind::Config,
            "df -h ~/.local/state   # free some space, or ask for a smaller resources.disk",
        )
    } else if has(&["checksum", "crc", "invalid magic", "truncated", "unsupported version"]) {
        (Kind::Engine, REPACK)
    } else if has(&["libkrun", "dlopen"]) {
        (Kind::Engine, "nix/bootstrap build .#bottle   # realises smolvm's libraries again")
    } else {
        (Kind::Engine, "bottle doctor")
    };
    Some(Error::new(kind, format!("smolvm: {message}")).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bottles_own_disk_will_do() {
        let home = tempfile::tempdir().expect("dir");
        let (dir, disk) = (home.path().join("machine"), home.path().join("disk.img"));
        let machine = |name: &str| {
            let machine = dir.join(MACHINES).join(id(name));
            std::fs::create_dir_all(&machine).expect("a machine");
            machine.join(DISK)
        };
        std::fs::write(&disk, "disk").expect("a disk");
        assert_eq!(id("m"), "62c66a7a5dd70c31");
        assert!(!runs_on(&dir, &disk), "there is no machine");
        std::fs::hard_link(&disk, machine("m")).expect("link");
        assert!(runs_on(&dir, &disk));
        std::fs::write(machine("another"), "disk").expect("a disk");
        assert!(!runs_on(&dir, &disk), "smolvm made one of its own");
    }

    fn hint_of(line: &str, startup: &str) -> (Kind, String) {
        let error = explain(line, startup).expect("an error");
        (error.kind(), error.hint_text().unwrap_or_default().to_owned())
    }

    #[test]
    fn errors_are_found_among_other_lines_and_get_a_hint() {
        let said = "note: no packed assets found\n\u{1b}[33mWARN\u{1b}[0m x\n{\"error\":{\"code\":\"SMOLVM_ERROR\",\"message\":\"agent process exited\"}}\nbye\n";
        let error = explain(said, "").expect("an error");
        assert_eq!(error.to_string(), "smolvm: agent process exited");
        assert_eq!(error.hint_text(), Some("bottle doctor"));
        assert!(explain("note: nothing\n", "").is_none());
    }

    #[test]
    fn each_fault_has_its_hint() {
        let line =
            |m: &str| format!("{{\"error\":{{\"code\":\"SMOLVM_ERROR\",\"message\":\"{m}\"}}}}");
        for (message, startup, kind, hint) in [
            ("start failed", "krun: KvmOpen(Error(13))", Kind::Engine, "usermod"),
            ("start failed", "KvmOpen(Error(2))", Kind::Engine, "--engine qemu"),
            ("write storage.raw: No space left on device (os error 28)", "", Kind::Config, "df -h"),
            ("pack checksum mismatch", "", Kind::Engine, "packs the image anew"),
            ("cannot load libkrun.so", "", Kind::Engine, "libraries"),
        ] {
            let (found, said) = hint_of(&line(message), startup);
            assert!(found == kind && said.contains(hint), "{message}: {said}");
        }
    }

    #[test]
    fn a_message_cannot_write_to_the_terminal() {
        let error = explain("{\"error\":{\"code\":\"X\",\"message\":\"a\\u001b[2Jb\"}}", "")
            .expect("an error");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}
