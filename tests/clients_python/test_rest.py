"""The REST helper against answers made by hand; against a real server in test_client.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from seriatim_client import AsyncRest, BackoffOptions, Draft, Rest, SeriatimError
from seriatim_client.addresses import rest_url, socket_url

QUICK = BackoffOptions(first_ms=1, cap_ms=2)
Handler = Callable[[httpx.Request], httpx.Response]


def rest(handler: Handler, **options: Any) -> Rest:
    return Rest("http://site", "ser_a_b", transport=httpx.MockTransport(handler), backoff=QUICK, **options)


def stored(request: httpx.Request, status: int = 201) -> httpx.Response:
    messages = json.loads(request.content)["messages"]
    fields = {"channel": "q", "epoch": "abcd", "serials": list(range(1, len(messages) + 1))}
    return httpx.Response(status, json={**fields, "duplicates": [], "conflicts": []})


def refusal(code: str, status: int, headers: dict[str, str] | None = None, **facts: Any) -> httpx.Response:
    error = {"code": code, "message": "m.", "remedy": "r.", **facts}
    return httpx.Response(status, json={"error": error}, headers=headers)


def test_a_publish_is_repeated_with_its_id_until_it_is_answered() -> None:
    tries: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        tries.append(request.content)
        match len(tries):
            case 1:
                raise httpx.ConnectError("refused")
            case 2:
                return refusal("unavailable", 503, retry_after_ms=2)
            case 3:
                return refusal("rate_limited", 429, retry_after_ms=1)
            case 4:
                return httpx.Response(502, text="<html>")
        return stored(request)

    receipt = rest(handler).publish("q", {"a": 1}, event="e", key="k")
    assert (receipt.serial, receipt.epoch, receipt.duplicate) == (1, "abcd", False)
    assert len(tries) == 5
    assert len(set(tries)) == 1
    (message,) = json.loads(tries[0])["messages"]
    assert message == {"id": receipt.id, "event": "e", "key": "k", "data": {"a": 1}}


def test_retry_after_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("seriatim_client.rest.time.sleep", slept.append)
    answers = [
        refusal("unavailable", 503, {"Retry-After": "3"}),
        refusal("unavailable", 503, {"Retry-After": "2"}, retry_after_ms=1200),
    ]
    rest(lambda request: answers.pop() if answers else stored(request)).publish("q")
    assert slept == [1.2, 3.0]


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    with pytest.raises(SeriatimError) as refused:
        rest(lambda request: refusal("unavailable", 503, retry_after_ms=60_000), timeout_s=1).publish("q")
    assert (refused.value.code, refused.value.retry_after_ms) == ("unavailable", 60_000)


def test_what_trying_again_cannot_help_is_raised_at_once() -> None:
    tries = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        return refusal("forbidden", 403, channel="q")

    with pytest.raises(SeriatimError) as refused:
        rest(handler).publish("q")
    assert (refused.value.code, refused.value.channel, tries) == ("forbidden", "q", 1)
    assert str(refused.value) == "forbidden (q): m. r."


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthorized"), (404, "not_found"), (500, "internal"), (418, "bad_frame")]
)
def test_an_answer_that_is_not_the_servers_is_told_by_its_status(status: int, code: str) -> None:
    with pytest.raises(SeriatimError) as refused:
        rest(lambda request: httpx.Response(status, text="teapot")).publish("q")
    assert refused.value.code == code
    assert str(status) in refused.value.message


def test_nobody_at_the_address_is_unreachable() -> None:
    with pytest.raises(SeriatimError) as refused:
        Rest("http://127.0.0.1:1", timeout_s=0.2, backoff=QUICK).publish("q")
    assert refused.value.code == "unreachable"


def test_many_messages_go_in_order_a_thousand_at_a_time() -> None:
    sizes: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sizes.append(len(json.loads(request.content)["messages"]))
        return stored(request)

    receipts = rest(handler).publish_many("q", (Draft(number) for number in range(2500)))
    assert sizes == [1000, 1000, 500]
    assert len({receipt.id for receipt in receipts}) == 2500


def page(request: httpx.Request) -> httpx.Response:
    """A log of 25 messages, in pages of at most 10."""
    asked = request.url.params
    after, before, limit = int(asked.get("after", 0)), int(asked.get("before", 26)), int(asked["limit"])
    serials = [serial for serial in range(1, 26) if after < serial < before]
    if "after" not in asked:
        serials.reverse()
    given = serials[: min(10, limit)]
    rows = [
        {
            "type": "message",
            "channel": "q",
            "serial": s,
            "id": f"i{s}",
            "time": 1,
            "client": None,
            "event": "e",
            "data": s,
        }
        for s in given
    ]
    more = len(serials) > len(given)
    return httpx.Response(200, json={"epoch": "abcd", "oldest": 1, "head": 25, "messages": rows, "more": more})


def test_history_goes_over_all_pages() -> None:
    api = rest(page)
    assert [message.serial for message in api.messages("q")] == list(range(25, 0, -1))
    assert [message.serial for message in api.messages("q", after=3, limit=15)] == list(range(4, 19))
    assert [message.serial for message in api.messages("q", before=5)] == [4, 3, 2, 1]
    assert [message.serial for message in api.messages("q", after=3, before=7)] == [4, 5, 6]


async def test_the_same_without_blocking() -> None:
    tries = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        if request.url.path.endswith("/tokens"):
            assert json.loads(request.content) == {"client": "ana", "cap": {"*": ["subscribe"]}, "ttl_s": 60}
            return httpx.Response(201, json={"token": "t", "expires": 5})
        if request.method == "GET":
            return page(request)
        return refusal("unavailable", 503, retry_after_ms=1) if tries == 1 else stored(request)

    async with AsyncRest("http://site", "k", transport=httpx.MockTransport(handler), backoff=QUICK) as api:
        assert (await api.publish("q", 1)).serial == 1
        assert (await api.issue_token("ana", {"*": ["subscribe"]}, 60)).token == "t"
        assert [message.serial async for message in api.messages("q", limit=12)] == list(range(25, 13, -1))
        assert (await api.history("q", limit=3)).head == 25


def test_a_name_is_one_segment_of_the_path() -> None:
    paths: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return stored(request)

    rest(handler).publish("chat:a@b=c")
    assert paths == [b"/api/v1/channels/chat%3Aa%40b%3Dc/messages"]
    with pytest.raises(SeriatimError):
        rest(handler).publish("../admin")


@pytest.mark.parametrize(
    ("given", "socket", "api"),
    [
        ("http://a:8000", "ws://a:8000/ws", "http://a:8000/api/v1"),
        ("https://a/", "wss://a/ws", "https://a/api/v1"),
        ("wss://a/ws", "wss://a/ws", "https://a/api/v1"),
        ("https://a/sub/api/v1/", "wss://a/sub/api/v1/", "https://a/sub/api/v1"),
    ],
)
def test_addresses(given: str, socket: str, api: str) -> None:
    assert (socket_url(given), rest_url(given)) == (socket, api)


@pytest.mark.parametrize("given", ["", "localhost:8000", "/ws", "ftp://a", "http://"])
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="address"):
        socket_url(given)
