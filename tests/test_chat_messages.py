"""What may be published in a room, by WebSocket and REST alike, and what the index makes of the log."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from django.db import connections

from chat import index
from chat.authorization import may
from chat.fold import fold
from chat.models import IndexedMessage, LastSeen, Mention, Seen
from realtime import authorization, namespaces, publishing
from realtime.log.reads import read_page
from realtime.log.retention import begin_anew, new_epoch, prune
from realtime.protocol.messages import parse_messages
from realtime.protocol.names import ClientId, parse_channel
from realtime.tokens import Identity, create_api_key
from tests.chatting import Person, logged, make_room, refusal
from tests.conversation import Peer, bearer, in_thread, stop_worker

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fresh() -> None:
    namespaces.reset()
    publishing._buckets.clear()


@pytest.fixture
def ana() -> Person:
    return Person("ana", first_name="Ana")


@pytest.fixture
def bo() -> Person:
    return Person("bo", first_name="Bo")


# -- what the hook lets through

FILE = {"id": "f", "name": "x.png", "type": "image/png", "size": 5}

#: (event, data) → what the hook says; serial 1 is ana's message, 2 is bo's, and ana publishes.
CASES: list[tuple[str, Any, str]] = [
    ("message", {"text": "x"}, "ok"),
    ("message", {"text": "x", "thread": 1, "also": True, "mentions": ["bo"]}, "ok"),
    ("message", {"text": "x", "unknown": [1]}, "ok"),
    ("message", {"text": ""}, "bad_frame"),
    ("message", {"text": "x" * 4001}, "bad_frame"),
    ("message", {"text": 5}, "bad_frame"),
    ("message", "x", "bad_frame"),
    ("message", None, "bad_frame"),
    ("message", {"text": "x", "thread": "1"}, "bad_frame"),
    ("message", {"text": "x", "mentions": [5]}, "bad_frame"),
    ("message", {"text": "x", "files": [{"id": "f"}]}, "bad_frame"),
    ("message", {"text": "x", "files": [FILE]}, "forbidden"),
    ("edit", {"of": 1, "text": "y"}, "ok"),
    ("edit", {"of": 2, "text": "y"}, "forbidden"),
    ("edit", {"of": 3, "text": "y"}, "forbidden"),
    ("edit", {"of": 10**12, "text": "y"}, "forbidden"),
    ("edit", {"of": 0, "text": "y"}, "bad_frame"),
    ("edit", {"of": 1}, "bad_frame"),
    ("edit", {"of": 1, "text": "y", "mentions": "bo"}, "bad_frame"),
    ("edit", [1], "bad_frame"),
    ("delete", {"of": 1}, "ok"),
    ("delete", {"of": 2}, "forbidden"),
    ("delete", {"of": 2, "by": "ana"}, "forbidden"),
    ("delete", {"of": True}, "bad_frame"),
    ("react", {"of": 2, "emoji": "👍", "on": True}, "ok"),
    ("react", {"of": 2, "emoji": "", "on": True}, "bad_frame"),
    ("react", {"of": 2, "emoji": " ", "on": True}, "bad_frame"),
    ("react", {"of": 2, "emoji": "x" * 17, "on": True}, "bad_frame"),
    ("react", {"of": 2, "emoji": "👍"}, "bad_frame"),
    ("receipt", {"through": 2}, "ok"),
    ("receipt", {"through": -2}, "bad_frame"),
    ("member", {"action": "role", "client": "ana", "role": "owner"}, "forbidden"),
    ("room", {"topic": "mine", "by": "ana"}, "forbidden"),
    ("room", "garbage", "forbidden"),
    ("shout", {"text": "x"}, "bad_frame"),
]


def converse(ana: Person, bo: Person) -> None:
    """ana 1, bo 2, and at 3 a reaction, which is nobody's message."""
    make_room("lobby", owner=bo)
    ana.says("lobby", "one")
    bo.says("lobby", "two")
    ana.does("lobby", "react", of=1, emoji="👍", on=True)
    publishing._buckets.clear()


def test_every_event_is_judged_over_rest(ana: Person, bo: Person) -> None:
    converse(ana, bo)
    for event, data, want in CASES:
        response = ana.publish("lobby", {"event": event, "data": data})
        assert ("ok" if response.status_code == 201 else refusal(response)) == want, (event, data)
        publishing._buckets.clear()
    stored = [(event, data) for _, event, data in logged("chat:lobby")[3:]]
    assert stored == [(event, data) for event, data, want in CASES if want == "ok"]


