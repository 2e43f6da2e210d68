"""Which URLs and addresses may be fetched: decided with no I/O."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granite_core import ConfigurationError, FetchRules, RemoteRefusedError
from granite_core.remote.networks import refusal
from granite_core.remote.targets import parse_target, redirected

RULES = FetchRules(ports=None)

PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "172.32.0.1"]
INNER = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
    *("169.254.169.254", "168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "::7f00:1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1"),
    *("2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254"),
    *("fe80::1", "fec0::1", "ff02::1", "2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:7f00:1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_everybodys_addresses_may_be_fetched_from(address: str) -> None:
    assert refusal(ipaddress.ip_address(address)) is None


@pytest.mark.parametrize("address", INNER)
def test_addresses_inside_are_refused_in_every_form(address: str) -> None:
    assert refusal(ipaddress.ip_address(address))


# What Python calls private or reserved is a second opinion; these differ, and the registries say what we say.
DIFFERENT = [ipaddress.ip_network(each) for each in ("64:ff9b::/96", "::ffff:0:0/96")]


@given(st.ip_addresses())
@settings(max_examples=1000, deadline=None)
def test_no_address_that_python_calls_inner_is_taken_for_a_public_one(address: Any) -> None:
    if refusal(address) is None and not any(address in network for network in DIFFERENT):
        assert address.is_global
        kinds = ("private", "loopback", "link_local", "multicast", "reserved", "unspecified")
        assert not any(getattr(address, f"is_{kind}") for kind in kinds)


@given(st.ip_addresses(v=4))
@settings(max_examples=500, deadline=None)
def test_an_address_is_judged_alike_however_it_is_wrapped(address: ipaddress.IPv4Address) -> None:
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        wrapped = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(address))
        assert (refusal(wrapped) is None) == (refusal(address) is None)
    sixtofour = ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80))
    assert refusal(sixtofour)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "only http"),
        ("ftp://example.org/a", "only http"),
        ("gopher://example.org/a", "only http"),
        ("//example.org/a", "only http"),
        ("example.org", "only http"),
        ("http://user@example.org/", "user's name"),
        ("http://user:secret@example.org/", "user's name"),
        ("http://example.org@10.0.0.1/", "user's name"),
        ("http://@10.0.0.1/", "user's name"),
        ("http://example.org\\@10.0.0.1/", "characters"),
        ("http://example.org/\r\nHost: inner", "characters"),
        ("http://exam\tple.org/", "characters"),
        ("http://example.org /", "characters"),
        ("http://", "no host"),
        ("http://./", "no host"),
        ("http://-/", "no host"),
        ("http://a..b/", "no host"),
        ("http://2130706433/", "no host"),
        ("http://0/", "no host"),
        ("http://127.1/", "no host"),
        ("http://0x7f.0.0.1/", "no host"),
        ("http://0x7f000001/", "no host"),
        ("http://0177.0.0.1/", "no host"),
        ("http://017700000001/", "no host"),
        ("http://127.0.0.0x1/", "no host"),
        ("http://1.2.3.4.5/", "no host"),
        ("http://256.1.1.1/", "no host"),
        ("http://[fe80::1%25eth0]/", "no host"),
        ("http://[fe80::1%eth0]/", "no host"),
        ("http://[::1/", "no URL"),
        ("http://[v1.a]/", "no "),
        ("http://example.org:99999/", "no URL"),
        ("http://example.org:x/", "no URL"),
        ("http://" + "a" * 9000, "too long"),
        ("http://" + "a" * 64 + ".org/", "no host"),
    ],
)
def test_a_url_that_is_none_or_tries_something_is_refused(url: str, reason: str) -> None:
    with pytest.raises(RemoteRefusedError, match=reason):
        parse_target(url, RULES)


@pytest.mark.parametrize(
    ("url", "understood"),
    [
        ("HTTP://Example.ORG", "http://example.org/"),
        ("https://example.org:443/a b?c#d".replace(" ", "%20"), "https://example.org/a%20b?c"),
        ("http://example.org./a", "http://example.org/a"),
        ("http://bücher.example/é?ü", "http://xn--bcher-kva.example/%C3%A9?%C3%BC"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/"),
        ("http://127。0。0。1/", "http://127.0.0.1/"),
        ("http://１２７.0.0.1/", "http://127.0.0.1/"),
        ("http://[::FFFF:7F00:1]/", "http://[::ffff:127.0.0.1]/"),
        ("http://[0:0:0:0:0:0:0:1]:81/x", "http://[::1]:81/x"),
        ("http://a_b.example/%zz", "http://a_b.example/%zz"),
    ],
)
def test_a_url_is_understood_in_one_way(url: str, understood: str) -> None:
    target = parse_target(url, RULES)
    assert target.url == understood
    assert parse_target(target.url, RULES) == target
    assert (target.address is None) == (not understood.startswith(("http://127", "http://[")))


def test_ports_and_schemes_can_be_chosen() -> None:
    with pytest.raises(RemoteRefusedError, match="port 8080") as caught:
        parse_target("http://example.org:8080/", FetchRules())
    assert (caught.value.limit, caught.value.value) == ((80, 443), 8080)
    assert parse_target("http://example.org:8080/", FetchRules(ports=[8080])).port == 8080
    with pytest.raises(RemoteRefusedError, match="only https are fetched"):
        parse_target("http://example.org/", FetchRules(schemes=["https"]))


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/b", "https://example.org/b"),
        ("c?d", "https://example.org/a/c?d"),
        ("//other.example/x", "https://other.example/x"),
        ("https://other.example", "https://other.example/"),
        ("/é".encode().decode("latin-1"), "https://example.org/%C3%A9"),
    ],
)
def test_a_redirect_is_followed_as_a_browser_follows_it(location: str, leads_to: str) -> None:
    assert redirected(parse_target("https://example.org/a/b", RULES), location, RULES).url == leads_to


@pytest.mark.parametrize(
    "location", ["http://example.org/", "file:///etc/passwd", "https://u@example.org", "https://[::1", "https://0/", ""]
)
def test_a_redirect_is_judged_as_the_first_url_is(location: str) -> None:
    target = parse_target("https://example.org/a", RULES)
    if location == "":
        assert redirected(target, location, RULES) == target  # and so counts against the limit
        return
    with pytest.raises(RemoteRefusedError):
        redirected(target, location, RULES)


@given(st.text(max_size=80), st.sampled_from(["", "http://", "https://", "http://a@", "http://[", "HTTP:\\", "http:"]))
@settings(max_examples=1000, deadline=None)
def test_whatever_is_understood_is_safe_to_send(text: str, before: str) -> None:
    try:
        target = parse_target(before + text, RULES)
    except RemoteRefusedError:
        return
    line = f"{target.authority} {target.path}"
    assert line.isascii()
    assert line.isprintable()
    assert line.count(" ") == 1
    assert target.scheme in ("http", "https")
    assert parse_target(target.url, RULES) == target


class TestRules:
    def test_hosts_and_networks_inside_can_be_allowed(self) -> None:
        rules = FetchRules(allow=["Files.Internal.", "10.1.0.0/16", "127.0.0.1"])
        assert rules.refusal_of("files.internal", ipaddress.ip_address("10.9.9.9")) is None
        assert rules.refusal_of("other.internal", ipaddress.ip_address("10.9.9.9")) == "private"
        assert rules.refusal_of("other.internal", ipaddress.ip_address("10.1.9.9")) is None
        assert rules.refusal_of("x", ipaddress.ip_address("::ffff:127.0.0.1")) is None
        assert rules.refusal_of("x", ipaddress.ip_address("127.0.0.2")) == "loopback"

    def test_what_is_denied_is_refused_even_where_it_is_allowed(self) -> None:
        rules = FetchRules(allow=["10.0.0.0/8"], deny=["10.0.0.1", "8.8.8.0/24", "ours.example"])
        for host, address in (("x", "10.0.0.1"), ("x", "8.8.8.8"), ("ours.example", "1.1.1.1")):
            assert rules.refusal_of(host, ipaddress.ip_address(address)) == "denied"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"read_timeout": timedelta(0)},
            {"schemes": ["ftp"]},
            {"schemes": []},
            {"schemes": "http"},
            {"allow": "10.0.0.0/8"},
            {"ports": 80},
            {"max_redirects": -1},
            {"max_size": -1},
            {"user_agent": "a\r\nb"},
        ],
    )
    def test_what_cannot_work_is_refused_where_it_is_made(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            FetchRules(**wrong)
