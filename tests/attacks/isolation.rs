//! What the guest tries, as the agent and as root. One entry an attack.
//!
//! `script` runs in the guest and must print `SHUT`, or `SHUT RULE` when egress has to refuse it
//! under that rule: then the audit log must say so too. Anything else is a break-out, and so is
//! anything that arrives at the host's listener. In a script ADDRESS and PORT are that listener,
//! under each of the addresses where a guest could hope to find the host. The negative control shows
//! that the attack works where nothing stops it: a script that always prints SHUT would prove
//! nothing.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use crate::support::{Running, eventually, output_within, stdout};

/// Addresses a guest could hope to find something at.
const ADDRESSES: &[&str] = &[
    "1.1.1.1",
    "10.0.2.2",
    "10.0.2.3",
    "100.96.0.1",
    "169.254.169.254",
    "172.17.0.1",
    "192.168.0.1",
    "127.0.0.1",
];

pub struct Attack {
    pub name: &'static str,
    pub root: bool,
    script: &'static str,
    control: NegativeControl,
}

/// Each must print OPEN.
enum NegativeControl {
    /// The same script, outside; the listener must hear it.
    Outside,
    /// The same script in the guest, with its own loopback as ADDRESS.
    Inside,
    /// The same script in the guest, as root.
    AsRoot,
    /// This script in the guest, by the same user, shows that the means of the attack is there.
    Means(&'static str),
    /// The same, as root.
    RootMeans(&'static str),
}
use NegativeControl::{AsRoot, Inside, Means, Outside, RootMeans};

/// What the scripts share.
const PRELUDE: &str = r#"
verdict() { if "$@"; then echo OPEN; else echo SHUT; fi; }
# tcp ADDRESS PORT
tcp() { timeout 2 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; }
# Always through the proxy: by no_proxy, loopback addresses would be the guest's own.
via() { curl --noproxy '' -x http://127.0.0.1:9099 -gsm20 -o /dev/null "$@"; }
hello() { test "$(via -w '%{http_connect} %{http_code}' https://hello.demo.test/)" = '200 200'; }
# The errno of socket(FAMILY, SOCK_STREAM), 0 if it works.
family() { perl -e 'print socket(my $s, $ARGV[0], 1, 0) ? 0 : $! + 0' "$1"; }
# The errno of opening NODE, 0 if it works.
opening() { perl -e 'print open(my $f, "+<", $ARGV[0]) ? 0 : $! + 0' "$1"; }
# node PATH MAJOR:MINOR makes a character device; there is no mknod(1) to rely on.
node() { perl -e 'my ($path, $n) = @ARGV; $n =~ /(\d+):(\d+)/; exit(syscall(133, $path, 020600, $1 * 256 + $2) != 0)' "$1" "$2"; }
# mounted TYPE DIRECTORY
mounted() { mkdir -p "$2"; perl -e 'my ($type, $dir, $source) = (@ARGV, "host"); exit(syscall(165, $source, $dir, $type, 0, 0) != 0)' "$1" "$2"; }
# shared NAME DIRECTORY mounts a virtiofs; unmounted DIRECTORY undoes it.
shared() { mkdir -p "$2"; perl -e 'my ($share, $dir, $type) = (@ARGV, "virtiofs"); exit(syscall(165, $share, $dir, $type, 0, 0) != 0)' "$1" "$2"; }
unmounted() { perl -e 'my $dir = $ARGV[0]; exit(syscall(166, $dir, 0) != 0)' "$1"; }
# frame INDEX sends an Ethernet frame by that interface; prints errno, 0 if it went.
frame() {
  perl -e '
    socket(my $s, 17, 3, 0x0008) or print("no packet socket"), exit;
    my $to = pack("SnlSCCa8", 17, 0x0800, $ARGV[0], 0, 0, 6, "\xff" x 6);
    print send($s, "\xff" x 6 . "\x02" x 6 . "\x08\x00" . "\0" x 46, 0, $to) ? 0 : $! + 0' "$1"
}
"#;

const TCP: &str = "verdict tcp $ADDRESS $PORT";
const UDP: &str = "if timeout 2 bash -c \"echo x > /dev/udp/$ADDRESS/$PORT\" 2>/dev/null; then echo OPEN; else echo SHUT; fi";
const CURL: &str = "curl --noproxy '*' -sm2 -o /dev/null -w '%{num_connects}' http://$ADDRESS:$PORT | grep -qx 1 && echo OPEN || echo SHUT";
/// An echo request by a raw socket, which must open.
const RAW_IP: &str = r#"
perl -MSocket -e '
  socket(S, AF_INET, SOCK_RAW, 1) or die "no raw socket: $!";
  my $sent = send(S, "\x08\x00\xf7\xff\0\0\0\0", 0, sockaddr_in(0, inet_aton($ENV{ADDRESS})));
  print $sent ? "OPEN\n" : "SHUT\n"'
"#;

/// What is about parts that only QEMU's machine has, by name: its PCI bus, disks, virtio-serial
/// port and firmware tables, and a kernel without vsock and without virtual network devices.
const OF_QEMU: [&str; 7] = [
    "vsock_is_unknown_to_the_kernel",
    "no_network_device_on_any_bus",
    "no_network_device_can_be_made",
    "the_image_cannot_be_written",
    "the_channel_cannot_be_opened_a_second_time",
    "the_channel_key_is_in_no_file_any_more",
    "the_channel_key_is_not_the_agents",
];

/// The attacks on `engine`.
pub fn attacks(engine: &str) -> impl Iterator<Item = &'static Attack> {
    let smolvm = engine == "smolvm";
    let all = ATTACKS.iter().filter(move |a| !smolvm || !OF_QEMU.contains(&a.name));
    all.chain(if smolvm { OF_SMOLVM } else { &[] })
}

/// What is about parts that only smolvm's machine has.
const OF_SMOLVM: &[Attack] = &[
    Attack {
        name: "nobody_answers_on_any_port_of_the_vsock",
        root: true,
        // One port is the channel's, which takes connections and leads to a socket that nobody
        // listens on any more.
        script: r#"
perl -e '
  my @tried;
  for my $port (1 .. 1100, 2000 .. 2010, 4000 .. 4100, 5000 .. 5100, 6000 .. 6100, 7000 .. 7010, 8000 .. 8100, 9000 .. 9100, 9418, 9420, 22222, 65535) {
    socket(my $s, 40, 2049, 0) or die "no vsock: $!";
    connect($s, pack("SSLLx4", 40, 0, $port, 2));
    push @tried, [$port, $s];
  }
  select(undef, undef, undef, 4);
  my @answered = map { $_->[0] } grep { getpeername($_->[1]) && (sysread($_->[1], my $b, 1) || 0) > 0 } @tried;
  print @answered ? "OPEN @answered\n" : "SHUT\n"'"#,
        control: Means("test $(family 40) = 0 && echo OPEN"),
    },
    Attack {
        name: "the_channel_cannot_be_opened_a_second_time",
        root: true,
        script: r#"
perl -MSocket -e '
  socket(S, AF_UNIX, SOCK_STREAM, 0) or die;
  alarm 20;
  print connect(S, sockaddr_un("/run/bottle/channel")) && sysread(S, my $b, 1) ? "OPEN\n" : "SHUT\n"'"#,
        control: Means("test -S /run/bottle/channel && echo OPEN"),
    },
    Attack {
        name: "what_the_engine_shares_cannot_be_written",
        root: true,
        // By the names that smolvm gives to its shares: the root of its own agent, which is in the
        // host's store, and the image.
        script: r#"
for share in /dev/root smolvm_layers; do
  shared $share /tmp/share || { echo "$share is not there"; exit; }
  for dir in /tmp/share /tmp/share/*/; do touch $dir/written 2>/dev/null && { echo OPEN $share; exit; }; done
  unmounted /tmp/share
done
echo SHUT"#,
        // The share is mounted and read in the same way, and without it the same directory takes a
        // file.
        control: Means(
            "shared smolvm_layers /tmp/share && ls /tmp/share | grep -q . && unmounted /tmp/share && touch /tmp/share/written && rm /tmp/share/written && echo OPEN",
        ),
    },
    Attack {
        name: "no_network_device_on_the_virtio_bus",
        root: true,
        script: "cat /sys/bus/virtio/devices/*/device | grep -qx 0x0001 && echo OPEN || echo SHUT",
        control: Means("cat /sys/bus/virtio/devices/*/device | grep -qx 0x0004 && echo OPEN"),
    },
];

const ATTACKS: &[Attack] = &[
    Attack { name: "tcp_to_any_address_as_the_agent", root: false, script: TCP, control: Outside },
    Attack { name: "tcp_to_any_address_as_root", root: true, script: TCP, control: Outside },
    Attack { name: "udp_to_any_address_as_the_agent", root: false, script: UDP, control: Outside },
    Attack { name: "curl_without_the_proxy", root: false, script: CURL, control: Outside },
    Attack { name: "icmp_by_a_raw_socket_as_root", root: true, script: RAW_IP, control: Inside },
    Attack {
        name: "ipv6_by_any_route",
        root: true,
        script: r#"
for address in 2606:4700:4700::1111 fec0::2 fe80::2%lo ::1 ::ffff:10.0.2.2 64:ff9b::7f00:1; do
  tcp $address $PORT && { echo OPEN $address; exit; }
done
echo SHUT"#,
        // A listener at the guest's own ::1, reached in the same way.
        control: Means(
            r#"
perl -MSocket=:all -e '
  socket(S, AF_INET6, SOCK_STREAM, 0) and bind(S, pack_sockaddr_in6(9696, inet_pton(AF_INET6, "::1"))) and listen(S, 1)
    or die "no listener: $!";
  sleep 60' &
for i in {1..40}; do tcp ::1 9696 && { echo OPEN; break; }; sleep 0.1; done
kill $!"#,
        ),
    },
    Attack {
        name: "abstract_sockets_of_the_host",
        root: true,
        script: r#"
perl -MSocket -e '
  socket(S, AF_UNIX, SOCK_STREAM, 0) or die "no socket: $!";
  print connect(S, pack_sockaddr_un("\0bottle-attack-$ENV{PORT}")) ? "OPEN\n" : $! == 111 ? "SHUT\n" : "$!\n"'"#,
        control: Outside,
    },
    Attack {
        name: "name_lookup",
        root: false,
        script: "getent ahosts example.com >/dev/null 2>&1 && echo OPEN || echo SHUT",
        control: Means("getent ahosts localhost >/dev/null && echo OPEN"),
    },
    Attack {
        name: "vsock_is_unknown_to_the_kernel",
        root: true,
        // 40 is AF_VSOCK, 97 EAFNOSUPPORT. A kernel that knows it makes this fail, and then needs
        // an attack that connects.
        script: "ls /dev/*vsock* 2>/dev/null || test $(family 40) = 97 && echo SHUT",
        control: Means("test $(family 10) = 0 && echo OPEN"),
    },
    Attack {
        name: "packet_socket_has_no_device_but_loopback",
        root: true,
        // 6 is ENXIO: no such interface.
        script: r#"
ls /sys/class/net | grep -vx lo && exit
for index in {1..16}; do
  test $index = $(cat /sys/class/net/lo/ifindex) && continue
  errno=$(frame $index)
  test "$errno" = 6 || { echo "interface $index: $errno"; exit; }
done
echo SHUT"#,
        control: Means("test \"$(frame $(cat /sys/class/net/lo/ifindex))\" = 0 && echo OPEN"),
    },
    Attack {
        name: "no_network_device_on_any_bus",
        root: true,
        script: "cat /sys/bus/pci/devices/*/class | grep -qi '^0x02' && echo OPEN || echo SHUT",
        control: Means("cat /sys/bus/pci/devices/*/class | grep -qi '^0x01' && echo OPEN"),
    },
    Attack {
        name: "no_network_device_can_be_made",
        root: true,
        script: "for t in dummy veth tun bridge; do ip link add d0 type $t 2>/dev/null && { echo OPEN; exit; }; done; echo SHUT",
        control: Means("ip link set lo down && ip link set lo up && echo OPEN"),
    },
    Attack {
        name: "the_image_cannot_be_written",
        root: true,
        script: "dd if=/dev/vda of=/dev/vda bs=4096 count=1 conv=notrunc,fsync 2>/dev/null && echo OPEN || echo SHUT",
        control: Means(
            "dd if=/dev/vdb of=/dev/vdb bs=4096 count=1 conv=notrunc,fsync 2>/dev/null && echo OPEN",
        ),
    },
    Attack {
        name: "the_channel_cannot_be_opened_a_second_time",
        root: true,
        // The port must be there, and busy (16, EBUSY): no port at all would prove nothing.
        script: r#"
grep -qx bottle /sys/class/virtio-ports/*/name || { echo "no port"; exit; }
for port in /sys/class/virtio-ports/*; do
  at=/dev/${port##*/}
  test -c $at || node $at $(cat $port/dev) || { echo "no node"; exit; }
  errno=$(opening $at)
  test "$errno" = 16 || { echo "$at: $errno"; exit; }
done
echo SHUT"#,
        // Another device's node, made and opened in the same way: /dev/null is 1:3.
        control: Means(
            "rm -f /dev/again; node /dev/again 1:3 && test \"$(opening /dev/again)\" = 0 && echo OPEN",
        ),
    },
    Attack {
        name: "the_channel_key_is_in_no_file_any_more",
        root: true,
        script: "test -e /sys/firmware/qemu_fw_cfg || grep -q '^qemu_fw_cfg ' /proc/modules && echo OPEN || echo SHUT",
        // The device that had it is still in the machine, and other firmware tables are still there
        // to be read.
        control: Means(
            "test -e /sys/bus/acpi/devices/QEMU0002:00 && grep -qa QEMU /sys/firmware/dmi/tables/DMI && echo OPEN",
        ),
    },
    Attack {
        name: "the_channel_key_is_not_the_agents",
        root: false,
        // Without the driver there are still the device's I/O ports, behind iopl(2): root's, and of
        // no use to root.
        script: r#"
cat /sys/firmware/qemu_fw_cfg/by_name/opt/bottle/key/raw 2>/dev/null | grep -q . && echo OPEN
perl -e 'print syscall(172, 3) == 0 ? "OPEN\n" : $! == 1 ? "SHUT\n" : "errno $!\n"'"#,
        control: AsRoot,
    },
    Attack {
        name: "host_directories_cannot_be_mounted",
        root: true,
        // mount(2) by number: there is no mount(8) in the image.
        script: "for t in 9p virtiofs nfs cifs; do mounted $t /tmp/m && { echo OPEN; exit; }; done; echo SHUT",
        control: Means("mounted tmpfs /tmp/m && echo OPEN"),
    },
    Attack {
        name: "the_agent_is_not_root_and_cannot_become_it",
        root: false,
        script: r#"
find / -xdev -perm /6000 -type f 2>/dev/null | grep . && exit
test $(id -u) != 0 && grep -q 'NoNewPrivs:.*1' /proc/self/status && echo SHUT"#,
        // The search finds a setuid file. On the root it is powerless (nosuid); where that is
        // missing it gives root.
        control: RootMeans(
            r#"
mounted tmpfs /tmp/suid
for dir in /var/tmp /tmp/suid; do cp "$(type -P id)" $dir/suid-id && chmod 4755 $dir/suid-id; done
as_agent() { perl -e '($(, $)) = (1000, "1000 1000"); ($<, $>) = (1000, 1000); exec @ARGV' "$@"; }
found=$(find / -xdev -perm /6000 -type f)
ids="$(as_agent /var/tmp/suid-id -u) $(as_agent /tmp/suid/suid-id -u)"
rm /var/tmp/suid-id /tmp/suid/suid-id
# smolvm's root is not nosuid.
case "$found: $ids" in '/var/tmp/suid-id: 1000 0' | '/var/tmp/suid-id: 0 0') echo OPEN ;; *) echo "$found: $ids" ;; esac"#,
        ),
    },
    Attack {
        name: "init_cannot_be_read_or_killed_by_the_agent",
        root: false,
        script: "kill -0 1 2>/dev/null && echo OPEN; cat /proc/1/environ 2>/dev/null | grep -q . && echo OPEN; kill -9 1 2>/dev/null || echo SHUT",
        control: AsRoot,
    },
    Attack {
        name: "undeclared_endpoints_do_not_answer",
        root: true,
        script: "tcp 127.0.0.1 9100 && { echo OPEN; exit; }; echo SHUT",
        control: Means("tcp 127.0.0.1 9099 && echo OPEN"),
    },
    Attack {
        name: "the_proxy_does_not_reach_the_hosts_loopback",
        root: false,
        script: r#"
for host in 127.0.0.1 localhost '[::1]'; do
  codes="$(via -p -w '%{http_connect}' http://$host:$PORT/) $(via -w '%{http_code}' http://$host:$PORT/)"
  test "$codes" = '403 403' || { echo "$host: $codes"; exit; }
done
echo SHUT no-route"#,
        // The demo's upstream is on the host's loopback, too: egress gets there when a route says
        // so.
        control: Means("hello && echo OPEN"),
    },
    Attack {
        name: "the_proxy_does_not_reach_the_metadata_service",
        root: false,
        script: r#"
url=http://169.254.169.254/latest/
codes="$(via -p -w '%{http_connect}' $url) $(via -w '%{http_code}' $url)"
test "$codes" = '403 403' && echo SHUT no-route || echo "$codes""#,
        control: Means("hello && echo OPEN"),
    },
    Attack {
        name: "the_proxy_refuses_an_allowed_host_at_another_port",
        root: false,
        script: "test \"$(via -w '%{http_connect}' https://hello.demo.test:8443/)\" = 403 && echo SHUT no-route",
        control: Means("hello && echo OPEN"),
    },
    Attack {
        name: "the_proxy_tunnels_nothing_but_tls",
        root: false,
        // The tunnel must open; then every other protocol must get a refusal as its whole answer.
        script: r#"
for hello in 'SSH-2.0-x\r\n' 'EHLO x\r\n' 'GET / HTTP/1.1\r\nHost: hello.demo.test\r\n\r\n'; do
  exec 3<>/dev/tcp/127.0.0.1/9099
  printf 'CONNECT hello.demo.test:443 HTTP/1.1\r\nHost: hello.demo.test:443\r\n\r\n' >&3
  head=; while read -rt20 line <&3 && test "$line" != $'\r'; do head+=$line; done
  printf "$hello" >&3
  answer=$(timeout 20 cat <&3)
  case $head/$answer in
    'HTTP/1.1 200 '*/'HTTP/1.1 403 '*'x-bottle-refused: not-tls'*) ;;
    *) echo "$hello: $head/$answer"; exit ;;
  esac
