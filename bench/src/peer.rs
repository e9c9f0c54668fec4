//! The peer: a bare QEMU command line with the same kernel and image, until its agent answers.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Instant;

use bottle::closure::Closure;
use bottle_channel::{Key, host_handshake};
use duct::cmd;

use crate::process::{self, Process};

const KERNEL_COMMAND_LINE: &str =
    "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on no_timer_check";

/// Formats a disk for the peer's machine, once; not part of what is timed.
pub fn disk(closure: &Closure, path: &Path) -> Result<(), String> {
    File::create(path).and_then(|f| f.set_len(10 << 30)).map_err(|e| e.to_string())?;
    let args = bottle::machine::FORMAT.iter().map(OsStr::new).chain([path.as_os_str()]);
    process::run(cmd(&closure.tools.mke2fs.path, args).env("MKE2FS_CONFIG", "/dev/null"))
}

/// Boots, waits for the agent's handshake and kills the machine; ms it took.
pub async fn boot(closure: &Closure, disk: &Path) -> Result<f64, String> {
    let text = |e: std::io::Error| e.to_string();
    let image = closure.image("demo").and_then(|i| i.of("qemu")).map_err(|e| e.to_string())?;
    let qemu = &closure.engines.qemu;
    let kvm = bottle::machine::virtualisation() == bottle::machine::Virtualisation::Kvm;
    let key = Key::random().map_err(text)?;
    let mut key_file = tempfile::NamedTempFile::new().map_err(text)?;
    key_file.write_all(key.expose()).map_err(text)?;
    let (near, far) = UnixStream::pair().map_err(text)?;
    let far: OwnedFd = far.into();
    let fd = far.as_raw_fd();
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let machine = "-nodefaults -no-user-config -nographic -no-reboot -M q35 -smp 1 -m 512";
    let cpu = if kvm { "-accel kvm -cpu host" } else { "-accel tcg -cpu max,-erms" };
    let mut args: Vec<String> =
        machine.split(' ').chain(cpu.split(' ')).map(str::to_owned).collect();
    for (option, value) in [
        ("-L", path(&qemu.firmware)),
        ("-kernel", path(&qemu.kernel.path)),
        ("-initrd", path(&qemu.initrd.path)),
        ("-append", KERNEL_COMMAND_LINE.to_owned()),
        ("-drive", format!("file={},format=raw,if=virtio,readonly=on", image.path.display())),
        ("-drive", format!("file={},format=raw,if=virtio", disk.display())),
        ("-device", "virtio-serial-pci".to_owned()),
        ("-chardev", format!("socket,id=channel,fd={fd}")),
        ("-device", "virtserialport,chardev=channel,name=bottle".to_owned()),
        ("-fw_cfg", format!("name=opt/bottle/key,file={}", key_file.path().display())),
    ] {
        args.extend([option.to_owned(), value]);
    }
    let command = cmd(&qemu.binary.path, args).before_spawn(move |command| {
        // SAFETY: fcntl(2) is async-signal-safe, and `far` is open until after the spawn.
        unsafe {
            command.pre_exec(move || {
                nix::libc::fcntl(fd, nix::libc::F_SETFD, 0);
                Ok(())
            });
        }
        Ok(())
    });
    let began = Instant::now();
    let child = Process::start(command)?;
    drop(far);
    near.set_nonblocking(true).map_err(text)?;
    let mut near = tokio::net::UnixStream::from_std(near).map_err(text)?;
    let shaken = host_handshake(&mut near, &key).await;
    let took = began.elapsed().as_secs_f64() * 1e3;
    child.kill();
    shaken.map(|()| took).map_err(|e| e.to_string())
}
