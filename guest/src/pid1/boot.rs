//! Boots from the initrd into the image's root file system, and gets the launch's key and the
//! channel's port from the host.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bottle_channel::Key;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, setrlimit};

use crate::limits::MAX_OPEN_FILES;

/// Maximum time for a device to appear after its driver was loaded. It is long because the machine
/// may be emulated on a busy host.
const DEVICE_DEADLINE: Duration = Duration::from_secs(20);
const KEY_FILE: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/bottle/key/raw";
const PORT_NAME: &str = "bottle";

/// Result of the boot.
pub struct Booted {
    pub key: Key,
    pub port: OwnedFd,
    /// The root directory of the private disk, which no path reaches any more.
    pub disk: File,
}

pub fn boot() -> Result<Booted, String> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    attach("proc", "/proc", "proc", quiet, "")?;
    attach("sysfs", "/sys", "sysfs", quiet, "")?;
    attach("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755")?;
    load_modules()?;
    let key = read_key()?;

    wait_for("the image disk /dev/vda", || Path::new("/dev/vda").exists().then_some(()))?;
    wait_for("the private disk /dev/vdb", || Path::new("/dev/vdb").exists().then_some(()))?;
    for dir in ["/lower", "/rw", "/newroot"] {
        make_dir(dir, 0o755)?;
    }
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    attach("/dev/vda", "/lower", "erofs", MsFlags::MS_RDONLY | guarded, "")?;
    attach("/dev/vdb", "/rw", "ext4", guarded | MsFlags::MS_NOATIME, "noinit_itable")?;
    make_dir("/rw/upper", 0o755)?;
    make_dir("/rw/work", 0o700)?;
    let disk = File::open("/rw").map_err(|e| format!("open /rw: {e}"))?;
    attach(
        "overlay",
        "/newroot",
        "overlay",
        guarded | MsFlags::MS_NOATIME,
        "lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work",
    )?;
    switch_root()?;
    furnish()?;
    crate::net::loopback_up().map_err(|e| format!("loopback: {e}"))?;
    setrlimit(Resource::RLIMIT_NOFILE, MAX_OPEN_FILES, MAX_OPEN_FILES)
        .map_err(|e| format!("rlimit: {e}"))?;
    let port = open_port()?;
    Ok(Booted { key, port, disk })
}

fn attach(
    source: &str,
    target: &str,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> Result<(), String> {
    mount(Some(source), target, Some(kind), flags, Some(options))
        .map_err(|e| format!("mount {kind} on {target}: {e}"))
}

fn make_dir(path: &str, mode: u32) -> Result<(), String> {
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
    .map_err(|e| format!("mkdir {path}: {e}"))
}

/// Polls `probe` until it returns something.
fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T, String> {
    let deadline = Instant::now() + DEVICE_DEADLINE;
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("{what} did not appear within {} s", DEVICE_DEADLINE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Loads the kernel modules that `/modules/order` names, and removes their files to free memory.
fn load_modules() -> Result<(), String> {
    let order = fs::read_to_string("/modules/order").map_err(|e| format!("/modules/order: {e}"))?;
    for name in order.split_whitespace() {
        let path = Path::new("/modules").join(name);
        let file = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            // The machine does not have the driver's device.
            Err(nix::errno::Errno::ENODEV) => {}
            Err(e) => return Err(format!("module {name}: {e}")),
        }
        let _ = fs::remove_file(&path);
    }
    Ok(())
}

/// Reads the key from the machine's firmware tables, and then unloads their driver, so that the
/// agent cannot read it.
fn read_key() -> Result<Key, String> {
    let mut bytes = [0; Key::LEN];
    let mut file = File::open(KEY_FILE).map_err(|e| format!("the launch key ({KEY_FILE}): {e}"))?;
    file.read_exact(&mut bytes).map_err(|e| format!("the launch key: {e}"))?;
    drop(file);
    // If this fails (the driver is built in or busy), root can still read the key, but can do
    // nothing with it that root cannot do anyway. A thread does it, because the kernel waits for a
    // grace period and the boot need not.
    std::thread::spawn(|| delete_module(c"qemu_fw_cfg", DeleteModuleFlags::O_NONBLOCK));
    Ok(Key::from_bytes(bytes))
}

/// Makes /newroot the root. The initrd, which holds our own binary, stays mounted below it; no path
/// reaches it.
fn switch_root() -> Result<(), String> {
    for dir in ["proc", "sys", "dev"] {
        let to = format!("/newroot/{dir}");
        make_dir(&to, 0o755)?;
        mount(Some(&*format!("/{dir}")), &*to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|e| format!("move /{dir}: {e}"))?;
    }
    std::env::set_current_dir("/newroot").map_err(|e| format!("chdir: {e}"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(|e| format!("move root: {e}"))?;
    nix::unistd::chroot(".").map_err(|e| format!("chroot: {e}"))?;
    std::env::set_current_dir("/").map_err(|e| format!("chdir: {e}"))
}

/// Mounts the file systems and makes the links that programs expect.
fn furnish() -> Result<(), String> {
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    make_dir("/dev/pts", 0o755)?;
    make_dir("/dev/shm", 0o1777)?;
    make_dir("/run", 0o755)?;
    make_dir("/tmp", 0o1777)?;
    attach(
        "devpts",
        "/dev/pts",
        "devpts",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        "ptmxmode=0666,mode=0620,gid=5",
    )?;
    attach("tmpfs", "/dev/shm", "tmpfs", guarded, "mode=1777")?;
    attach("tmpfs", "/run", "tmpfs", guarded, "mode=0755")?;
    make_dir("/run/lock", 0o1777)?;
    attach("tmpfs", "/tmp", "tmpfs", guarded, "mode=1777")?;
    // Language runtimes read their memory limit there. A kernel without it is fine, too.
    let _ = mount(
        Some("cgroup2"),
        "/sys/fs/cgroup",
        Some("cgroup2"),
        guarded | MsFlags::MS_NOEXEC,
        None::<&str>,
    );
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = symlink(target, link);
    }
    Ok(())
}

/// Opens the channel's port, and waits until the host has connected its end. There is no udev, so
/// the port is found by its name in sysfs.
fn open_port() -> Result<OwnedFd, String> {
    let device = wait_for("the channel port", find_port)?;
    let port: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&device)
        .map_err(|e| format!("{}: {e}", device.display()))?
        .into();
    wait_for("the host's end of the channel", || {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO).ok()?;
        let events = fds[0].revents()?;
        (events.contains(PollFlags::POLLOUT) && !events.contains(PollFlags::POLLHUP)).then_some(())
    })?;
    Ok(port)
}

fn find_port() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        let device = Path::new("/dev").join(entry.file_name());
        (name.trim() == PORT_NAME && device.exists()).then_some(device)
    })
}
