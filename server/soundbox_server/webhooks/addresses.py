"""Where we send to: addresses that others name must not lead into our own network.

A name is looked up for each try, every address it has is judged, and the connection goes to the one that was judged: a
name that changes between the look and the connection changes nothing.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from soundbox_server.errors import ValidationFailed

LONGEST = 2_048
FORMAT = "webhook-address"  # in the API's description: no pattern that everybody knows says it
_VISIBLE = re.compile(r"[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\.?")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far we go: in development to this machine, and without TLS. `private`: also, or without `public` only, into
    networks of our own, where an operator and nobody else names the address."""

    https_only: bool = True
    loopback: bool = False
    private: bool = False
    public: bool = True


@dataclass(frozen=True, kw_only=True)
class Target:
    """An address taken apart once: what was judged is what is connected to."""

    scheme: str
    host: str  # a name in ASCII, or an IP address without brackets
    port: int
    path: str  # with its query

    @property
    def authority(self) -> str:
        """As the Host header says it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


_PORTS = {"https": 443, "http": 80}

# IANA's special-purpose registries, and what is used for nothing at all: no receiver on the internet lives there.
_REFUSED = [
    ipaddress.ip_network(block)
    for block in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32", "2002::/16",
        "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
]  # fmt: skip
_PRIVATE = [
    ipaddress.ip_network(block)
    for block in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
]
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def target(url: str, reach: Reach) -> Target:
    """An address that somebody names, taken apart. Raises ValidationFailed. A name is looked up at each try."""
    if len(url) > LONGEST or not _VISIBLE.fullmatch(url):
        raise _refused(f"Write an address of at most {LONGEST} visible ASCII characters.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused("This is no address.") from None
    if parts.scheme not in _PORTS or (reach.https_only and parts.scheme != "https"):
        raise _refused("The address begins with https://.")
    if parts.username is not None or parts.password is not None:
        raise _refused("Leave user and password out of the address.")
    if parts.fragment or "#" in url or "\\" in url:
        raise _refused("Leave the fragment, and backslashes, out of the address.")
    port = _PORTS[parts.scheme] if port is None else port
    if not (port in _PORTS.values() or 1_024 <= port <= 65_535):
        raise _refused("The port is 80, 443, or 1024 and more.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme=parts.scheme, host=_host(parts.hostname or "", reach), port=port, path=path)


def _host(host: str, reach: Reach) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.fullmatch(host):
            raise _refused("Write the host as a name, in ASCII, or as an IP address.") from None
        return host
    if not may_reach(address, reach):
        raise _refused("This address is not on the internet.")
    return str(address)


def _refused(why: str) -> ValidationFailed:
    return ValidationFailed(why, field="url")


def may_reach(address: Address, reach: Reach) -> bool:
    """Whether this is somebody else's place on the internet, whatever form it is written in."""
    inside = _inside(address)
    if inside:
        return all(may_reach(one, reach) for one in inside)
    if reach.loopback and address.is_loopback:
        return True
    if reach.private and any(address in block for block in _PRIVATE if block.version == address.version):
        return True
    if not reach.public:
        return False
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address not in _PUBLIC_V6):
        return False
    return address.is_global and not any(address in block for block in _REFUSED if block.version == address.version)


def _inside(address: Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for, or tunnels to."""
    if not isinstance(address, ipaddress.IPv6Address) or address.is_loopback:
        return []
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return list(address.teredo)
    if address in _NAT64 or address in _COMPATIBLE:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return []