done
echo SHUT not-tls"#,
        control: Means("hello && echo OPEN"),
    },
];

impl Attack {
    /// Runs the attack for every address it uses, and its negative control.
    pub fn run(&self, bottle: &Running<'_>) {
        let listener = Listener::new();
        let with = |address: &str, script: &str| {
            format!("export ADDRESS={address} PORT={}\n{PRELUDE}\n{script}", listener.port)
        };
        let audit = bottle.home.state().join("bottles").join(&bottle.slug).join("audit.jsonl");
        let log = || std::fs::read_to_string(&audit).expect("the audit log");
        let addresses = if self.script.contains("ADDRESS") || self.script == RAW_IP {
            ADDRESSES
        } else {
            &["127.0.0.1"]
        };
        for address in addresses {
            // The guest's own loopback takes datagrams and pings; what matters there is that it is
            // not the host's.
            if *address == "127.0.0.1" && self.script == RAW_IP {
                continue;
            }
            let logged = log().len();
            let output = bottle.sh(self.root, &with(address, self.script));
            let said = stdout(&output);
            if *address == "127.0.0.1" && self.script == UDP {
                continue; // heard, or not, below
            }
            let rule = said.trim().strip_prefix("SHUT").filter(|rule| !rule.contains('\n'));
            let rule = rule.unwrap_or_else(|| panic!("{address}: {output:?}")).trim_start();
            if !rule.is_empty() {
                let refused = format!("\"verdict\":\"deny\",\"rule\":\"{rule}\"");
                eventually("the audit log has the refusal", || log()[logged..].contains(&refused));
            }
        }
        assert_eq!(listener.heard(), 0, "the host's listener was reached");
        let outcome = match self.control {
            Outside => {
                let mut outside = Command::new("bash");
                outside.arg("-c").arg(with("127.0.0.1", self.script));
                output_within(outside, crate::support::PATIENCE)
            }
            Inside => bottle.sh(self.root, &with("127.0.0.1", self.script)),
            AsRoot => bottle.sh(true, &with("127.0.0.1", self.script)),
            Means(script) => bottle.sh(self.root, &with("127.0.0.1", script)),
            RootMeans(script) => bottle.sh(true, &with("127.0.0.1", script)),
        };
        assert!(
            stdout(&outcome).contains("OPEN"),
            "the control: the attack does not work even without the guard: {outcome:?}"
        );
        assert_eq!(
            listener.heard() > 0,
            matches!(self.control, Outside),
            "only the negative control outside reaches the listener"
        );
    }
}

