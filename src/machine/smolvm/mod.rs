//! The smolvm engine (libkrun): needs KVM. Its own guest kernel and init; no network device.
//!
//! smolvm's programs run in namespaces that end with the launch (`bottle-bundle machine`): with an
//! empty network, their own process ids, and a file system of the store and this machine's private
//! directory. Two of smolvm's ways into a guest are used: one mounted socket, which is the bottle's
//! channel, and one `exec`, which starts `bottle-guest serve` on it. Everything else goes through
//! the channel, as with every engine.

mod errors;
mod layout;

use std::time::Duration;

use bottle_channel::{Key, Session, host_handshake};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use sha2::{Digest, Sha256};
use tokio::net::UnixListener;

use super::console::Console;
use super::disk;
use super::image_cache::CachedImage;
use super::probe::{Virtualisation, virtualisation};
use super::shared::{Engine, MachineSpec, Running};
use crate::closure::{Closure, Smolvm as Files};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::copy_tree;
use crate::host::fs::{free_mib, private_dir, remove_tree};
use crate::host::process::Program;
use crate::state::{Journal, Step};
use errors::{REPACK_HINT, failure};
use layout::{
    CACHED_LAYERS, CACHED_MACHINES, EXTRACTED_MARKER, FORMATTED_EXTENSION, LAYER_CACHE_DIR,
    MACHINE_NAME, MACHINES_DIR, OVERLAY_DISK, STORAGE_DISK, console, machine_id, runs_on, share,
    unpacked_image,
};

/// Longest time from the start to an answering agent. Booting takes 1 s on a quiet host with KVM, and
/// 25 s in a machine that is emulated itself.
const BOOT_WATCHDOG: Duration = Duration::from_secs(180);
/// smolvm's message about a guest that takes longer than smolvm waits.
const SLOW_BOOT_MESSAGE: &str = "did not become ready";
/// The version that the tests run with.
pub const TESTED_VERSION: &str = "1.32.2";
/// Where the confined programs find the machine's directory, with the channel's socket in it (see
/// `bottle-bundle machine`).
const CONFINED_DIR: &str = "/tmp";
/// The channel's socket in the guest.
const GUEST_CHANNEL: &str = "/run/bottle/channel";
/// The bottle's own binary in every image.
const GUEST_BINARY: &str = "/usr/lib/bottle/bottle-guest";
/// Size of [`OVERLAY_DISK`] in GiB, the smallest that smolvm accepts.
const OVERLAY_GIB: &str = "1";
const GIB: u64 = 1 << 30;

