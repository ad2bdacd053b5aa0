"""Whose connection it is: the client's address behind trusted proxies, and what counts as one address.

Pure. `X-Forwarded-For` is text that anybody can send; only what a trusted proxy appended to it is believed. So it is
read from the right: as long as an address is a trusted proxy's, the one before it is what that proxy saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]

IPV6_PREFIX = 64
"""A customer gets at least so much of IPv6: single addresses could be changed at will."""

LOCAL = "local"
"""Stands for the other end of a Unix socket, which has no address."""


def parse_networks(texts: Iterable[str]) -> Networks:
    """Networks as in `10.0.0.0/8`, `2001:db8::/32`, or single addresses. ValueError names the first that is none."""
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            raise ValueError(f"{text!r} is no network: {error}") from None
    return networks


def client_address(peer: str | None, forwarded: Iterable[str], trusted: Networks) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 network of /64.

    `peer` is the other end of the connection (None: a Unix socket, so a proxy on this machine), `forwarded` the values
    of `X-Forwarded-For` in order. A proxy's entry that cannot be read ends the search there: the connection counts for
    the proxy.
    """
    address = parse_address(peer) if peer is not None else None
    if address is None and peer is not None:
        return peer
    if trusted and (address is None or _is_in(address, trusted)):
        entries = [entry for value in forwarded for entry in value.split(",")]
        while entries:
            before = parse_address(entries.pop())
            if before is None:
                break
            address = before
            if not _is_in(address, trusted):
                break
    return LOCAL if address is None else _group(address)


def parse_address(text: str) -> Address | None:
    """An address as proxies write it: bare, with a port, in brackets. None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # An IPv4 client of a socket that listens on both.
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: Address, networks: Networks) -> bool:
    return any(address in network for network in networks)


def _group(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address), IPV6_PREFIX), strict=False))