def test_a_publish_costs_few_queries_whatever_is_in_it(ana: Person, bo: Person, django_assert_num_queries: Any) -> None:
    converse(ana, bo)
    identity, channel = Identity(ClientId("ana"), None, "token"), parse_channel("chat:lobby")

    def asks(*messages: tuple[str, Any]) -> bool:
        found = parse_messages([{"event": event, "data": data} for event, data in messages], 100)
        return may(identity, channel, "publish", {"messages": found, "client": "ana"})

    with django_assert_num_queries(2):
        assert asks(*[("message", {"text": "x"})] * 50, ("react", {"of": 2, "emoji": "👍", "on": True}))
    with django_assert_num_queries(4):
        assert asks(*[("edit", {"of": 1, "text": "x"})] * 50)


def test_one_bad_message_of_a_batch_refuses_all(ana: Person, bo: Person) -> None:
    converse(ana, bo)
    good = {"event": "message", "data": {"text": "x"}}
    for bad in ({"event": "edit", "data": {"of": 2, "text": "y"}}, {"event": "room", "data": {}}):
        assert refusal(ana.publish("lobby", good, bad)) == "forbidden"
    assert len(logged("chat:lobby")) == 3
    assert ana.publish("lobby", good, {"event": "edit", "data": {"of": 1, "text": "y"}}).status_code == 201


def test_a_key_that_speaks_for_somebody_is_judged_as_he_is(ana: Person, bo: Person) -> None:
    converse(ana, bo)
    make_room("loft", "private", owner=bo)
    _, key = create_api_key("backend")

    def publish(room: str, event: str, data: Any, client: str) -> Any:
        return ana.browser.post(
            f"/api/v1/channels/chat:{room}/messages",
            {"client": client, "event": event, "data": data},
            content_type="application/json",
            headers={"Authorization": f"Bearer {key}"},
        )

    assert publish("lobby", "edit", {"of": 2, "text": "y"}, "bo").status_code == 201
    assert refusal(publish("lobby", "edit", {"of": 2, "text": "y"}, "ana")) == "forbidden"
    assert refusal(publish("loft", "message", {"text": "y"}, "ana")) == "forbidden"
    assert refusal(publish("lobby", "member", {"action": "joined", "client": "bo"}, "bo")) == "forbidden"
    assert publish("loft", "message", {"text": "y"}, "bo").status_code == 201


@pytest_asyncio.fixture
async def peers(transactional_db: None) -> AsyncIterator[tuple[Peer, Peer, Person, Person]]:
    """ana and bo on WebSockets, after their conversation."""
    ana, bo = await in_thread(lambda: (Person("ana"), Person("bo")))
    await in_thread(converse, ana, bo)
    found = []
    for person in (ana, bo):
        peer = Peer(bearer(person.token()))
        assert await peer.connect()
        await peer.read(type="ready")
        found.append(peer)
    yield found[0], found[1], ana, bo
    for peer in found:
        await peer.leave()
    await stop_worker()
    close_connections_of_hooks()


def close_connections_of_hooks() -> None:
    """Their threads live as long as the process; a test's database can be dropped only when nobody is connected."""
    all_there = threading.Barrier(authorization.HOOK_THREADS)

    def close() -> None:
        all_there.wait(10)
        connections.close_all()

    for done in [authorization._pool().submit(close) for _ in range(authorization.HOOK_THREADS)]:
        done.result(10)


async def test_every_event_is_judged_over_the_socket_as_over_rest(peers: tuple[Peer, Peer, Person, Person]) -> None:
    peer = peers[0]
    for event, data, want in CASES:
        publishing._buckets.clear()
        answer = await peer.request("publish", channel="chat:lobby", messages=[{"event": event, "data": data}])
        assert answer.get("code", "ok") == want, (event, data)