/// The closure's smolvm.
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
            || Error::new(ErrorKind::Engine, "smolvm is not in this closure").hint("--engine qemu");
        let files = closure.engines.smolvm.as_ref().ok_or_else(missing)?;
        match virtualisation() {
            Virtualisation::Kvm => Ok(Self { closure, files }),
            Virtualisation::None(why) => {
                Err(Error::new(ErrorKind::Engine, format!("smolvm needs KVM: {why}"))
                    .hint("--engine qemu"))
            }
        }
    }

    /// How it runs and why, for the preflight.
    #[must_use]
    pub fn reason(&self) -> String {
        format!("smolvm {} with KVM", self.files.version)
    }

    /// `bottle-bundle machine --dir DIR …`, without the programs that it is to run.
    fn confined(&self, dir: &Utf8Path, image: &Utf8Path) -> Program {
        let files = self.files;
        Program::new("smolvm", &self.closure.bundle.binary.path)
            .env("HOME", CONFINED_DIR)
            .env("TMPDIR", CONFINED_DIR)
            .env("PATH", files.path())
            .env("MKE2FS_CONFIG", files.root.join("etc/mke2fs.conf"))
            .env("SMOLVM_LIB_DIR", &files.libraries)
            .env("SMOLVM_AGENT_ROOTFS", &files.agent)
            // smolvm's own limit of 30 s is too short where everything is emulated.
            .env("SMOLVM_START_TIMEOUT_SECS", (BOOT_WATCHDOG.as_secs() - 30).to_string())
            // When run as root, smolvm drops to a per-machine uid, which has no access to these
            // files; turn that off.
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
        let words = [
            "machine",
            verb,
            "--error-format",
            "json",
            "--state-dir",
            CONFINED_DIR,
            "--name",
            MACHINE_NAME,
        ];
        let binary = self.files.binary.path.as_str();
        serde_json::json!([binary].iter().chain(&words).chain(args).collect::<Vec<_>>()).to_string()
    }

    /// The arguments of `machine create`, which hold everything in which two machines of one image
    /// can differ.
    fn create(&self, spec: &MachineSpec<'_>) -> String {
        let gib = spec.disk_bytes.div_ceil(GIB).to_string();
        let (cpus, memory) = (spec.cpus.to_string(), (spec.memory_bytes >> 20).to_string());
        let (path, socket) =
            (spec.image.path.as_str(), format!("{CONFINED_DIR}/channel:{GUEST_CHANNEL}"));
        let resources =
            ["--cpus", &cpus, "--mem", &memory, "--storage", &gib, "--overlay", OVERLAY_GIB];
        self.machine(
            "create",
            &[&["--from", path], &resources[..], &["--mount-socket", &socket]].concat(),
        )
    }

    /// The unpacked image, and a machine of it as `machine create` wrote it. Both are made once,
    /// because smolvm reads the whole image each time, and a launch starts on a copy. Nothing is
    /// booted for this, so no guest has written to them.
    async fn cached(
        &self,
        spec: &MachineSpec<'_>,
        journal: &mut Journal,
    ) -> Result<(CachedImage, CachedImage)> {
        let create = self.create(spec);
        let name = hex::encode(&Sha256::digest(format!("{create} {}", spec.disk_bytes))[..16]);
        let key = format!(
            "{}-{}-created",
            spec.image.sha256.get(..32).unwrap_or_default(),
            self.files.version
        );
        let image = CachedImage::get(
            &spec.image_cache,
            &key,
            journal,
            async |new: &Utf8Path, journal: &mut Journal| {
                // This error is clearer than smolvm's own.
                let manifest = bottle_pack::inspect(
                    spec.image.path.as_std_path(),
                    bottle_pack::host_platform(),
                )
                .map_err(|e| {
                    Error::new(ErrorKind::Engine, format!("{}: {e}", spec.image.path))
                        .hint(REPACK_HINT)
                })?;
                room(new, manifest.image_size)?;
                let machine = new.join(CACHED_MACHINES).join(&name);
                private_dir(&machine)?;
                self.run_create(spec, &create, None, &machine, journal).await?;
                Ok(fs::rename(machine.join(LAYER_CACHE_DIR), new.join(CACHED_LAYERS))?)
            },
        )
        .await?;
        // It exists by now, unless the cached image was unpacked for a machine of another size.
        let machine = CachedImage::get(
            &image.dir().join(CACHED_MACHINES),
            &name,
            journal,
            async |new: &Utf8Path, journal: &mut Journal| {
                let shared = share(&image, new)?;
                self.run_create(spec, &create, Some(shared), new, journal).await?;
                Ok(remove_tree(new.join(LAYER_CACHE_DIR))?)
            },
        )
        .await?;
        Ok((image, machine))
    }

    /// Makes smolvm create the machine in `dir`, and formats its disks. `shared` is the directory of
    /// the image's layers and its place in `dir`; `None` when smolvm is to unpack the image.
    async fn run_create(
        &self,
        spec: &MachineSpec<'_>,
        create: &str,
        shared: Option<(Utf8PathBuf, Utf8PathBuf)>,
        dir: &Utf8Path,
        journal: &mut Journal,
    ) -> Result<()> {
        let mut program = self.confined(dir, &spec.image.path).arg("--step").arg(create);
        let unpacked_before = shared.is_some();
        if let Some((image, place)) = shared {
            program = program.arg("--shared").arg(image).arg(place);
        }
        let mut smolvm = program.spawn(&spec.log, journal)?;
        let late = || {
            Error::new(
                ErrorKind::Engine,
                format!("{} was not unpacked in {} s", spec.image.path, BOOT_WATCHDOG.as_secs()),
            )
        };
        tokio::time::timeout(BOOT_WATCHDOG, smolvm.ended()).await.map_err(|_| late())?;
        let (machine, image) =
            (dir.join(MACHINES_DIR).join(machine_id(MACHINE_NAME)), dir.join(LAYER_CACHE_DIR));
        let overlay = machine.join(OVERLAY_DISK);
        let whole = unpacked_before
            || unpacked_image(&image)
                .is_some_and(|of| image.join(of).join(EXTRACTED_MARKER).exists());
        if !whole || !overlay.exists() {
            return Err(failure(&mut smolvm, &spec.log, dir).await);
        }
        for (disk, bytes) in [(machine.join(STORAGE_DISK), spec.disk_bytes), (overlay, GIB)] {
            fs::remove_file(&disk)?;
            disk::format(self.closure, &disk, bytes).await?;
            fs::write(disk.with_extension(FORMATTED_EXTENSION), b"")?;
        }
        Ok(())
    }

    /// `bottle-bundle machine … --step START --step EXEC --afterwards STOP`
    fn program(
        &self,
        spec: &MachineSpec<'_>,
        (shared, place): (Utf8PathBuf, Utf8PathBuf),
        dir: &Utf8Path,
    ) -> Program {
        let exec = [
            "--interactive",
            "--user",
            "0:0",
            "--workdir",
            "/",
            "--",
            GUEST_BINARY,
            "serve",
            GUEST_CHANNEL,
        ];
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
        // The guest has shut down by then, so its disk is consistent.
        program.arg("--afterwards").arg(self.machine("stop", &[]))
    }

    async fn boot(&self, spec: &MachineSpec<'_>, journal: &mut Journal) -> Result<Running> {
        let what = || "cannot make the machine's channel".to_owned();
        let (image, machine) = self.cached(spec, journal).await?;
        let dir = spec.disk.with_file_name("machine");
        let shared = lay_out(spec, &image, &machine, &dir, journal)?;
        let _ = fs::remove_file(&spec.channel);
        let listener = UnixListener::bind(&spec.channel).context(ErrorKind::Internal, what)?;
        let key = Key::random().context(ErrorKind::Internal, what)?;
        let mut vmm = self.program(spec, shared, &dir).spawn(&spec.log, journal)?;
        vmm.feed(key.expose()).await?;
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(BOOT_WATCHDOG, listener.accept()) => accepted,
            _ = vmm.ended() => return Err(failure(&mut vmm, &spec.log, &dir).await),
        };
        // One connection, ever.
        drop(listener);
        let _ = fs::remove_file(&spec.channel);
        let late = || {
            Error::new(
                ErrorKind::Guest,
                format!("the agent of the machine did not answer in {} s", BOOT_WATCHDOG.as_secs()),
            )
        };
        let (mut channel, _) = accepted.map_err(|_| late())?.context(ErrorKind::Internal, what)?;
        match tokio::time::timeout(BOOT_WATCHDOG, host_handshake(&mut channel, &key)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                return Err(Error::new(
                    ErrorKind::Engine,
                    format!("the machine did not start: {e}"),
                )
                .hint("bottle doctor"));
            }
            Err(_) => return Err(late()),
        }
        if !runs_on(&dir, &spec.disk) {
            return Err(Error::new(
                ErrorKind::Engine,
                format!(
                    "unexpected: smolvm {} does not use the bottle's disk; please report this",
                    self.files.version
                ),
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
            // smolvm gives the guest 30 s between two signs of life, which is short where it is
            // emulated. The agent has not run yet, so booting again is safe.
            Err(error) if error.chain().contains(SLOW_BOOT_MESSAGE) => {
                tracing::warn!("{error:#}; booting once more");
                let console = || Console::file(console(&spec.disk.with_file_name("machine")));
                self.boot(spec, journal).await.map_err(|e| console().explain(e))
            }
            other => other,
        }
    }
}

