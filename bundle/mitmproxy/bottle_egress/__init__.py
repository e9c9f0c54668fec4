"""The mitmproxy chain: keeps the contract of `bottle-bundle egress`, with mitmproxy 11.0.2.

A request first passes `http1`, before mitmproxy has parsed anything: `head` reads its bytes,
`request_checks` finds its destination and route. Then `addon` handles it in mitmproxy's hooks:
audit line, address, credential.
"""