async def test_mutes_and_removals_hold_on_open_connections(peers: tuple[Peer, Peer, Person, Person]) -> None:
    ana_peer, bo_peer, ana, bo = peers
    await in_thread(make_room, "loft", "private", owner=bo, member=ana)
    for peer in (ana_peer, bo_peer):
        await peer.request("attach", channel="chat:loft")
    message = [{"event": "message", "data": {"text": "x"}}]
    assert "serials" in await ana_peer.request("publish", channel="chat:loft", messages=message)
    typing = {"channel": "chat:loft", "event": "typing", "data": {"on": True}}
    await ana_peer.send({"type": "signal", **typing})
    await bo_peer.read(type="signal", event="typing")
    act = partial(in_thread, bo.browser.post)
    body = {"client": "ana", "minutes": 5}
    assert (await act("/chat/loft/mute", body, content_type="application/json")).status_code == 200
    assert (await ana_peer.request("publish", channel="chat:loft", messages=message))["code"] == "forbidden"
    assert (await ana_peer.request("signal", **typing))["code"] == "forbidden", "a remembered yes was forgotten"
    assert (await act("/chat/loft/unmute", body, content_type="application/json")).status_code == 200
    assert "serials" in await ana_peer.request("publish", channel="chat:loft", messages=message)
    assert (await act("/chat/loft/remove", body, content_type="application/json")).status_code == 200
    detached = await ana_peer.read(type="detached", channel="chat:loft")
    assert detached["reason"] == "forbidden"
    for kind, more in (("attach", {}), ("history", {}), ("publish", {"messages": message})):
        assert (await ana_peer.request(kind, channel="chat:loft", **more))["code"] == "forbidden", kind
    told = [frame["data"]["action"] for frame in await _events(bo_peer, "member", 3)]
    assert told == ["muted", "unmuted", "removed"]


async def _events(peer: Peer, event: str, count: int) -> list[dict[str, Any]]:
    return [await peer.read(type="message", event=event) for _ in range(count)]


# -- the index


def fold_of(room: str) -> Any:
    """The fold of the whole log, which the index must equal."""
    page = read_page(parse_channel(f"chat:{room}"), after=0, order="asc", limit=1000)
    return fold(json.loads(text) for text in page.messages)


def test_pages_are_the_fold_of_the_log_whatever_was_indexed_when(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=bo)
    first = ana.says("lobby", "question", mentions=["bo"])
    ana.get("lobby/page")
    reply = bo.says("lobby", "answer", thread=first)
    ana.get("lobby/page")
    ana.does("lobby", "edit", of=first, text="better question")
    bo.does("lobby", "react", of=first, emoji="👍", on=True)
    ana.get("lobby/page")
    bo.does("lobby", "delete", of=reply)
    bo.says("lobby", "fresh", thread=first, also=True)
    ana.does("lobby", "receipt", through=reply)
    bo.post("lobby/room", {"topic": "T"}, "PATCH")
    page = ana.get("lobby/page").json()
    whole = fold_of("lobby")
    assert page["messages"] == whole.messages()
    assert page["notices"] == whole.notices() and len(page["notices"]) == 1
    assert page["receipts"] == whole.receipts() == {"ana": reply}
    assert page["through"] == page["head"] == len(logged("chat:lobby"))
    assert page["epoch"] and (page["oldest"], page["more_before"], page["more_after"]) == (1, False, False)
    assert not Mention.objects.exists(), "the edit took the mention away"
    assert set(LastSeen.objects.values_list("client", flat=True)) >= {"ana", "bo"}


def test_pages_go_back_forth_around_and_along_a_thread(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=bo)
    for number in range(1, 19):
        ana.says("lobby", f"m{number}", **({"thread": 2} if number in (5, 9) else {}))

    def serials(**query: Any) -> tuple[list[int], bool, bool, int, int]:
        page = ana.get("lobby/page", **query).json()
        found = [each["serial"] for each in page["messages"]]
        return found, page["more_before"], page["more_after"], page["from"], page["to"]

    assert serials(limit=4) == ([15, 16, 17, 18], True, False, 15, 18)
    assert serials(before=15, limit=4) == ([11, 12, 13, 14], True, True, 11, 14)
    assert serials(before=4, limit=4) == ([1, 2, 3], False, True, 1, 3)
    assert serials(before=1) == ([], False, True, 1, 0)
    assert serials(after=15, limit=4) == ([16, 17, 18], True, False, 16, 18)
    assert serials(after=3, limit=3) == ([4, 5, 6], True, True, 4, 6)
    assert serials(around=10, limit=4) == ([9, 10, 11, 12], True, True, 9, 12)
    assert serials(around=18, limit=4) == ([17, 18], True, False, 17, 18)
    assert serials(thread=2)[0] == [2, 5, 9]
    assert serials(thread=2, before=9)[0] == [2, 5]
    assert serials(thread=2, limit=1)[:2] == ([2, 9], True), "with its beginning, and the newest"
    for wrong in ({"before": "x"}, {"limit": 0}, {"limit": 101}, {"before": 5, "after": 3}, {"before": "9" * 20}):
        assert refusal(ana.get("lobby/page", **wrong)) == "bad_frame"
    assert ana.get("lobby/page", limit=100).json()["messages"] == fold_of("lobby").messages()


