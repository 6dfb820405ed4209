"""The guard: public addresses only, in every disguise."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from siamdedup.catalog.fetching.guard import AddressGuard, AddressRefused
from siamdedup.errors import ConfigError

REFUSED = {
    "0.0.0.0": "unspecified",
    "10.0.0.1": "private",
    "100.64.0.1": "carrier-grade NAT",
    "100.100.100.200": "carrier-grade NAT",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "cloud metadata",
    "169.254.169.254": "link-local",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.192": "reserved",
    "192.0.2.1": "documentation",
    "192.168.1.1": "private",
    "198.18.0.1": "benchmarking",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "::127.0.0.1": "loopback",  # IPv4-compatible
    "::ffff:127.0.0.1": "loopback",  # IPv4-mapped
    "::ffff:a9fe:a9fe": "link-local",
    "64:ff9b::10.0.0.1": "private",  # NAT64
    "64:ff9b:1::1": "private",
    "2002:7f00:1::": "loopback",  # 6to4
    "2002:c0a8:101::1": "private",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "reserved",  # Teredo
    "2001:db8::1": "documentation",
    "fc00::1": "private",
    "fd00:ec2::254": "private",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "fec0::1": "private",
    "ff02::1": "multicast",
    "4000::1": "reserved",
}
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "223.255.255.255",
]
PUBLIC += [
    "2606:4700:4700::1111",
    "2a00:1450:4001:80b::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_special_addresses_are_refused_by_their_name(address: str) -> None:
    assert AddressGuard().refusal(address) == f"{address} is {REFUSED[address]}"
    assert AddressGuard(True).refusal(address) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert AddressGuard().refusal(address) is None


@pytest.mark.parametrize(
    "spelling", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost", "", "127.0.0.1 "]
)
def test_what_is_no_plain_numeric_address_is_refused(spelling: str) -> None:
    assert "is not a numeric address" in AddressGuard().refusal(spelling)


@given(st.ip_addresses())
@example(ipaddress.ip_address("192.88.99.1"))
def test_what_python_does_not_call_global_is_never_connected_to(address: ipaddress._BaseAddress) -> None:
    """An oracle of its own table; ours may refuse more (multicast, cloud metadata)."""
    if AddressGuard().refusal(str(address)) is None and not (address.version == 6 and "." in _inner(address)):
        assert address.is_global
        assert not address.is_multicast


def _inner(address: ipaddress.IPv6Address) -> str:
    """The public IPv4 address within, as text, else nothing."""
    inner = address.sixtofour or address.ipv4_mapped
    if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
        inner = ipaddress.ip_address(int(address) & 0xFFFFFFFF)
    return str(inner) if inner is not None and inner.is_global else ""


@given(st.ip_addresses(v=4))
@example(ipaddress.ip_address("10.1.2.3"))
@example(ipaddress.ip_address("8.8.8.8"))
def test_a_disguised_ipv4_address_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    guard, number = AddressGuard(), int(address)
    plain = guard.refusal(str(address)) is None
    disguises = [0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80]
    assert [guard.refusal(str(ipaddress.IPv6Address(d))) is None for d in disguises] == [plain] * 3


def test_networks_are_allowed_one_by_one() -> None:
    guard = AddressGuard(["127.0.0.1", "10.1.0.0/16", "fd00::/8"])
    allowed = ["127.0.0.1", "10.1.255.1", "fd12::1", "::ffff:127.0.0.1", "8.8.8.8"]
    assert [guard.refusal(address) for address in allowed] == [None] * 5
    assert all(
        guard.refusal(address) for address in ["127.0.0.2", "10.2.0.1", "fe80::1", "::1", "::ffff:10.2.0.1"]
    )


@pytest.mark.parametrize("bad", [["intranet.local"], ["10.0.0.0/33"], ["127.0.0.1:80"]])
def test_what_is_no_network_is_a_settings_error(bad: list[str]) -> None:
    with pytest.raises(ConfigError, match="allow_private"):
        AddressGuard(bad)


def test_the_socket_factory_refuses_before_there_is_a_socket() -> None:
    def info(address: str) -> tuple:
        return socket.getaddrinfo(address, 80, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]

    with pytest.raises(AddressRefused) as caught:
        AddressGuard().socket_factory(info("169.254.169.254"))
    assert caught.value.why == "169.254.169.254 is link-local"
    # The system's own resolver understands these spellings; what it makes of them is what is checked.
    for spelling in ("2130706433", "0x7f.1", "0177.0.0.1", "127.1"):
        with pytest.raises(AddressRefused) as caught:
            AddressGuard().socket_factory(info(spelling))
        assert caught.value.why == "127.0.0.1 is loopback"
    with AddressGuard().socket_factory(info("8.8.8.8")) as made:
        assert made.family == socket.AF_INET
        assert made.type == socket.SOCK_STREAM
