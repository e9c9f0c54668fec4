//! The peer: a bare QEMU command line with the same kernel and image, until its agent answers.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bottle::closure::Closure;
use bottle_channel::{Key, host_handshake};

/// Formats a disk for the peer's machine, once; not part of what is timed.
pub fn disk(closure: &Closure, path: &Path) -> Result<(), String> {
    File::create(path).and_then(|f| f.set_len(10 << 30)).map_err(|e| e.to_string())?;
    let mut format = Command::new(&closure.tools.mke2fs.path);
    format.args(bottle::machine::MKE2FS_ARGS).arg(path);
    let status = format.env("MKE2FS_CONFIG", "/dev/null").status().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err("mke2fs failed".into()) }
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
    let mut command = Command::new(&qemu.binary.path);
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-nographic",
            "-no-reboot",
            "-M",
            "q35",
            "-smp",
            "1",
            "-m",
            "512",
        ])
        .args(if kvm {
            ["-accel", "kvm", "-cpu", "host"]
        } else {
            ["-accel", "tcg", "-cpu", "max,-erms"]
        })
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
        .args(["-drive", &format!("file={},format=raw,if=virtio,readonly=on", image.path)])
        .args(["-drive", &format!("file={},format=raw,if=virtio", disk.display())])
        .args(["-device", "virtio-serial-pci", "-chardev", &format!("socket,id=channel,fd={fd}")])
        .args(["-device", "virtserialport,chardev=channel,name=bottle"])
        .args(["-fw_cfg", &format!("name=opt/bottle/key,file={}", key_file.path().display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: fcntl(2) is async-signal-safe, and `far` is open until after the spawn.
    unsafe {
        command.pre_exec(move || {
            nix::libc::fcntl(fd, nix::libc::F_SETFD, 0);
            Ok(())
        });
    }
    let began = Instant::now();
    let mut child = command.spawn().map_err(text)?;
    drop(far);
    near.set_nonblocking(true).map_err(text)?;
    let mut near = tokio::net::UnixStream::from_std(near).map_err(text)?;
    let shaken = host_handshake(&mut near, &key).await;
    let took = began.elapsed().as_secs_f64() * 1e3;
    child.kill().map_err(text)?;
    child.wait().map_err(text)?;
    shaken.map(|()| took).map_err(|e| e.to_string())
}
