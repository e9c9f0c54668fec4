//! What the guest tries, as the agent and as root. One entry an attack.
//!
//! `script` runs in the guest and must print `SHUT`; anything else is a break-out. In it ADDRESS and PORT are each of the
//! addresses under which a guest could hope to find the host. The twin runs the very same script outside, against a
//! listener on the loopback, where the attack must work: a script that always prints SHUT would prove nothing.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;

use crate::support::{Running, output_within, stdout};

/// Addresses a guest could hope to find something at.
const ADDRESSES: &[&str] = &["1.1.1.1", "10.0.2.2", "10.0.2.3", "100.96.0.1", "169.254.169.254", "172.17.0.1", "192.168.0.1", "127.0.0.1"];

pub struct Attack {
    pub name: &'static str,
    pub root: bool,
    script: &'static str,
    twin: Twin,
}

enum Twin {
    /// The same script, outside, against our listener: prints OPEN.
    Outside,
    /// This script in the guest shows that the means of the attack is there: prints OPEN.
    Means(&'static str),
}
use Twin::{Means, Outside};

const TCP: &str = "if timeout 2 bash -c \"exec 3<>/dev/tcp/$ADDRESS/$PORT\" 2>/dev/null; then echo OPEN; else echo SHUT; fi";
const UDP: &str = "if timeout 2 bash -c \"echo x > /dev/udp/$ADDRESS/$PORT\" 2>/dev/null; then echo OPEN; else echo SHUT; fi";
const CURL: &str = "curl --noproxy '*' -sm2 -o /dev/null -w '%{num_connects}' http://$ADDRESS:$PORT | grep -qx 1 && echo OPEN || echo SHUT";
/// Prints OPEN when socket(2) with these numbers works and reaches $ADDRESS.
const RAW_IP: &str = "perl -MSocket -e 'socket(S, AF_INET, SOCK_RAW, 1) && send(S, \"\\x08\\x00\\xf7\\xff\\0\\0\\0\\0\", 0, \
    sockaddr_in(0, inet_aton($ENV{ADDRESS}))) ? print \"OPEN\\n\" : print \"SHUT\\n\"'";

pub const ATTACKS: &[Attack] = &[
    Attack { name: "tcp_to_any_address_as_the_agent", root: false, script: TCP, twin: Outside },
    Attack { name: "tcp_to_any_address_as_root", root: true, script: TCP, twin: Outside },
    Attack { name: "udp_to_any_address_as_the_agent", root: false, script: UDP, twin: Outside },
    Attack { name: "curl_without_the_proxy", root: false, script: CURL, twin: Outside },
    Attack {
        name: "icmp_by_a_raw_socket_as_root",
        root: true,
        script: RAW_IP,
        twin: Means(
            "ADDRESS=127.0.0.1; export ADDRESS; perl -MSocket -e 'socket(S, AF_INET, SOCK_RAW, 1) && send(S, \"\\x08\\x00\\xf7\\xff\\0\\0\\0\\0\", 0, sockaddr_in(0, inet_aton($ENV{ADDRESS}))) and print \"OPEN\\n\"'",
        ),
    },
    Attack {
        name: "ipv6_by_any_route",
        root: true,
        script: "if timeout 2 bash -c \"exec 3<>/dev/tcp/2606:4700:4700::1111/443\" 2>/dev/null || timeout 2 bash -c \"exec 3<>/dev/tcp/fe80::2%lo/80\" 2>/dev/null; then echo OPEN; else echo SHUT; fi",
        twin: Means("timeout 2 bash -c 'exec 3<>/dev/tcp/::ffff:127.0.0.1/9099' && echo OPEN"),
    },
    Attack {
        name: "name_lookup",
        root: false,
        script: "getent ahosts example.com >/dev/null 2>&1 && echo OPEN || echo SHUT",
        twin: Means("getent ahosts localhost >/dev/null && echo OPEN"),
    },
    Attack {
        name: "vsock_to_the_host_as_root",
        root: true,
        // struct sockaddr_vm: family 40, reserved, port, cid 2 (the host).
        script: "perl -e 'for my $p (22, 1024, 5000, 9099) { if (socket(my $s, 40, 1, 0)) { connect($s, pack(\"SSLLx4\", 40, 0, $p, 2)) and print(\"OPEN\\n\"), exit } } print \"SHUT\\n\"'",
        twin: Means("perl -e 'socket(my $s, 1, 1, 0) and print \"OPEN\\n\"'"),
    },
    Attack {
        name: "packet_socket_sees_no_device_but_loopback",
        root: true,
        script: "ls /sys/class/net | grep -vx lo | grep -q . && echo OPEN || echo SHUT",
        twin: Means("ls /sys/class/net | grep -qx lo && echo OPEN"),
    },
    Attack {
        name: "no_network_device_on_any_bus",
        root: true,
        script: "cat /sys/bus/pci/devices/*/class | grep -qi '^0x02' && echo OPEN || echo SHUT",
        twin: Means("cat /sys/bus/pci/devices/*/class | grep -qi '^0x01' && echo OPEN"),
    },
    Attack {
        name: "no_network_device_can_be_made",
        root: true,
        script: "for t in dummy veth tun bridge; do ip link add d0 type $t 2>/dev/null && { echo OPEN; exit; }; done; echo SHUT",
        twin: Means("ip link set lo down && ip link set lo up && echo OPEN"),
    },
    Attack {
        name: "the_image_cannot_be_written",
        root: true,
        script: "dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=fsync 2>/dev/null && echo OPEN || echo SHUT",
        twin: Means("dd if=/dev/zero of=/var/tmp/x bs=4096 count=1 conv=fsync 2>/dev/null && echo OPEN"),
    },
    Attack {
        name: "the_channel_cannot_be_opened_a_second_time",
        root: true,
        script: "for p in /dev/vport* /dev/virtio-ports/*; do test -e $p || continue; (exec 3<>$p) 2>/dev/null && { echo OPEN; exit; }; done; echo SHUT",
        twin: Means("(exec 3<>/dev/vda) 2>/dev/null || (exec 3</dev/vda) && echo OPEN"),
    },
    Attack {
        name: "the_channel_key_is_not_the_agents",
        root: false,
        script: "cat /sys/firmware/qemu_fw_cfg/by_name/opt/bottle/key/raw 2>/dev/null | grep -q . && echo OPEN || echo SHUT",
        twin: Means("cat /proc/version | grep -q . && echo OPEN"),
    },
    Attack {
        name: "host_directories_cannot_be_mounted",
        root: true,
        // mount(2) by number: there is no mount(8) in the image.
        script: "mkdir -p /tmp/m; for t in 9p virtiofs nfs cifs; do perl -e 'my ($s, $t, $k) = @ARGV; exit(syscall(165, $s, $t, $k, 0, 0) != 0)' host /tmp/m $t && { echo OPEN; exit; }; done; echo SHUT",
        twin: Means(
            "mkdir -p /tmp/m; perl -e 'my ($s, $t, $k) = @ARGV; exit(syscall(165, $s, $t, $k, 0, 0) != 0)' x /tmp/m tmpfs && echo OPEN",
        ),
    },
    Attack {
        name: "the_agent_is_not_root_and_cannot_become_it",
        root: false,
        script: "find / -xdev -perm /6000 -type f 2>/dev/null | grep -q . && echo OPEN; test $(id -u) = 0 && echo OPEN; grep -q 'NoNewPrivs:.*1' /proc/self/status && echo SHUT",
        twin: Means("grep -q NoNewPrivs /proc/self/status && echo OPEN"),
    },
    Attack {
        name: "init_cannot_be_read_or_killed_by_the_agent",
        root: false,
        script: "kill -9 1 2>/dev/null && echo OPEN; cat /proc/1/environ /proc/1/mem 2>/dev/null | grep -q . && echo OPEN; echo SHUT",
        twin: Means("cat /proc/self/environ | grep -q . && echo OPEN"),
    },
    Attack {
        name: "undeclared_endpoints_do_not_answer",
        root: true,
        script: "for p in 9420 9100; do timeout 2 bash -c \"exec 3<>/dev/tcp/127.0.0.1/$p\" 2>/dev/null && { echo OPEN; exit; }; done; echo SHUT",
        twin: Means("timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/9099' && echo OPEN"),
    },
    Attack {
        name: "the_proxy_does_not_reach_the_hosts_loopback",
        root: false,
        script: "curl -sm5 -o /dev/null -w '%{http_code}' -p -x http://127.0.0.1:9099 http://127.0.0.1:$PORT/ | grep -qx 200 && echo OPEN || echo SHUT",
        twin: Means(
            "curl -sm5 -o /dev/null -w '%{http_connect}' -x http://127.0.0.1:9099 https://hello.demo.test/ | grep -qx 200 && echo OPEN",
        ),
    },
    Attack {
        name: "the_proxy_does_not_reach_the_metadata_service",
        root: false,
        script: "curl -sm5 -o /dev/null -w '%{http_connect}%{http_code}' -p -x http://127.0.0.1:9099 http://169.254.169.254/latest/ | grep -q 200 && echo OPEN || echo SHUT",
        twin: Means(
            "curl -sm5 -o /dev/null -w '%{http_connect}' -x http://127.0.0.1:9099 https://hello.demo.test/ | grep -qx 200 && echo OPEN",
        ),
    },
    Attack {
        name: "the_proxy_refuses_an_allowed_host_at_another_port",
        root: false,
        script: "curl -sm5 -o /dev/null -w '%{http_connect}' -x http://127.0.0.1:9099 https://hello.demo.test:8443/ | grep -qx 403 && echo SHUT",
        twin: Means(
            "curl -sm5 -o /dev/null -w '%{http_connect}' -x http://127.0.0.1:9099 https://hello.demo.test/ | grep -qx 200 && echo OPEN",
        ),
    },
    Attack {
        name: "the_proxy_tunnels_nothing_but_tls",
        root: false,
        script: "printf 'CONNECT hello.demo.test:443 HTTP/1.1\\r\\nHost: hello.demo.test:443\\r\\n\\r\\nSSH-2.0-x\\r\\n' | timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/9099; cat >&3; cat <&3' | tail -n +2 | grep -qi 'not found\\|ssh' && echo OPEN || echo SHUT",
        twin: Means(
            "printf 'CONNECT hello.demo.test:443 HTTP/1.1\\r\\nHost: hello.demo.test:443\\r\\n\\r\\n' | timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/9099; cat >&3; head -1 <&3' | grep -q 200 && echo OPEN",
        ),
    },
];

impl Attack {
    /// Runs the attack for every address it uses, and its twin.
    pub fn run(&self, bottle: &Running<'_>) {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let port = tcp.local_addr().expect("its address").port();
        let _udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
        let addresses = if self.script.contains("ADDRESS") { ADDRESSES } else { &["127.0.0.1"] };
        for address in addresses {
            let local = *address == "127.0.0.1";
            // The guest's own loopback takes datagrams and pings; what matters there is that it is not the host's.
            if local && (self.script == UDP || self.script == RAW_IP) {
                continue;
            }
            let output = bottle.sh(self.root, &format!("export ADDRESS={address} PORT={port}; {}", self.script));
            assert_eq!(stdout(&output).trim(), "SHUT", "{address}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let twin = match self.twin {
            Outside => {
                let mut outside = Command::new("bash");
                outside.arg("-c").arg(format!("export ADDRESS=127.0.0.1 PORT={port}; {}", self.script));
                output_within(outside, crate::support::PATIENCE)
            }
            Means(script) => bottle.sh(self.root, script),
        };
        assert!(stdout(&twin).contains("OPEN"), "the twin: the attack does not work even without the guard: {twin:?}");
    }
}
