//! Raw socket calls that neither std nor nix has.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

/// Brings `lo` up.
///
/// # Errors
/// Without the right to.
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
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Starts to connect a vsock stream socket to the host's context.
///
/// # Errors
/// When that fails at once.
pub fn vsock_connect(port: u32) -> io::Result<OwnedFd> {
    let socket = socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    // SAFETY: sockaddr_vm is plain data; all zero is a valid value of it.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    // Constants of the ABI that fit their fields.
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