def test_a_room_without_a_word_has_an_empty_page(ana: Person) -> None:
    make_room("lobby", owner=ana)
    page = ana.get("lobby/page").json()
    assert (page["epoch"], page["messages"], page["through"], page["more_before"]) == (None, [], 0, False)


def test_unread_counts_what_others_said_after_the_receipt(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=bo)
    serials = [bo.says("lobby", f"m{n}", mentions=["ana"] if n == 4 else []) for n in range(5)]
    ana.says("lobby", "mine")

    def counts() -> tuple[int, int]:
        (room,) = ana.get("rooms").json()["rooms"]
        return room["unread"], room["mentions"]

    assert counts() == (5, 1)
    ana.does("lobby", "receipt", through=serials[2])
    assert counts() == (2, 1)
    bo.does("lobby", "delete", of=serials[3])
    assert counts() == (1, 1)
    ana.does("lobby", "receipt", through=serials[0])
    assert counts() == (1, 1), "receipts go forward only"
    ana.does("lobby", "receipt", through=serials[4])
    assert counts() == (0, 0)
    assert Seen.objects.get(client="ana").through == serials[4]


def test_a_page_begins_with_what_was_read_on_any_device(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=ana)

    def seen() -> Any:
        return bo.get("lobby/").context["page_data"]["seen"]

    assert seen() is None
    first = ana.says("lobby", "one")
    last = ana.says("lobby", "two")
    assert seen() is None
    bo.does("lobby", "receipt", through=first)
    page = bo.get("lobby/page").json()
    told = {each["serial"]: each["time"] for each in page["messages"]}
    assert seen() == {"epoch": page["epoch"], "serial": first, "time": told[first]}
    bo.does("lobby", "receipt", through=last)
    assert seen() == {"epoch": page["epoch"], "serial": last, "time": told[last]}


def test_counts_end_at_their_limit(ana: Person, bo: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "COUNT_MOST", 3)
    make_room("lobby", owner=bo)
    for n in range(5):
        bo.says("lobby", f"m{n}", mentions=["ana"])
    (room,) = ana.get("rooms").json()["rooms"]
    assert (room["unread"], room["mentions"]) == (3, 3)


def test_what_is_left_for_the_next_request_is_told_by_through(
    ana: Person, bo: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = make_room("lobby", owner=bo)
    for n in range(7):
        ana.says("lobby", f"m{n}")
    monkeypatch.setattr(index, "STRETCH", 2)
    assert index.catch_up([room], 3)[room.pk].through == 3
    assert index.page(room, limit=9)["through"] == 7
    assert index.page(room, limit=9)["messages"] == fold_of("lobby").messages()


def test_the_index_follows_the_log_into_another_epoch(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=bo)
    for n in range(4):
        ana.says("lobby", f"old {n}", mentions=["bo"])
    ana.does("lobby", "receipt", through=2)
    before = ana.get("lobby/page").json()
    new_epoch(parse_channel("chat:lobby"))
    after = ana.get("lobby/page").json()
    assert after["epoch"] != before["epoch"]
    assert (after["messages"], after["receipts"]) == (before["messages"], before["receipts"]), "the log is relabelled"
    begin_anew(parse_channel("chat:lobby"))
    page = ana.get("lobby/page").json()
    assert (page["messages"], page["receipts"]) == ([], {})
    assert not Mention.objects.exists()
    serial = ana.says("lobby", "new")
    page = ana.get("lobby/page").json()
    assert ([each["serial"] for each in page["messages"]], page["through"], page["oldest"]) == (
        [serial],
        serial,
        serial,
    )


def test_what_retention_took_leaves_the_index(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=bo)
    for n in range(4):
        ana.says("lobby", f"old {n}", mentions=["bo"])
    assert len(bo.get("search", q="old").json()["results"]) == 4
    prune(parse_channel("chat:lobby"), 3)
    page = ana.get("lobby/page").json()
    assert ([each["serial"] for each in page["messages"]], page["oldest"], page["more_before"]) == ([4], 4, False)
    assert len(bo.get("search", q="old").json()["results"]) == 1
    assert list(Mention.objects.values_list("serial", flat=True)) == [4]


@pytest.mark.django_db(transaction=True)
def test_many_may_fold_at_the_same_time() -> None:
    ana, bo = Person("ana"), Person("bo")
    rooms = [make_room("lobby", owner=bo), make_room("hall", owner=bo)]
    failures: list[BaseException] = []

    def fold_on(order: int) -> None:
        try:
            for _ in range(15):
                index.catch_up(rooms[::order])
        except BaseException as failure:
            failures.append(failure)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=fold_on, args=(order,)) for order in (1, -1, 1)]
    for number, thread in enumerate(threads):
        thread.start()
        for room in ("lobby", "hall"):
            ana.says(room, f"m{number}", mentions=["bo"])
            ana.does(room, "react", of=1, emoji="👍", on=number % 2 == 0)
            bo.does(room, "receipt", through=1)
    for thread in threads:
        thread.join(30)
    assert not failures
    for room in ("lobby", "hall"):
        assert ana.get(f"{room}/page").json()["messages"] == fold_of(room).messages()
    assert Mention.objects.count() == 6


