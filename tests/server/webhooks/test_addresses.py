"""Where webhooks may go: to other people's places on the internet, however an address is written."""

import ipaddress

import pytest

from soundbox_server.errors import ValidationFailed
from soundbox_server.webhooks.addresses import Reach, may_reach, target

PRODUCTION = Reach()
DEVELOPMENT = Reach(https_only=False, loopback=True)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.8.8.8", "169.254.169.254",
        "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.7", "192.88.99.1", "192.168.1.1", "198.18.0.1",
        "198.51.100.3", "203.0.113.9", "224.0.0.251", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1",
        "3fff::1", "5f00::1", "100::1", "4000::1", "2001:10::1", "2001:20::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::10.0.0.1",
        "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::",
        "2001:0:a00:1::f5f5:f5f5", "2001:0:808:808::f5ff:fffe",
    ],
)  # fmt: skip
def test_what_is_not_somebody_elses_place_is_refused(address: str) -> None:
    assert not may_reach(ipaddress.ip_address(address), PRODUCTION)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "103.10.10.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_the_internet_is_reached(address: str) -> None:
    assert may_reach(ipaddress.ip_address(address), PRODUCTION)


def test_development_reaches_this_machine_and_no_other_inside() -> None:
    reached = [
        one for one in ("127.0.0.1", "::1", "::ffff:127.0.0.1") if may_reach(ipaddress.ip_address(one), DEVELOPMENT)
    ]

    assert reached == ["127.0.0.1", "::1", "::ffff:127.0.0.1"]
    for address in ("10.0.0.1", "169.254.169.254", "192.168.0.1", "0.0.0.0", "::"):
        assert not may_reach(ipaddress.ip_address(address), DEVELOPMENT)


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example/", "ftp://shop.example/", "https:///hooks", "https://", "shop.example/hooks",
        "https://siti@shop.example/", "https://siti:rahasia@shop.example/", "https://:@shop.example/",
        "https://shop.example/#part", "https://shop.example:22/", "https://shop.example:0/",
        "https://shop.example:99999/", "https://shop.example:port/", "https://shop.example/a b",
        "https://shop.example/\r\nX-Evil: 1", "https://tokö.example/", "https://shop.example\\@10.0.0.1/",
        "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest/",
        "https://[fe80::1%25eth0]/", "https://[::1", "https://shop_.example-/", "https://-shop.example/",
        "https://shop.example/" + "a" * 2_048,
    ],
)  # fmt: skip
def test_an_address_that_may_not_be_is_refused_when_it_is_named(url: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        target(url, PRODUCTION)

    assert refused.value.facts["field"] == "url"


def test_an_address_is_taken_apart_once() -> None:
    named = target("https://Shop.Example:8443/hooks/a?b=c", PRODUCTION)
    bare = target("https://shop.example", PRODUCTION)
    six = target("https://[2606:4700::1111]:9443/x", PRODUCTION)

    assert (named.host, named.port, named.path, named.authority) == (
        "shop.example", 8443, "/hooks/a?b=c", "shop.example:8443",
    )  # fmt: skip
    assert (bare.port, bare.path, bare.authority) == (443, "/", "shop.example")
    assert (six.host, six.authority) == ("2606:4700::1111", "[2606:4700::1111]:9443")


@pytest.mark.parametrize(
    ("address", "home", "only_home"),
    [
        ("10.1.2.3", True, True), ("192.168.0.9", True, True), ("fd00::1", True, True), ("100.64.3.2", True, True),
        ("::ffff:10.1.2.3", True, True), ("127.0.0.1", True, True), ("8.8.8.8", True, False),
        ("169.254.169.254", False, False), ("fe80::1", False, False), ("0.0.0.0", False, False),
        ("224.0.0.1", False, False), ("64:ff9b::808:808", True, False),
    ],
)  # fmt: skip
def test_networks_of_our_own_are_reached_where_an_operator_says_so(address: str, home: bool, only_home: bool) -> None:
    at = ipaddress.ip_address(address)

    assert may_reach(at, Reach(loopback=True, private=True)) == home
    assert may_reach(at, Reach(loopback=True, private=True, public=False)) == only_home
