"""The mitmproxy chain: `bottle-bundle egress`'s contract, kept by mitmproxy 11.0.2.

A request passes, in this order: `head` (one reading of its bytes) and `asks` (where it goes, by which route) in
`http1`, before mitmproxy has parsed anything; then `addon` (audit line, address, credential) in mitmproxy's hooks.
"""