def test_what_is_stored_while_a_page_is_read_is_folded_next(ana: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    room = make_room("lobby", owner=ana)
    ana.says("lobby", "read before")
    index.catch_up([room])
    ana.says("lobby", "read by nobody yet")
    overtaken: list[Any] = []

    def overtake(*args: Any, **more: Any) -> Any:
        """A page whose rows were read just before the message, and its bounds just after."""
        page = read_page(*args, **more)
        if overtaken:
            return page
        overtaken.append(page)
        return dataclasses.replace(page, messages=[], more=True)

    monkeypatch.setattr(index, "read_page", overtake)
    assert index.catch_up([room])[room.pk].through == 2 and overtaken
    texts = [each["text"] for each in ana.get("lobby/page").json()["messages"]]
    assert texts == ["read before", "read by nobody yet"]


def test_search_finds_all_words_in_any_case_and_what_was_edited(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=bo)
    make_room("hall", owner=bo)
    first = ana.says("lobby", "The GRÜNE canopy is up")
    second = bo.says("hall", "the canopy 100% down_here")
    third = ana.says("lobby", "canopi")

    def found(q: str, **more: Any) -> list[tuple[str, int]]:
        return [(each["slug"], each["serial"]) for each in bo.get("search", q=q, **more).json()["results"]]

    assert set(found("canopy")) == {("lobby", first), ("hall", second)}
    assert found("canopy grüne") == [("lobby", first)]
    assert found("CANOPY", room="hall") == [("hall", second)]
    assert found("100%") == [("hall", second)] and found("%0") == [] and found("n_h") == [("hall", second)]
    ana.does("lobby", "edit", of=third, text="a canopy, too")
    assert found("too", room="lobby") == [("lobby", third)] and found("canopi") == []
    ana.does("lobby", "delete", of=third)
    assert found("too") == []
    for q in ("", " ", "x" * 101, "a b c d e f g h i"):
        assert refusal(bo.get("search", q=q)) == "bad_frame"
    assert refusal(bo.get("search", q="x", room="nowhere")) == "not_found"
    long = ana.says("lobby", "a" * 2000 + " needle " + "b" * 1000)
    (hit,) = bo.get("search", q="needle").json()["results"]
    assert hit["serial"] == long and "needle" in hit["text"] and len(hit["text"]) < 400


def test_a_day_leads_to_its_first_message(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=bo)
    serials = [ana.says("lobby", f"m{n}") for n in range(3)]
    ana.get("lobby/page")
    for serial, day in zip(serials, ("2026-01-05T10:00:00", "2026-01-05T11:00:00", "2026-01-07T00:00:00"), strict=True):
        moment = datetime.fromisoformat(f"{day}+00:00")
        IndexedMessage.objects.filter(serial=serial).update(time=int(moment.timestamp() * 1000))

    def at(**query: Any) -> Any:
        return ana.get("lobby/at", **query).json()["serial"]

    first, _, last = serials
    days = {"2025-12-31": first, "2026-01-05": first, "2026-01-06": last, "2026-01-07": last, "2026-01-08": None}
    assert {day: at(date=day) for day in days} == days
    assert at(time=1) == serials[0]
    for wrong in ({"date": "yesterday"}, {"date": "2026-02-30"}, {}, {"time": "x"}):
        assert refusal(ana.get("lobby/at", **wrong)) == "bad_frame"
