//! Network calls that neither std nor nix has.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

/// Brings `lo` up.
///
/// # Errors
/// When this process may not.
pub fn loopback_up() -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: ifreq is plain data; all zero is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    // IFF_UP and IFF_RUNNING fit a c_short.
    #[allow(clippy::cast_possible_truncation)]
    {
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    }
    // SAFETY: SIOCSIFFLAGS reads one ifreq, and `request` outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A socket of any family.
///
/// # Errors
/// As socket(2).
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Starts to connect a vsock stream socket to `port` of the host.
///
/// # Errors
/// When connect(2) fails at once.
pub fn vsock_connect(port: u32) -> io::Result<OwnedFd> {
    let socket = socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    // SAFETY: sockaddr_vm is plain data; all zero is a valid value of it.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    // These constants of the ABI fit their fields.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    {
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    }
    address.svm_cid = libc::VMADDR_CID_HOST;
    address.svm_port = port;
    #[allow(clippy::cast_possible_truncation)]
    let len = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: `address` is a sockaddr_vm of `len` bytes that outlives the call.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) } == 0 {
        return Ok(socket);
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        e => Err(e),
    }
}

/// Removes every `dummy` network device. They lead nowhere, but some engines' kernels create them
/// at boot, and the self-test accepts only `lo`.
///
/// # Errors
/// When this process may not.
pub fn remove_dummies() -> io::Result<()> {
    let Ok(devices) = std::fs::read_dir("/sys/class/net") else { return Ok(()) };
    let names = devices.flatten().filter_map(|d| d.file_name().into_string().ok());
    for name in names
        .filter(|n| n.strip_prefix("dummy").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())))
    {
        let index = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))?;
        remove(index.trim().parse().map_err(io::Error::other)?)?;
    }
    Ok(())
}

/// Sends RTM_DELLINK, see rtnetlink(7): a header and an ifinfomsg with the index. The answer holds
/// an error number.
fn remove(index: i32) -> io::Result<()> {
    let netlink = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let mut message = [0_u8; 32];
    message[..4].copy_from_slice(&32_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&libc::RTM_DELLINK.to_ne_bytes());
    // NLM_F_REQUEST and NLM_F_ACK.
    message[6..8].copy_from_slice(&0x5_u16.to_ne_bytes());
    message[20..24].copy_from_slice(&index.to_ne_bytes());
    nix::unistd::write(&netlink, &message)?;
    let mut answer = [0; 256];
    let n = nix::unistd::read(&netlink, &mut answer)?;
    let code = answer
        .get(16..20)
        .filter(|_| n >= 20)
        .map_or(-libc::EPROTO, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}