/// Makes the machine's directory `dir` a copy of the cached `machine`, with the disk of `spec`.
/// Returns the directory of the image's layers, and its place in `dir`.
fn lay_out(
    spec: &MachineSpec<'_>,
    image: &CachedImage,
    machine: &CachedImage,
    dir: &Utf8Path,
    journal: &mut Journal,
) -> Result<(Utf8PathBuf, Utf8PathBuf)> {
    // Never the files of an earlier launch: a guest, or another version, wrote them.
    journal.record(&Step::Tree { path: dir.to_owned() })?;
    remove_tree(dir)?;
    private_dir(dir)?;
    copy_tree(machine.dir(), dir)?;
    let state = dir.join(MACHINES_DIR).join(machine_id(MACHINE_NAME));
    disk::share(spec, &state.join(STORAGE_DISK), journal)?;
    share(image, dir)
}

/// Requires room in `dir` for an image with layers of `bytes`, which are unpacked twice: to tar
/// files, and from those to a tree.
fn room(dir: &Utf8Path, bytes: u64) -> Result<()> {
    let (free, needed) = (free_mib(dir)?, bytes.saturating_mul(2) >> 20);
    if free >= needed {
        return Ok(());
    }
    let error = Error::new(
        ErrorKind::Config,
        format!("only {free} MiB are free for {dir}, and the image needs {needed}"),
    );
    Err(error.hint(
        "df -h ~/.local/state   # free some space, or export XDG_STATE_HOME=/somewhere/with/room",
    ))
}
