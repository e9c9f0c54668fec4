//! The QEMU engine: KVM when it is really usable, else emulation (TCG). No network device of any
//! kind.
//!
//! The only things the guest shares with the host are its read-only image, its private disk, a
//! serial console and one virtio-serial port, both of which end in socket pairs: there is no path
//! or port that anybody else could connect to.

use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bottle_channel::{Key, Session, host_handshake};
use camino::Utf8Path;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::console::Console;
use super::disk;
use super::probe::{Virtualisation, virtualisation};
use super::shared::{Engine, MachineSpec, Running};
use crate::closure::Closure;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fault_injection::breaks;
use crate::host::process::{Daemon, Program};
use crate::state::Journal;

/// Longest time from the start of QEMU to an answering agent; after it QEMU is started once more.
/// Booting takes 1.5 s under TCG on an idle machine.
const BOOT_WATCHDOG: Duration = Duration::from_secs(60);
/// Without `erms`, because TCG emulates `rep movsb` byte by byte: a guest that believes it to be fast
/// copies at half the speed.
const TCG_ARGS: [&str; 4] = ["-accel", "tcg", "-cpu", "max,-erms"];

/// The closure's QEMU.
#[derive(Debug)]
pub struct Qemu<'a> {
    closure: &'a Closure,
    virtualisation: Virtualisation,
}

impl<'a> Qemu<'a> {
    /// Probes the host for KVM.
    #[must_use]
    pub fn new(closure: &'a Closure) -> Self {
        Self { closure, virtualisation: virtualisation() }
    }

    /// How it runs and why, for the preflight.
    #[must_use]
    pub fn reason(&self) -> String {
        match &self.virtualisation {
            Virtualisation::Kvm => "hardware virtualisation (KVM)".into(),
            Virtualisation::None(why) => format!("software emulation (TCG): {why}"),
        }
    }

    /// `bottle-bundle confine … -- qemu-system-x86_64 …`
    fn program(
        &self,
        spec: &MachineSpec<'_>,
        channel: OwnedFd,
        console: OwnedFd,
        key: OwnedFd,
    ) -> Program {
        let (qemu, image) = (&self.closure.engines.qemu, &spec.image.path);
        let kvm = self.virtualisation == Virtualisation::Kvm;
        let mut program = Program::new("qemu", &self.closure.bundle.binary.path);
        let (channel, console, key) =
            (program.keep_fd(channel), program.keep_fd(console), program.keep_fd(key));
        let mut confine = program
            .arg("confine")
            .arg("--no-network")
            .arg("--parent")
            .arg(std::process::id().to_string());
        for fd in [channel, console, key] {
            confine = confine.arg("--keep-fd").arg(fd.to_string());
        }
        for path in [&*qemu.firmware, &qemu.kernel.path, &qemu.initrd.path, image] {
            confine = confine.arg("--ro").arg(path);
        }
        confine =
            confine.arg("--rx").arg(store_path(&qemu.binary.path)).arg("--rw").arg(&spec.disk);
        if kvm {
            confine = confine.arg("--rw").arg("/dev/kvm");
        }
        let program = confine.arg("--").arg(&qemu.binary.path);
        self.with_qemu_args(program, spec, [channel, console, key])
    }

    /// Adds QEMU's own arguments to `program`. The descriptors are channel, console and key.
    fn with_qemu_args(
        &self,
        program: Program,
        spec: &MachineSpec<'_>,
        [channel, console, key]: [RawFd; 3],
    ) -> Program {
        let qemu = &self.closure.engines.qemu;
        let kvm = self.virtualisation == Virtualisation::Kvm;
        let smp = spec.cpus.to_string();
        let memory = format!("{}M", spec.memory_bytes >> 20);
        program
            .args([
                "-nodefaults",
                "-no-user-config",
                "-nographic",
                "-no-reboot",
                "-monitor",
                "none",
                "-M",
            ])
            .arg("q35,usb=off,smbus=off,sata=off,vmport=off,i8042=off")
            .args(if kvm { ["-accel", "kvm", "-cpu", "host"] } else { TCG_ARGS })
            .args(["-smp", &smp, "-m", &memory, "-name", spec.slug])
            .args([
                "-sandbox",
                "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            ])
            .arg("-L")
            .arg(&qemu.firmware)
            .arg("-kernel")
            .arg(&qemu.kernel.path)
            .arg("-initrd")
            .arg(&qemu.initrd.path)
            .args([
                "-append",
                "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on no_timer_check",
            ])
            .args(["-blockdev", &blockdev("image", &spec.image.path, true)])
            .args(["-device", "virtio-blk-pci,drive=image"])
            .args(["-blockdev", &blockdev("disk", &spec.disk, false)])
            .args(["-device", "virtio-blk-pci,drive=disk,werror=report,rerror=report"])
            .args([
                "-chardev",
                &format!("socket,id=console,fd={console}"),
                "-serial",
                "chardev:console",
            ])
            .args(["-chardev", &format!("socket,id=channel,fd={channel}")])
            .args([
                "-device",
                "virtio-serial-pci,max_ports=2",
                "-device",
                "virtserialport,chardev=channel,name=bottle",
            ])
            .args(["-fw_cfg", &format!("name=opt/bottle/key,file=/proc/self/fd/{key}")])
            .args(["-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"])
            .args(["-device", "virtio-balloon-pci,free-page-reporting=on"])
            .args(if breaks("network-device") {
                &["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="][..]
            } else {
                &[]
            })
    }
}

impl Engine for Qemu<'_> {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn start(&self, spec: &MachineSpec<'_>, journal: &mut Journal) -> Result<Running> {
        disk::make(self.closure, spec, journal).await?;
        match self.boot(spec, journal).await {
            Ok(running) => Ok(running),
            Err(BootFailure { error, kernel_ran: true }) => {
                // On an overloaded host, an emulated kernel sometimes gives up on its clocks. The
                // agent has not run yet, so booting again is safe.
                tracing::warn!("{error:#}; booting once more");
                disk::make(self.closure, spec, journal).await?;
                self.boot(spec, journal).await.map_err(|failure| failure.error)
            }
            Err(failure) => Err(failure.error),
        }
    }
}

