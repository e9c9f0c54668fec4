"""What needs no process: `python -m unittest discover bundle/mitmproxy/tests` with mitmproxy's Python."""

import json
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bottle_egress import addresses, head, paths, pipelock, routes  # noqa: E402
from bottle_egress.authority import Authority, address  # noqa: E402
from bottle_egress.limits import unsupported  # noqa: E402
from bottle_egress.refusal import Refusal  # noqa: E402


def policy(*changes):
    made = [{"name": f"r{n}", "host": "a.test"} | change for n, change in enumerate(changes)]
    return routes.Policy(json.dumps({"version": 1, "routes": made}).encode())


class Pipelock(unittest.TestCase):
    def config(self, *changes):
        return pipelock.config(policy(*changes), "127.0.0.1:1", "/ca", "/key")

    def test_strict_mode_has_a_list_that_is_never_empty(self):
        self.assertEqual(
            pipelock.config(policy(), "127.0.0.1:1", "/ca", "/key")["api_allowlist"],
            ["nothing.invalid"],
        )
        made = self.config({"host": "*.b.test", "apex": True}, {})
        self.assertEqual(
            (made["mode"], made["api_allowlist"]), ("strict", ["*.b.test", "a.test", "b.test"])
        )

    def test_our_own_credential_is_not_a_sensitive_header(self):
        inject = {"inject": {"header": "Cookie", "token": "T"}}
        sensitive = self.config(inject)["request_body_scanning"]["sensitive_headers"]
        self.assertFalse({"cookie", "authorization", "x-api-key"} & {h.lower() for h in sensitive})
        self.assertEqual(self.config({})["request_body_scanning"]["header_mode"], "sensitive")

    def test_private_upstreams_are_let_through_by_name_and_address(self):
        made = self.config(
            {"allow_private": True}, {"host": "10.0.0.1", "allow_private": True}, {"host": "b.test"}
        )
        self.assertEqual(
            (made["trusted_domains"], made["ssrf"]["ip_allowlist"]), (["a.test"], ["10.0.0.1/32"])
        )

    def test_its_defaults_for_people_who_browse_are_lifted_and_its_environment_is_not_read(self):
        made = self.config({"scan": {"limit": "off"}})
        self.assertGreater(made["fetch_proxy"]["monitoring"]["max_requests_per_minute"], 60)
        self.assertEqual(made["tls_interception"]["passthrough_domains"], ["a.test"])
        self.assertEqual(
            (made["dlp"]["scan_env"], made["websocket_proxy"]["enabled"]), (False, False)
        )

    def test_the_key_is_sec1(self):
        self.assertTrue(pipelock.throwaway_ca()[1].startswith(b"-----BEGIN EC PRIVATE KEY-----"))


