"""Which addresses an upstream may have; the table of bundle/src/egress/upstream/address.rs."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_REFUSED = [
    (ipaddress.ip_network(net), why)
    for net, why in [
        ("169.254.169.254/32", "cloud metadata"), ("168.63.129.16/32", "cloud metadata"), ("100.100.100.200/32", "cloud metadata"),
        ("0.0.0.0/8", "unspecified"), ("10.0.0.0/8", "private"), ("172.16.0.0/12", "private"), ("192.168.0.0/16", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"), ("127.0.0.0/8", "loopback"), ("169.254.0.0/16", "link-local"),
        ("192.0.0.0/24", "protocol assignments"), ("192.0.2.0/24", "documentation"), ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"), ("192.88.99.0/24", "6to4 relay"), ("198.18.0.0/15", "benchmarking"),
        ("224.0.0.0/4", "multicast"), ("240.0.0.0/4", "reserved or broadcast"),
        ("::/128", "unspecified"), ("::1/128", "loopback"), ("::ffff:0:0/96", "IPv4-mapped"), ("::ffff:0:0:0/96", "IPv4-translated"),
        ("::/96", "IPv4-compatible"), ("64:ff9b::/32", "NAT64"), ("100::/64", "discard"), ("2001::/32", "Teredo"),
        ("2001:db8::/32", "documentation"), ("3fff::/20", "documentation"), ("2001::/23", "protocol assignments"),
        ("2002::/16", "6to4"), ("fd00:ec2::254/128", "cloud metadata"), ("fc00::/7", "unique local"), ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"), ("ff00::/8", "multicast"),
    ]
]  # fmt: skip
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")


def refuse(ip: Address) -> str | None:
    """Why an address is not on the public internet; None when it is."""
    for network, why in _REFUSED:
        if network.version == ip.version and ip in network:
            return why
    if ip.version == 6 and ip not in _GLOBAL_V6:
        return "not global unicast"
    return None