/// Why a boot failed.
struct BootFailure {
    error: Error,
    /// Whether the guest's kernel had begun to run, which means that the engine itself works.
    kernel_ran: bool,
}

impl From<Error> for BootFailure {
    fn from(error: Error) -> Self {
        Self { error, kernel_ran: false }
    }
}

impl Qemu<'_> {
    async fn boot(
        &self,
        spec: &MachineSpec<'_>,
        journal: &mut Journal,
    ) -> Result<Running, BootFailure> {
        let what = || "cannot make the machine's channel".to_owned();
        let (channel, far_channel) = UnixStream::pair().context(ErrorKind::Internal, what)?;
        let (console, far_console) = UnixStream::pair().context(ErrorKind::Internal, what)?;
        let key = Key::random().context(ErrorKind::Internal, what)?;
        let program = self.program(spec, far_channel.into(), far_console.into(), key_fd(&key)?);
        let mut vmm = program.spawn(&spec.log, journal)?;
        let console = Console::read(console)?;
        channel.set_nonblocking(true).context(ErrorKind::Internal, what)?;
        let mut channel =
            tokio::net::UnixStream::from_std(channel).context(ErrorKind::Internal, what)?;
        let failed = tokio::select! {
            shaken = tokio::time::timeout(BOOT_WATCHDOG, host_handshake(&mut channel, &key)) => match shaken {
                Ok(Ok(())) => None,
                Ok(Err(e)) => Some(boot_failure(&mut vmm, &e.to_string()).await),
                Err(_) => {
                    let error = format!("the guest did not answer within {} s", BOOT_WATCHDOG.as_secs());
                    let error = console.explain(Error::new(ErrorKind::Guest, error).hint("bottle doctor"));
                    vmm.kill().await;
                    return Err(BootFailure { error, kernel_ran: true });
                }
            },
            ended = vmm.ended() => Some(boot_failure(&mut vmm, &ended).await),
        };
        if let Some(error) = failed {
            vmm.kill().await;
            return Err(BootFailure {
                error: console.explain(error),
                kernel_ran: !console.last_lines(1).is_empty(),
            });
        }
        let (session, incoming, driver) = Session::host(channel);
        tokio::spawn(async move {
            if let Err(e) = driver.await {
                tracing::debug!("the channel ended: {e}");
            }
        });
        Ok(Running { session, incoming: Some(incoming), vmm, console, _image: None })
    }
}

async fn boot_failure(vmm: &mut Daemon, why: &str) -> Error {
    let failure = vmm.failure().await;
    Error::new(ErrorKind::Engine, format!("the machine did not start: {why}; {failure:#}"))
        .hints_of(&failure)
}

/// The directory `/nix/store/HASH-NAME` that `path` is below.
fn store_path(path: &Utf8Path) -> &Utf8Path {
    let depth = path.ancestors().count();
    path.ancestors().nth(depth.saturating_sub(4)).unwrap_or(path)
}

fn blockdev(name: &str, path: &Utf8Path, read_only: bool) -> String {
    // JSON, because a comma in a path would end a value in QEMU's key=value form.
    let cache = serde_json::json!({"direct": false, "no-flush": false});
    serde_json::json!({
        "driver": "raw", "node-name": name, "read-only": read_only, "cache": cache, "discard": "unmap",
        "file": {"driver": "file", "filename": path, "read-only": read_only, "locking": "off", "discard": "unmap"},
    })
    .to_string()
}

/// The key as a memory file: it is in no argv, no environment and no file system.
fn key_fd(key: &Key) -> Result<OwnedFd> {
    let what = || "cannot hand over the channel's key".to_owned();
    let fd =
        memfd_create(c"bottle-key", MFdFlags::MFD_CLOEXEC).context(ErrorKind::Internal, what)?;
    let written = nix::unistd::write(&fd, key.expose()).context(ErrorKind::Internal, what)?;
    if written == key.expose().len() {
        Ok(fd)
    } else {
        Err(Error::new(ErrorKind::Internal, what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_path_of_a_binary_is_three_deep() {
        assert_eq!(
            store_path(Utf8Path::new("/nix/store/abc-qemu/bin/qemu")),
            Utf8Path::new("/nix/store/abc-qemu")
        );
        assert_eq!(
            store_path(Utf8Path::new("/nix/store/abc-kernel")),
            Utf8Path::new("/nix/store/abc-kernel")
        );
    }
}
