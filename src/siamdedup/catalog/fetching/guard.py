"""Which addresses a catalogue may make this machine connect to: public ones, unless the user says otherwise.

A catalogue is untrusted input: a row that names ``http://169.254.169.254/`` or a host that resolves to the shop's own
network must not be fetched. The check is made where a socket is about to connect, on the numeric address that it
connects to. So it holds after redirects too, whatever the spelling of the host, and a name that resolves to a public
address first and to a private one later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

from siamdedup.errors import ConfigError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA's special-purpose address registries (RFC 6890) and multicast; written out because what Python calls global
# differs between its versions.
_SPECIAL_V4 = {
    "0.0.0.0/8": "unspecified",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "reserved",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
    # From the public range, yet answered by the cloud host itself (Azure's virtual public address).
    "168.63.129.16/32": "cloud metadata",
}
_SPECIAL_V6 = {
    "::/128": "unspecified",
    "::1/128": "loopback",
    "64:ff9b:1::/48": "private",
    "100::/64": "reserved",
    "2001::/23": "reserved",  # Teredo too, which carries an IPv4 address
    "2001:db8::/32": "documentation",
    "3fff::/20": "documentation",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "fec0::/10": "private",
    "ff00::/8": "multicast",
}
_NETWORKS: dict[int, list[tuple[Any, str]]] = {
    4: [(ipaddress.IPv4Network(net), name) for net, name in _SPECIAL_V4.items()],
    6: [(ipaddress.IPv6Network(net), name) for net, name in _SPECIAL_V6.items()],
}
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # all global unicast that was ever given out (RFC 4291)
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_6TO4 = ipaddress.IPv6Network("2002::/16")


class AddressRefused(OSError):
    """``why`` names address and reason. The text is the same for all, so that several of them stay one error."""

    def __init__(self, why: str) -> None:
        super().__init__("address refused")
        self.why = why


class AddressGuard:
    """Says which addresses may be connected to.

    Args:
        allow_private: ``True`` allows every address, ``False`` public ones only; else networks or addresses
            ("10.1.0.0/16", "127.0.0.1") that are allowed besides the public ones.

    Raises:
        ConfigError: something in ``allow_private`` is no network.
    """

    def __init__(self, allow_private: bool | Sequence[str] = False) -> None:
        self._everything = allow_private is True
        names = [] if isinstance(allow_private, bool) else list(allow_private)
        try:
            self._allowed = [ipaddress.ip_network(str(name), strict=False) for name in names]
        except ValueError as error:
            raise ConfigError(
                f"{error}",
                where="allow_private",
                remedy="true, false, or a list of networks such as [10.1.0.0/16]",
            ) from None

    def refusal(self, address: str) -> str | None:
        """Why this numeric address may not be connected to; None where it may."""
        if self._everything:
            return None
        try:
            ip: _Address = ipaddress.ip_address(address)
        except ValueError:
            return f"{address!r} is not a numeric address"
        inner = _embedded(ip)
        if any(_in(ip, net) or (inner is not None and _in(inner, net)) for net in self._allowed):
            return None
        kind = _special(inner) if inner is not None else _special(ip)
        return f"{address} is {kind}" if kind else None

    def socket_factory(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """A socket for one ``getaddrinfo`` entry (family, type, protocol, name, address), about to be connected.

        Raises:
            AddressRefused: the address may not be connected to.
        """
        family, kind, protocol, _, address = addr_info
        why = self.refusal(address[0])
        if why is not None:
            raise AddressRefused(why)
        return socket.socket(family, kind, protocol)


def _embedded(ip: _Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a translator or tunnel would make of this one; None where there is none."""
    if ip.version == 4:
        return None
    if _in(ip, _6TO4):
        return ipaddress.IPv4Address((int(ip) >> 80) & 0xFFFFFFFF)
    if int(ip) > 1 and any(_in(ip, net) for net in (_MAPPED, _COMPATIBLE, _NAT64)):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None


def _special(ip: _Address) -> str | None:
    for network, name in _NETWORKS[ip.version]:
        if ip in network:
            return name
    return "reserved" if ip.version == 6 and ip not in _GLOBAL_V6 else None


def _in(ip: _Address, network: _Network) -> bool:
    return ip.version == network.version and ip in network
