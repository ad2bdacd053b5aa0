"""Handshakes: host, origin, subprotocols, and where a token is looked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import override_settings

from realtime.handshake import Accepted, Refused, check, is_own_origin

COOKIE = "theme=dark; sessionid=abc123"


def judge(subprotocols: list[str] | None = None, host: str | None = "testserver", **headers: str) -> Refused | Accepted:
    raw = [] if host is None else [(b"host", host.encode("latin1"))]
    raw += [(name.encode(), value.encode("latin1")) for name, value in headers.items()]
    return check(raw, subprotocols or [])


def assert_refused(judged: Refused | Accepted, status: int, said: str) -> None:
    assert isinstance(judged, Refused) and judged.status == status
    assert said in judged.text


def accepted(judged: Refused | Accepted) -> Accepted:
    assert isinstance(judged, Accepted), judged
    return judged


# ---------------------------------------------------------------------- hosts


@pytest.mark.parametrize("host", ["testserver", "TestServer", "testserver:8000", "testserver.", "127.0.0.1:80"])
def test_hosts_that_are_allowed(host: str) -> None:
    accepted(judge(host=host))


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "elsewhere",
        "testserver.elsewhere",
        "x.testserver",
        "testserver:port",
        "a@testserver",
        "testserver/",
        "é",
    ],
)
def test_hosts_that_are_not(host: str | None) -> None:
    assert_refused(judge(host=host), 403, "ALLOWED_HOSTS")


@pytest.mark.parametrize(
    ("allowed", "host", "fine"),
    [
        (["*"], "anything", True),
        ([".example.org"], "a.b.example.org", True),
        ([".example.org"], "example.org", True),
        ([".example.org"], "badexample.org", False),
        (["[::1]"], "[::1]:8000", True),
        (["[::1]"], "[::2]", False),
    ],
)
def test_hosts_follow_djangos_rules(allowed: list[str], host: str, fine: bool) -> None:
    with override_settings(ALLOWED_HOSTS=allowed):
        assert isinstance(judge(host=host), Accepted) == fine


@pytest.mark.parametrize(("debug", "fine"), [(True, True), (False, False)])
@pytest.mark.parametrize("host", ["localhost:8000", "app.localhost", "127.0.0.1", "[::1]:8000"])
def test_without_allowed_hosts_only_debug_serves_this_machine(debug: bool, fine: bool, host: str) -> None:
    with override_settings(ALLOWED_HOSTS=[], DEBUG=debug):
        assert isinstance(judge(host=host), Accepted) == fine


# ---------------------------------------------------------------------- origins


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://testserver", "testserver"),
        ("http://testserver", "testserver:80"),
        ("http://testserver:80", "testserver"),
        ("https://testserver", "testserver"),  # a proxy ended TLS
        ("https://testserver", "testserver:443"),
        ("https://testserver:8443", "testserver:8443"),
        ("http://testserver:8000", "TESTSERVER:8000"),
        ("http://testserver.", "testserver."),
        ("http://[::1]", "[::1]"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_origins_that_are_this_site(origin: str, host: str) -> None:
    assert is_own_origin(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("null", "testserver"),
        ("", "testserver"),
        ("testserver", "testserver"),
        ("//testserver", "testserver"),
        ("http://", "testserver"),
        ("http://elsewhere", "testserver"),
        ("http://testserver.elsewhere", "testserver"),
        ("http://testserver:8001", "testserver:8000"),
        ("http://testserver", "testserver:8000"),
        ("http://testserver:8000", "testserver"),
        ("http://testserver", "testserver:443"),
        ("https://testserver", "testserver:80"),
        ("http://testserver:0", "testserver"),
        ("ws://testserver", "testserver"),
        ("file://testserver", "testserver"),
        ("chrome-extension://testserver", "testserver"),
        ("http://testserver/", "testserver"),
        ("http://testserver/page", "testserver"),
        ("http://testserver?a", "testserver"),
        ("http://testserver#a", "testserver"),
        ("http://elsewhere@testserver", "testserver"),
        ("http://testserver@elsewhere", "testserver"),
        ("http://testserver:99999", "testserver"),
        ("http://testserver:x", "testserver"),
        ("http://[::1", "[::1]"),
        ("http://[::2]", "[::1]"),
        ("http://testserver http://elsewhere", "testserver"),
    ],
)
def test_origins_that_are_not(origin: str, host: str) -> None:
    assert not is_own_origin(origin, host)


def test_another_site_may_connect_only_from_the_list(realtime_settings: Callable[..., None]) -> None:
    assert_refused(judge(origin="https://app.example"), 403, "REALTIME_ORIGINS")
    realtime_settings(ORIGINS=["https://app.example", "null"])
    accepted(judge(origin="https://app.example"))
    accepted(judge(origin="null"))
    for near in ("http://app.example", "https://app.example:444", "https://x.app.example", "https://APP.example"):
        assert_refused(judge(origin=near), 403, "REALTIME_ORIGINS")


def test_a_refusal_quotes_no_more_than_a_line() -> None:
    for judged in (judge(host="x" * 5000), judge(origin="http://" + "x" * 5000)):
        assert isinstance(judged, Refused) and len(judged.text) < 400


# ---------------------------------------------------------------------- subprotocols


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        ([], None),
        ([""], None),
        (["seriatim.v1.json"], "seriatim.v1.json"),
        (["seriatim.v9.cbor", "seriatim.v1.json"], "seriatim.v1.json"),
        (["seriatim.v1.json", "seriatim.bearer.x"], "seriatim.v1.json"),
    ],
)
def test_subprotocols(offered: list[str], selected: str | None) -> None:
    assert accepted(judge(offered)).subprotocol == selected


@pytest.mark.parametrize("offered", [["graphql-ws"], ["seriatim.bearer.x"], ["Seriatim.v1.json"], ["seriatim.v1"]])
def test_who_offers_only_others_hears_what_is_spoken(offered: list[str]) -> None:
    assert_refused(judge(offered), 400, "seriatim.v1.json")


# ---------------------------------------------------------------------- credentials

BEARER = ["seriatim.v1.json", "seriatim.bearer.two"]


@pytest.mark.parametrize(
    ("subprotocols", "headers", "token", "cookie"),
    [
        ([], {}, None, None),
        ([], {"authorization": "Bearer one"}, "one", None),
        ([], {"authorization": "bearer  one "}, "one", None),
        (BEARER, {}, "two", None),
        (BEARER, {"authorization": "Bearer one"}, "one", None),
        # a bad one is not passed over for a later one
        (BEARER, {"authorization": "Basic YTpi"}, "", None),
        (BEARER, {"authorization": "Bearer"}, "", None),
        (["seriatim.v1.json", "seriatim.bearer."], {}, "", None),
        ([], {"authorization": "", "cookie": COOKIE, "origin": "http://testserver"}, "", None),
        # the cookie comes last, and only from this site's own pages
        ([], {"cookie": COOKIE, "origin": "http://testserver"}, None, COOKIE),
        (BEARER, {"cookie": COOKIE, "origin": "http://testserver"}, "two", None),
        ([], {"cookie": COOKIE, "origin": "https://app.example"}, None, None),
        ([], {"cookie": "theme=dark"}, None, None),
        ([], {"cookie": "theme=dark", "origin": "http://testserver"}, None, None),
        (BEARER, {"cookie": COOKIE}, "two", None),
    ],
)
def test_credentials(
    subprotocols: list[str],
    headers: dict[str, str],
    token: str | None,
    cookie: str | None,
    realtime_settings: Callable[..., None],
) -> None:
    realtime_settings(ORIGINS=["https://app.example"])
    judged = accepted(judge(subprotocols, **headers))
    assert (judged.token, judged.cookie) == (token, cookie)


def test_a_cookie_without_an_origin_is_refused() -> None:
    assert_refused(judge(cookie=COOKIE), 403, "Origin")


def test_the_name_of_the_cookie_is_the_sites_own() -> None:
    with override_settings(SESSION_COOKIE_NAME="theme"):
        assert accepted(judge(cookie="theme=dark", origin="http://testserver")).cookie == "theme=dark"


def test_bytes_that_are_no_text_break_nothing() -> None:
    headers: list[tuple[bytes, Any]] = [(b"host", b"testserver"), (b"cookie", b"\xff\xfe=\x80"), (b"x", b"\xff")]
    assert isinstance(check(headers, []), Accepted)
    assert isinstance(check([(b"host", b"\xff\xff")], []), Refused)
