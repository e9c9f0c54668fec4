//! The checks that run inside a bottle. Each looks for one way out, or for one thing that must
//! work.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{net, proxy};

/// Time to wait for something that must not answer. Without a network device, all of these fail at
/// once.
const SILENCE: Duration = Duration::from_millis(300);
/// Time to wait for an answer that may still be on its way when a later one has arrived.
const LAG: Duration = Duration::from_millis(50);

/// One line of a report.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Stable name, for programs.
    pub name: String,
    /// Whether the check passed.
    pub passed: bool,
    /// One line for people.
    pub detail: String,
}

impl Check {
    pub fn new(name: impl Into<String>, result: Result<String, String>) -> Self {
        let passed = result.is_ok();
        Self { name: name.into(), passed, detail: result.unwrap_or_else(|e| e) }
    }
}

/// Checks that `lo` is the only network device.
pub fn network_devices() -> Result<String, String> {
    let mut names: Vec<String> = std::fs::read_dir("/sys/class/net")
        .map(|dir| dir.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        // Without sysfs, use the older list.
        .or_else(|_| {
            std::fs::read_to_string("/proc/net/dev").map(|text| {
                text.lines()
                    .filter_map(|l| l.split_once(':'))
                    .map(|(name, _)| name.trim().to_owned())
                    .collect()
            })
        })
        .map_err(|e| format!("cannot list devices: {e}"))?;
    names.retain(|name| name != "lo");
    if names.is_empty() { Ok("only lo".into()) } else { Err(format!("found {}", names.join(", "))) }
}

/// Checks that no bus has a device that could be a way out, whether or not this kernel has a driver
/// for it.
///
/// smolvm's machines have no PCI. They have a vsock, which carries the channel and whose other
/// ports [`vsock`] tries, and the file systems of the image.
pub fn hardware() -> Result<String, String> {
    let pci = list("/sys/bus/pci/devices")?;
    let mut count = 0;
    for device in &pci {
        let read = |name: &str| {
            std::fs::read_to_string(device.join(name)).unwrap_or_default().trim().to_owned()
        };
        let (class, vendor, id) = (read("class"), read("vendor"), read("device"));
        // Virtio (0x1af4): 0x1053 is a vsock, 0x1049 9p, 0x105a virtiofs; 0x1009 and 0x1012 their
        // older numbers.
        let shares = vendor == "0x1af4"
            && ["0x1053", "0x1049", "0x105a", "0x1009", "0x1012"].contains(&id.as_str());
        if class.starts_with("0x02") || class.starts_with("0x0d") || shares {
            return Err(format!("found a device {vendor}:{id} of class {class}"));
        }
        count += 1;
    }
    if pci.is_empty() {
        for device in list("/sys/bus/virtio/devices")? {
            let id = std::fs::read_to_string(device.join("device"))
                .unwrap_or_default()
                .trim()
                .to_owned();
            // An allow list, so that new kinds of devices are refused: 1 is a network card, 9 is
            // 9p, 10 and 40 are radios.
            let harmless = ["0x0002", "0x0003", "0x0004", "0x0005", "0x0013", "0x0018", "0x001a"];
            if !harmless.contains(&id.as_str()) {
                return Err(format!("found a virtio device {id}"));
            }
            count += 1;
        }
    }
    if count == 0 {
        Err("no bus shows its devices".into())
    } else {
        Ok(format!("{count} devices, none for a network"))
    }
}

/// The entries of a directory of sysfs; empty when the directory does not exist.
fn list(path: &str) -> Result<Vec<std::path::PathBuf>, String> {
    match std::fs::read_dir(path) {
        Ok(entries) => Ok(entries.flatten().map(|e| e.path()).collect()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(format!("cannot list {path}: {e}")),
    }
}

/// Checks that there is no IPv4 route, and no IPv6 route except those of `lo`.
pub fn routes() -> Result<String, String> {
    let read = |path: &str| match std::fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(|e| format!("{path}: {e}")),
    };
    let v4 = read("/proc/net/route")?;
    let v6 = read("/proc/net/ipv6_route")?;
    let mut found: Vec<&str> =
        v4.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    found.extend(
        v6.lines()
            .filter_map(|line| line.split_whitespace().last())
            .filter(|device| *device != "lo"),
    );
    if found.is_empty() {
        Ok("none".into())
    } else {
        Err(format!("routes through {}", found.join(", ")))
    }
}

/// Addresses that would answer in other setups: on the internet, cloud metadata, and the gateways
/// of slirp, libkrun and docker.
const ADDRESSES: [(IpAddr, u16); 12] = [
    (v4(1, 1, 1, 1), 443),
    (v4(8, 8, 8, 8), 53),
    (IpAddr::V6(Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111)), 443),
    (v4(169, 254, 169, 254), 80),
    (v4(10, 0, 2, 2), 80),
    (v4(10, 0, 2, 3), 53),
    (IpAddr::V6(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2)), 80),
    (v4(100, 96, 0, 1), 80),
    (v4(172, 17, 0, 1), 80),
    (v4(192, 168, 0, 1), 80),
    (v4(192, 168, 1, 1), 80),
    (v4(192, 168, 127, 1), 80),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// Checks that no TCP connection can leave. Silence and errors pass; a refused connection fails,
