"""Posted frames: order, answers, replays; what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from realtime import authorization, tokens, upstreams, worker
from realtime.models import Upstream
from realtime.protocol.errors import ProtocolError
from realtime.transports import frames
from tests.conversation import connected, in_thread, token
from tests.transports.exchange import asked, lines_of, opened, refused

pytestmark = pytest.mark.django_db(transaction=True)

NDJSON = [(b"content-type", b"application/x-ndjson")]
UPSTREAM = "upstream-1"


def publish(channel: str, *data: object, **fields: Any) -> dict[str, Any]:
    return {"type": "publish", "channel": channel, "messages": [{"data": each} for each in data], **fields}


async def post(*posted: object, query: Any = None, **options: Any) -> list[dict[str, Any]]:
    status, answer = await asked("POST", "/frames", query, body=json.dumps(posted).encode(), **options)
    assert status == 200, answer
    found: list[dict[str, Any]] = answer
    return found


def numbered(seq: int, name: str = UPSTREAM) -> list[tuple[str, str]]:
    return [("upstream", name), ("seq", str(seq))]


async def test_answers_come_in_the_order_of_their_frames() -> None:
    answers = await post(
        publish("a", 1, 2, ref="x"),
        {"type": "ping", "ref": 7},
        publish("b", 1),
        {"type": "history", "ref": 7, "channel": "a"},
        publish("a", 3, ref=9),
    )
    assert [(each["type"], each.get("ref")) for each in answers] == [
        ("published", "x"), ("pong", 7), ("published", None), ("history", 7), ("published", 9),
    ]  # fmt: skip
    assert answers[0]["serials"] == [1, 2] and answers[4]["serials"] == [3]
    assert [each["data"] for each in answers[3]["messages"]] == [2, 1]


async def test_lines_are_answered_as_lines() -> None:
    body = (json.dumps(publish("a", 1, ref=1)) + "\n\n" + json.dumps(publish("a", 2, ref=2)) + "\n").encode()
    async with opened("POST", "/frames", headers=NDJSON, body=body) as exchange:
        await exchange.until(lambda: exchange.complete)
        assert exchange.headers["content-type"] == "application/x-ndjson"
        assert [each["serials"] for each in lines_of(exchange.body)] == [[1], [2]]


async def test_one_frame_alone_is_a_list_of_one() -> None:
    status, answer = await asked("POST", "/frames", body=json.dumps(publish("a", 1)).encode())
    assert (status, answer[0]["serials"]) == (200, [1])


async def test_bad_frames_are_answered_in_their_places() -> None:
    answers = await post(
        publish("a", 1, ref="first"),
        {"type": "publish", "ref": 2},
        42,
        {"type": "nothing", "ref": "r"},
        {},
        {"type": "ping", "ref": [1]},
        {"type": "attach", "channel": "a", "ref": 5},
        publish("a", 2, ref="chained", chained=True),
        publish("a b", 1),
    )
    found = [(each["type"], each.get("code"), each.get("ref")) for each in answers]
    assert found == [
        ("published", None, "first"),
        ("error", "bad_frame", 2),
        ("error", "bad_frame", None),
        ("error", "unknown_type", "r"),
        ("error", "bad_frame", None),
        ("error", "bad_frame", None),
        ("error", "bad_frame", 5),
        ("published", None, "chained"),
        ("error", "bad_channel", None),
    ]


@pytest.mark.parametrize("kind", [{}, [], 5, None, True])
async def test_a_frame_whose_type_is_no_word_is_a_bad_one(kind: object) -> None:
    (answer,) = await post({"type": kind, "ref": 1})
    assert (answer["code"], answer["ref"]) == ("bad_frame", 1)


async def test_a_chained_publish_fails_behind_one_that_failed() -> None:
    answers = await post(publish("a", "x" * 70_000), publish("a", 1, chained=True), publish("a", 2))
    assert [each.get("code") for each in answers] == ["too_large", "order", None]


async def test_too_many_bad_frames_end_the_post_with_a_word() -> None:
    answers = await post(*[{"type": "nothing"}] * 12, publish("a", 1))
    assert [each["type"] for each in answers] == ["error"] * 11 + ["close"]
    assert answers[-1]["code"] == 4400


async def test_the_same_ids_again_store_nothing() -> None:
    frame = {"type": "publish", "channel": "a", "messages": [{"id": "once", "data": 1}]}
    first, again = (await post(frame))[0], (await post(frame))[0]
    assert (first["serials"], first["duplicates"]) == ([1], [])
    assert (again["serials"], again["duplicates"]) == ([1], [0])


async def test_rights_are_those_of_the_token() -> None:
    answers = await post(publish("a", 1), publish("b", 1), auth=token(cap={"a": ["publish"]}))
    assert [each.get("code") for each in answers] == [None, "forbidden"]


async def test_an_api_key_may_name_the_client() -> None:
    _, key = await in_thread(tokens.create_api_key, "backend")
    await post(publish("a", 1), auth=key, query=[("client", "bob")])
    await post(publish("a", 2), auth=key)
    await post(publish("a", 3), auth=token("eve"), query=[("client", "bob")])
    history = (await post({"type": "history", "channel": "a"}))[0]
    assert [each["client"] for each in history["messages"]] == ["eve", "backend", "bob"]


async def test_signals_reach_those_who_are_attached() -> None:
    async with connected() as peer:
        await peer.request("attach", channel="a")
        assert await post({"type": "signal", "channel": "a", "event": "typing", "data": 1}, auth=token("bob")) == []
        assert (await peer.read(type="signal"))["client"] == "bob"


async def test_a_signal_that_a_hook_decides_is_waited_for() -> None:
    authorization.register("default", lambda identity, channel, operation, context: operation != "signal")
    try:
        answers = await post({"type": "signal", "channel": "a", "event": "typing", "ref": 1})
        assert [(each["ref"], each["code"]) for each in answers] == [(1, "forbidden")]
    finally:
        authorization._hooks.pop("default")


async def test_bodies_that_are_none_are_refused(realtime_settings: Any) -> None:
    await refused(400, "bad_frame", "POST", "/frames", body=b"")
    await refused(400, "bad_frame", "POST", "/frames", body=b"[]")
    await refused(400, "bad_frame", "POST", "/frames", body=b"[1,")
    await refused(400, "bad_frame", "POST", "/frames", body=b"\xff")
    await refused(400, "bad_frame", "POST", "/frames", body=b"[" + b"1," * 1000 + b"1]")
    await refused(415, "bad_frame", "POST", "/frames", body=b"x", headers=[(b"content-type", b"text/plain")])
    realtime_settings(ROUND_MAX_BYTES=2048, MAX_FRAME_BYTES=1024)
    await refused(413, "too_large", "POST", "/frames", body=b"x" * 3000)
    await refused(413, "too_large", "POST", "/frames", body=b'["%s"]' % (b"x" * 1500))


# ---------------------------------------------------------------------- order of posts


async def test_posts_are_handled_by_number_however_they_arrive() -> None:
    """All workers but this one are played by what stands in the database."""
    late = [asyncio.ensure_future(post(publish("a", seq), query=numbered(seq))) for seq in (4, 3, 2)]
    await asyncio.sleep(0.15)
    assert not any(each.done() for each in late)
    await post(publish("a", 1), query=numbered(1))
    answers = await asyncio.gather(*late)
    assert [each[0]["serials"] for each in answers] == [[4], [3], [2]]


async def test_a_post_before_this_one_may_have_been_another_workers() -> None:
    await in_thread(upstreams.advance, "ana", UPSTREAM, 41, 1_900_000_000.0)
    assert (await post(publish("a", 1), query=numbered(42)))[0]["serials"] == [1]
    row = await in_thread(Upstream.objects.get)
    assert row.seq == 42


async def test_a_missing_post_is_told_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "ORDER_WAIT_S", 0.1)
    error = await refused(409, "order", "POST", "/frames", numbered(2), body=json.dumps(publish("a", 1)).encode())
    assert error["retry_after_ms"] > 0
    assert (await post({"type": "history", "channel": "a"}))[0]["messages"] == []


async def test_a_replayed_post_is_answered_and_has_no_effect_again() -> None:
    frame = {"type": "publish", "channel": "a", "messages": [{"id": "once", "data": 1}]}
    signal = {"type": "signal", "channel": "a", "event": "typing"}
    async with connected() as peer:
        await peer.publish("a", 0)
        await peer.request("attach", channel="a")
        first = await post(frame, signal, query=numbered(1), auth=token("bob"))
        await post({"type": "ping"}, query=numbered(2), auth=token("bob"))
        again = await post(frame, signal, query=numbered(1), auth=token("bob"))
        assert (first[0]["serials"], again[0]["serials"], again[0]["duplicates"]) == ([2], [2], [0])
        await peer.read(type="signal")
        await peer.read(type="message")
        await peer.nothing_else()


async def test_messages_without_an_id_are_known_when_their_post_comes_again() -> None:
    body = [publish("a", 1, 2), {"type": "signal", "channel": "a", "event": "x"}, publish("a", 3), publish("b", 1)]
    first = await post(*body, query=numbered(1))
    assert [each["serials"] for each in first] == [[1, 2], [3], [1]]
    second = await post(*body, query=numbered(1))
    assert [(each["serials"], each["duplicates"]) for each in second] == [([1, 2], [0, 1]), ([3], [0]), ([1], [0])]
    # Another body under a number that was handled: what was stored stays, and the client is told.
    (forged,) = await post(publish("a", "forged"), query=numbered(1))
    assert (forged["serials"], forged["conflicts"]) == ([1], [0])
    # The same messages under the next number are others, and so are those of another client.
    (third,) = await post(publish("a", 1), query=numbered(2))
    (other,) = await post(publish("a", 1), query=numbered(1), auth=token("bo"))
    assert (third["serials"], other["serials"]) == ([4], [5])


async def test_a_post_of_which_something_is_refused_for_now_holds_up_those_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "ORDER_WAIT_S", 0.1)
    await post({"type": "ping"})
    running = worker.current()
    assert running is not None
    submit = running.writer.submit

    def once_away(append: Any) -> None:
        monkeypatch.setattr(running.writer, "submit", submit)
        raise ProtocolError("unavailable")

    first = [{"type": "publish", "channel": "a", "messages": [{"id": name, "data": 1}]} for name in ("x", "y")]
    monkeypatch.setattr(running.writer, "submit", once_away)
    answers = await post(*first, query=numbered(1))
    assert [each.get("code") or each["serials"] for each in answers] == ["unavailable", [1]]
    await refused(409, "order", "POST", "/frames", numbered(2), body=json.dumps(publish("a", 2)).encode())
    again = await post(*first, query=numbered(1))
    assert [each["serials"] for each in again] == [[2], [1]]
    assert (await post(publish("a", 2), query=numbered(2)))[0]["serials"] == [3]


async def test_a_post_of_which_something_is_refused_for_good_holds_up_nobody() -> None:
    chained = {**publish("a", 1), "chained": True}
    answers = await post(
        publish("$nobody", 1), publish("a", float("1e3")), {**chained, "messages": []}, query=numbered(1)
    )
    assert [each.get("code") for each in answers] == ["bad_channel", None, "bad_frame"]
    assert (await post(publish("a", 2), query=numbered(2)))[0]["serials"] == [2]


async def test_upstreams_of_two_clients_are_two() -> None:
    await post(publish("a", 1), query=numbered(1), auth=token("ana"))
    await post(publish("a", 1), query=numbered(1), auth=token("bob"))
    assert await in_thread(Upstream.objects.count) == 2


async def test_a_client_cannot_fill_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "UPSTREAMS_MOST", 2)
    for number in range(2):
        await post(publish("a", 1), query=numbered(1, f"upstream-{number}"))
    body = json.dumps(publish("a", 1)).encode()
    await refused(429, "limit_exceeded", "POST", "/frames", numbered(1, "upstream-2"), body=body)


@pytest.mark.parametrize(
    "query", [[("upstream", UPSTREAM)], [("seq", "1")], numbered(0), numbered(-1), numbered(1, "short")]
)
async def test_numbers_that_are_none_are_refused(query: Any) -> None:
    await refused(400, "bad_frame", "POST", "/frames", query, body=b'{"type":"ping"}')


@pytest.mark.django_db
def test_numbers_never_go_back_and_are_forgotten_in_time() -> None:
    upstreams.advance("ana", UPSTREAM, 5, 1000.0)
    upstreams.advance("ana", UPSTREAM, 3, 1001.0)
    assert upstreams.reached("ana", UPSTREAM) == 5
    assert upstreams.reached("bob", UPSTREAM) == 0
    upstreams.forget_old(1000.0 + 86_399)
    assert upstreams.reached("ana", UPSTREAM) == 5
    upstreams.forget_old(1000.0 + 86_401)
    assert upstreams.reached("ana", UPSTREAM) == 0


async def test_a_worker_that_drains_handles_no_more_posts() -> None:
    await post({"type": "ping"})
    running = worker.current()
    assert running is not None
    running.refuse()
    await refused(503, "unavailable", "POST", "/frames", body=b'{"type":"ping"}')
