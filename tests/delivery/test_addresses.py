from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.delivery.addresses import client_address, parse_networks

PROXIES = parse_networks(["10.0.0.0/8", "2001:db8:ff::/48", "127.0.0.1"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.7, 10.9.9.9"], "203.0.113.7"),
        ("10.0.0.1", ["10.3.0.1, 10.2.0.1"], "10.3.0.1"),
        ("10.0.0.1", ["203.0.113.7, rubbish"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7, rubbish, 10.2.0.1"], "10.2.0.1"),
        ("10.0.0.1", ["203.0.113.7:4711"], "203.0.113.7"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::/64"),
        ("10.0.0.1", ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        ("2001:db8:ff::1", ["203.0.113.7"], "203.0.113.7"),
        ("2001:db8:1:2::9", [], "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", [], "203.0.113.7"),
        ("::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        (None, ["203.0.113.7"], "203.0.113.7"),
        (None, [], "local"),
        ("testclient", ["203.0.113.7"], "testclient"),
    ],
)
def test_the_right_most_address_that_is_no_trusted_proxy_counts(
    peer: str | None, forwarded: list[str], expected: str
) -> None:
    assert client_address(peer, forwarded, PROXIES) == expected


def test_nobody_is_believed_where_no_proxy_is_trusted() -> None:
    assert client_address("127.0.0.1", ["203.0.113.7"], ()) == "127.0.0.1"
    assert client_address(None, ["203.0.113.7"], ()) == "local"


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@given(st.lists(st.one_of(addresses, st.text(max_size=20)), max_size=6), addresses)
def test_whatever_a_client_sends_its_own_address_counts(sent: list[str], client: str) -> None:
    """The proxy appends the address it saw; everything before it is the client's own text."""
    alone = client_address(client, [], ())
    if any(ip_address(client) in network for network in PROXIES) or alone != client_address(client, [], PROXIES):
        return
    assert client_address("10.0.0.1", [", ".join([*sent, client])], PROXIES) == alone


def test_networks_that_are_none_are_named() -> None:
    with pytest.raises(ValueError, match=r"'10\.0\.0\.1/8'"):
        parse_networks(["10.0.0.0/8", "10.0.0.1/8"])