/// because something refused it.
pub async fn direct_tcp() -> Result<String, String> {
    all(ADDRESSES.map(|(ip, port)| async move {
        let address = SocketAddr::new(ip, port);
        match timeout(SILENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Err(format!("connected to {address}")),
            Ok(Err(e)) if e.kind() == ErrorKind::ConnectionRefused => {
                Err(format!("{address} refused, so something answers there"))
            }
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }))
    .await
    .map(|n| format!("{n} addresses unreachable"))
}

/// Checks that no UDP datagram can leave.
pub fn direct_udp() -> Result<String, String> {
    for (ip, _) in ADDRESSES {
        let any: SocketAddr = if ip.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let sent = UdpSocket::bind(any)
            .and_then(|socket| socket.send_to(b"bottle self-test", SocketAddr::new(ip, 53)));
        if sent.is_ok() {
            return Err(format!("sent a datagram to {ip}"));
        }
    }
    Ok(format!("{} addresses unreachable", ADDRESSES.len()))
}

/// Checks that no ICMP or raw IP packet can leave: either there is no such socket, or sending
/// fails.
pub fn raw_sockets() -> Result<String, String> {
    let icmp = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    for (what, family, kind, protocol) in [
        ("ICMP", libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        ("raw ICMP", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        ("raw IP", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW),
    ] {
        let Ok(socket) = net::socket(family, kind, protocol) else { continue };
        let address = nix::sys::socket::SockaddrIn::new(1, 1, 1, 1, 0);
        if nix::sys::socket::sendto(
            socket.as_raw_fd(),
            &icmp,
            &address,
            nix::sys::socket::MsgFlags::empty(),
        )
        .is_ok()
        {
            return Err(format!("sent a packet through a {what} socket"));
        }
    }
    // Packet sockets need another device than `lo` to reach anything, and `network_devices` checks
    // that there is none.
    Ok("none usable".into())
}

/// Starts connections to the other side of the virtual socket, to ports where something might
/// listen.
pub fn vsock_attempts() -> Vec<(u32, OwnedFd)> {
    [22, 80, 1024, 9099]
        .into_iter()
        .filter_map(|port| Some((port, net::vsock_connect(port).ok()?)))
        .collect()
}

/// Checks that nothing on the other side of the virtual socket accepts a connection. The machine
/// monitor handles the guest's messages in order, so when something that was sent after the
/// `attempts` is `answered`, the monitor has seen the attempts.
pub async fn vsock(
    attempts: Vec<(u32, OwnedFd)>,
    mut answered: watch::Receiver<bool>,
) -> Result<String, String> {
    let silence = async {
        if timeout(SILENCE, answered.wait_for(|answered| *answered))
            .await
            .is_ok_and(|seen| seen.is_ok())
        {
            tokio::time::sleep(LAG).await;
        } else {
            tokio::time::sleep(SILENCE).await;
        }
    };
    let connected = async {
        let mut set = JoinSet::new();
        attempts.into_iter().for_each(|(port, socket)| {
            drop(set.spawn(async move { connected(socket).await.ok().map(|()| port) }))
        });
        while let Some(ended) = set.join_next().await {
            if let Ok(Some(port)) = ended {
                return Err(format!("connected to CID 2 port {port}"));
            }
        }
        Ok(())
    };
    tokio::select! {
        biased;
        ended = connected => ended?,
        () = silence => {}
    }
    Ok("no connection to CID 2".into())
}

/// Waits for the outcome of a connect that was started.
async fn connected(socket: OwnedFd) -> io::Result<()> {
    // SAFETY: only the AsyncFd owns the descriptor, and nothing replaces it.
    let socket =
        unsafe { tokio::io::unix::AsyncFd::register(socket) }.map_err(|e| e.into_parts().1)?;
    let _ready = socket.writable().await?;
    match nix::sys::socket::getsockopt(socket.get_ref(), nix::sys::socket::sockopt::SocketError)? {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Checks that a listener on the host's loopback at `port` cannot be reached at any address that
/// other setups give the host.
pub async fn host_loopback(port: u16) -> Result<String, String> {
    let hosts = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        v4(10, 0, 2, 2),
        v4(100, 96, 0, 1),
        v4(192, 168, 127, 254),
    ];
    all(hosts.map(|ip| async move {
        match timeout(SILENCE, TcpStream::connect((ip, port))).await {
            Ok(Ok(_)) => Err(format!("connected to {ip} port {port}")),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }))
    .await
    .map(|_| format!("port {port} unreachable"))
}

/// Checks that no name server answers, neither the configured ones nor public ones.
pub async fn name_lookup() -> Result<String, String> {
    let mut servers: Vec<IpAddr> = std::fs::read_to_string("/etc/resolv.conf")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        .collect();
    // Without a configured server, resolvers ask the local host.
    servers.extend([
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        v4(127, 0, 0, 53),
        v4(10, 0, 2, 3),
        v4(1, 1, 1, 1),
        v4(8, 8, 8, 8),
    ]);
    all(servers.into_iter().map(|server| async move {
        match timeout(SILENCE, lookup(server)).await {
            Ok(Ok(())) => Err(format!("{server} answered")),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }))
    .await
    .map(|n| format!("{n} name servers silent"))
}

/// Asks `server` for the address of example.com.
async fn lookup(server: IpAddr) -> io::Result<()> {
    const QUERY: &[u8] =
        b"\xb0\x77\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = tokio::net::UdpSocket::bind(any).await?;
    socket.connect((server, 53)).await?;
    socket.send(QUERY).await?;
    let mut answer = [0; 512];
    socket.recv(&mut answer).await.map(drop)
}

/// Checks that the proxy refuses `host` with 403. Returns its reason.
pub async fn denied_host(host: &str) -> Result<String, String> {
    let answer = proxy::ask(9099, &proxy::connect(&format!("{host}:443")))
        .await
        .map_err(|e| format!("proxy: {e}"))?;
    if answer.status == 403 {
        Ok(format!("403 {}", answer.reason))
    } else {
        Err(format!("{host}: the proxy answered {}", answer.status))
    }
}

/// Checks that an HTTP server answers on the port. (The relay accepts every connection, so that
/// connecting alone would prove nothing.)
pub async fn endpoint(port: u16) -> Result<String, String> {
    proxy::ask(port, &proxy::get(port))
        .await
        .map(|answer| format!("answers on port {port} ({})", answer.status))
}

/// Runs all `checks` concurrently. Returns their number, or the first error.
async fn all<F: Future<Output = Result<(), String>>>(
    checks: impl IntoIterator<Item = F>,
) -> Result<usize, String> {
    let mut checks: Vec<_> = checks.into_iter().map(Box::pin).collect();
    let count = checks.len();
    std::future::poll_fn(|cx| {
        let mut index = 0;
        while let Some(check) = checks.get_mut(index) {
            match check.as_mut().poll(cx) {
                std::task::Poll::Ready(Err(error)) => {
                    return std::task::Poll::Ready(Err(error));
                }
                std::task::Poll::Ready(Ok(())) => drop(checks.swap_remove(index)),
                std::task::Poll::Pending => index += 1,
            }
        }
        if checks.is_empty() { std::task::Poll::Ready(Ok(count)) } else { std::task::Poll::Pending }
    })
    .await
}