/// What an attack must not reach: a TCP and a UDP port of the host's loopback, and an abstract
/// socket that has their number in its name.
struct Listener {
    tcp: TcpListener,
    udp: UdpSocket,
    named: UnixListener,
    port: u16,
}

impl Listener {
    fn new() -> Self {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let port = tcp.local_addr().expect("its address").port();
        let udp =
            UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("the same port for datagrams");
        let name = SocketAddr::from_abstract_name(format!("bottle-attack-{port}")).expect("a name");
        let named = UnixListener::bind_addr(&name).expect("an abstract socket");
        tcp.set_nonblocking(true).expect("nonblocking");
        udp.set_nonblocking(true).expect("nonblocking");
        named.set_nonblocking(true).expect("nonblocking");
        Self { tcp, udp, named, port }
    }

    /// Connections and datagrams since the last call.
    fn heard(&self) -> usize {
        let mut heard = 0;
        loop {
            let now = [
                self.tcp.accept().map(drop),
                self.udp.recv(&mut [0; 64]).map(drop),
                self.named.accept().map(drop),
            ];
            let came = now.iter().filter(|n| n.is_ok()).count();
            if came == 0 {
                assert!(
                    now.iter()
                        .all(|n| n.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock)),
                    "{now:?}"
                );
                return heard;
            }
            heard += came;
        }
    }
}