class Readers(unittest.TestCase):
    def test_one_host_has_one_spelling(self):
        for text, want in [
            ("API.Example.com:443", "api.example.com:443"),
            ("[0:0::1]:8443", "[::1]:8443"),
        ]:
            self.assertEqual(str(Authority.parse(text, 443)), want)
        for text in ["", ":443", "a.com:", "a.com:0", "a.com:65536", "a.com:+80", "a.com.:443", "127.1:80", "0x7f000001:80",
                     "2130706433:80", "0177.0.0.1:80", "[::1:80", "[1.2.3.4]:80", "::1:80", "[fe80::1%eth0]:80", "a b:80",
                     "a.com/:80", "*.a.com:443", "ä.com:443", "a.com:٣"]:  # fmt: skip
            with self.assertRaises(Refusal, msg=text):
                Authority.parse(text)

    def test_paths_are_read_in_every_way(self):
        for raw, want in [("/a/b/", {"/a/b/"}), ("/@scope%2fname", {"/@scope/name"}), ("/%61%2d%7E", {"/a-~"}),
                          ("/100%25", {"/100%"}), ("//key", {"//key", "/key"}), ("/v1/../x", {"/v1/../x", "/x"}),
                          ("/caf%c3%a9", {"/café"})]:  # fmt: skip
            self.assertEqual(set(paths.parse(raw).readings()), want, raw)
        for raw in ["/v1/..%2fadmin", "/v1/..%252fadmin", "/v1/%2e%2e/admin", "/v1/..%5cadmin", "/v1/..;a=b/admin",
                    "/v1/%c0%ae%c0%ae%c0%afadmin", "/v1/%e0%80%ae./admin", "/v1/%ef%bc%8e%ef%bc%8e%ef%bc%8fadmin",
                    "/v1/%e2%80%a5/admin", "/v1/..%25u2215admin", "/v1/..%3b/admin", "/admin%3f.json",
                    "/admin%2500.json", "/v1/p%2fq/%2e%2e/%2e%2e/admin"]:  # fmt: skip
            self.assertIn("/admin", paths.parse(raw).readings(), raw)
        with self.assertRaises(Refusal):
            paths.parse("/%" + "25" * 500 + "2f").readings()
        for raw in [
            "",
            "a",
            "/a\\b",
            "/%00",
            "/%7f",
            "/%",
            "/%4",
            "/%zz",
            "/a#b",
            "/ä",
            "/a b",
        ]:
            with self.assertRaises(Refusal, msg=raw):
                paths.parse(raw)

    def test_readings_must_lead_to_one_route(self):
        both = policy({"paths": ["/v1/first"]}, {"name": "all"})
        to = Authority("a.test", 443)
        for raw, want in [("/v1/first", "r0"), ("/v1%2f%66irst", "r0"), ("/x//y", "all")]:
            route = both.find(to, tls=True, method="GET", target=paths.parse(raw))
            self.assertEqual(route.name, want, raw)
        for raw in ["/v1/./first", "/v1//first", "/v1/first;x"]:
            with self.assertRaises(Refusal, msg=raw) as refused:
                both.find(to, tls=True, method="GET", target=paths.parse(raw))
            self.assertEqual(refused.exception.code, "path")

    def test_patterns_match_as_policy_says(self):
        for pattern, path, want in [("/v1/*", "/v1/", True), ("/v1/*", "/v1/a/b", True), ("/v1/*", "/v10", False),
                                    ("/v1/*", "/v1", False), ("/r/*/i", "/r/x/i", True), ("/r/*/i", "/r/x/y/i", False),
                                    ("/a/**/z", "/a/z", True), ("/a/**/z", "/a/b/c/z", True), ("/a*b", "/axxb", True)]:  # fmt: skip
            self.assertEqual(paths.matches(pattern, path), want, (pattern, path))

    def test_only_global_unicast_is_public(self):
        for bad in ["0.1.2.3", "10.0.0.1", "100.127.0.1", "127.0.0.1", "169.254.169.254", "172.31.0.1", "192.168.1.1", "198.19.0.1",
                    "224.0.0.1", "255.255.255.255", "::", "::1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::8.8.8.8", "2001::1",
                    "2001:10::1", "2002::1", "fc00::1", "fe80::1", "ff02::1", "4000::1", "1::1"]:  # fmt: skip
            self.assertIsNotNone(addresses.refuse(address(bad)), bad)
        for good in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]:
            self.assertIsNone(addresses.refuse(address(good)), good)

    def test_chunks_end_where_they_say_however_they_are_cut(self):
        body = b"5\r\nhello\r\n0A\r\n0123456789\r\n0\r\n\r\n"
        reader, data, got = head.Chunked(), bytearray(), b""
        for n, byte in enumerate(body):
            data.append(byte)
            part, done = reader.feed(data)
            got += part
            self.assertEqual(done, n == len(body) - 1)
        self.assertEqual(got, b"hello0123456789")
        for bad in [
            b"\r\n",
            b"5;x=y\r\n",
            b"5 \r\n",
            b"+5\r\n",
            b"0x5\r\n",
            b"5\n",
            b"1\r\nab",
            b"0\r\nx: y\r\n",
            b"1" * 16 + b"\r\n",
        ]:
            with self.assertRaises(Refusal, msg=bad):
                head.Chunked().feed(bytearray(bad))

    def test_what_cannot_be_enforced_is_named(self):
        self.assertEqual(unsupported(policy({"ca": "x"}, {"host": "b.test"}), pipelock=False), [])
        self.assertEqual(len(unsupported(policy({"ca": "x"}, {}), pipelock=False)), 1)
        for change in [
            {"passthrough": True},
            {"scan": {"responses": True}},
            {"scan": {"limit": "warn"}},
            {"timeout": {"idle": 60}},
        ]:
            self.assertEqual(len(unsupported(policy(change), pipelock=False)), 1, change)
        for change in [{"ca": "x"}, {"connect": "127.0.0.1:1"}, {"tls": False}]:
            self.assertEqual(len(unsupported(policy(change), pipelock=True)), 1, change)


if __name__ == "__main__":
    unittest.main()
