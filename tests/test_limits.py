"""Limits that operators change live: the strictest of everybody's, the namespace's, the key's and the client's."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from django.core.exceptions import ValidationError
from django.db import IntegrityError

from realtime import connection, limits, load, mirror, namespaces, publishing, tokens, worker
from realtime.conf import Settings, settings
from realtime.delivery.admission import Place, Refusal
from realtime.models import Limit, Namespace
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import NewMessage
from realtime.protocol.names import ChannelName, ClientId
from realtime.tokens import Identity
from tests.api.conftest import Api, assert_refused
from tests.balancers import ROOT
from tests.conftest import WITHIN_S, aeventually
from tests.conversation import Peer, bearer, connected, in_thread, stop_worker, token

pytestmark = pytest.mark.django_db(transaction=True)

ROOM = ChannelName("room")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    tokens.reset_caches()
    publishing._buckets.clear()
    yield
    namespaces.reset()
    tokens.reset_caches()
    publishing._buckets.clear()


@pytest_asyncio.fixture
async def one_worker() -> AsyncIterator[None]:
    yield
    await stop_worker()


def limit(scope: str = "global", name: str = "", **fields: int | None) -> Limit:
    row, _ = Limit.objects.update_or_create(scope=scope, name=name, defaults=fields)
    return row


def identity(client: str = "ana", key_id: str | None = None) -> Identity:
    return Identity(ClientId(client), None, "token", key_id=key_id)


def publish(who: Identity, count: int = 1, data: str = "1", channel: str = ROOM) -> int | None:
    """None when it may; else in how many milliseconds."""
    messages = [NewMessage(None, "message", None, data)] * count
    name = ChannelName(channel)
    try:
        publishing.build(who, namespaces.rules_for(name), name, messages)
    except ProtocolError as error:
        assert error.code == "rate_limited"
        return error.retry_after_ms
    return None


def test_the_strictest_of_all_scopes_holds_field_by_field() -> None:
    limit(attachments=50, message_bytes=100, connections=9)
    limit("namespace", "room", attachments=60, message_bytes=10)
    limit("key", "abcd", attachments=5, connections=3)
    limit("client", "ana", attachments=20, connections=2, token_lifetime_s=60)
    mine = limits.of("ana", "abcd", "room")
    assert (mine.attachments, mine.message_bytes, mine.connections, mine.connections_of_key) == (5, 10, 2, 3)
    assert mine.token_lifetime_s == 60
    other = limits.of("bob", None, "chat")
    assert (other.attachments, other.message_bytes, other.connections, other.connections_of_key) == (50, 100, 9, None)
    Limit.objects.all().delete()  # a queryset's delete sends signals, too
    assert limits.of("ana", "abcd", "room") == limits.Limits()


def test_rates_are_taken_out_of_all_budgets_or_out_of_none_and_the_wait_is_true(monkeypatch: Any) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(mirror, "FRESH_S", -1.0)
    limit(publish_rate=10)
    limit("client", "ana", publish_rate=4)
    ana, bob = identity(), identity("bob")
    assert [publish(ana) for _ in range(4)] == [None] * 4
    wait_ms = publish(ana)
    assert wait_ms == 250
    for _ in range(20):
        assert publish(ana) == 250, "asking costs nothing, in no budget"
    assert [publish(bob) for _ in range(10)] == [None] * 10 and publish(bob) == 100
    now[0] += wait_ms / 1000
    assert publish(ana) is None and publish(ana) == 250, "after the wait it is served, once"


def test_all_clients_of_a_key_share_its_rate_and_bytes_count_by_themselves(monkeypatch: Any) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(mirror, "FRESH_S", -1.0)
    limit("key", "abcd", publish_rate=3)
    assert [publish(identity(f"c{n}", "abcd")) is None for n in range(5)] == [True, True, True, False, False]
    assert publish(identity("c1", "efgh")) is None
    limit("client", "bob", publish_bytes=1000)
    assert publish(identity("bob"), data="x" * 900) is None
    wait_ms = publish(identity("bob"), data="x" * 500)
    assert wait_ms == 400


def test_what_all_may_publish_to_a_channel_is_one_budget_and_the_strictest_scope_holds(monkeypatch: Any) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(mirror, "FRESH_S", -1.0)
    limit(channel_rate=8)
    limit("namespace", "default", channel_rate=6, channel_bytes=3000)
    limit("channel", "room", channel_rate=4)
    who = [identity(f"c{number}") for number in range(6)]
    assert [publish(each) for each in who] == [None] * 4 + [250] * 2, "one after the other, whoever it is"
    assert [publish(each, channel="other") for each in who] == [None] * 6, "another channel has a budget of its own"
    assert publish(who[0], channel="other") == 167
    now[0] += 0.25
    assert publish(who[5]) is None and publish(who[4]) == 250, "there is room after the time that was told, for one"
    now[0] += 10
    assert publish(who[0], data="x" * 2900) is None
    assert publish(who[1], data="x" * 400) == 100, "bytes have a budget, too"
    assert publish(who[1], data="x" * 100) is None


def test_bytes_of_a_key_and_of_a_namespace(monkeypatch: Any) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(mirror, "FRESH_S", -1.0)
    limit("key", "abcd", publish_bytes=1000)
    limit("namespace", "default", publish_bytes=5000)
    assert publish(identity("c1", "abcd"), data="x" * 900) is None
    assert publish(identity("c2", "abcd"), data="x" * 300) == 200, "all clients of the key together"
    assert publish(identity("c3"), data="x" * 4500) is None
    assert publish(identity("c3"), data="x" * 1000) == 100, "each client by itself"
    assert publish(identity("c4"), data="x" * 1000) is None


def test_sizes_and_members_of_a_channel_are_the_strictest_of_its_scopes() -> None:
    limit(members=50, message_bytes=100)
    limit("namespace", "chat", members=20)
    limit("channel", "chat:lobby", members=30, message_bytes=10)
    found = limits.of_channel(ChannelName("chat:lobby"))
    assert (found.members, found.message_bytes, found.messages_per_s) == (20, 10, None)
    assert limits.of_channel(ChannelName("chat:other")).members == 20
    assert limits.of_channel(ROOM).members == 50
    limit("channel", "room", message_bytes=10)
    with pytest.raises(ProtocolError, match="at most 10") as refused:
        publishing.build(identity(), namespaces.rules_for(ROOM), ROOM, [NewMessage(None, "message", None, "x" * 20)])
    assert refused.value.code == "too_large"


def test_every_field_of_the_table_is_in_memory_and_belongs_to_some_scope() -> None:
    fields = {field.name for field in Limit._meta.get_fields()} - {"id", "scope", "name"}
    assert set(limits._COLUMNS) - {"scope", "name"} == fields == set().union(*Limit.FIELDS.values())


def test_the_reference_has_every_field_with_its_scopes_and_every_default_as_it_is() -> None:
    page = (ROOT / "docs" / "reference" / "limits.md").read_text()
    scopes: dict[str, set[str]] = {}
    for name, told in re.findall(r"^\| `([a-z_]+)` \| [^|]+ \| ([^|]+) \| [^|]+ \| [^|]+\|$", page, re.M):
        scopes.setdefault(name, set()).update(re.split(r"[,;] ", told.strip()))
    everywhere = set(Limit.Scope.values)
    for name, told_scopes in scopes.items():
        meant = {str(scope.value) for scope, fields in Limit.FIELDS.items() if name in fields}
        assert (everywhere if told_scopes == {"all five"} else told_scopes) == meant, name
    assert set(scopes) == set().union(*Limit.FIELDS.values())
    defaults = re.findall(r"^\| `([A-Z_]+)` \| [^|]+ \| (\d+) \|", page, re.M)
    assert len(defaults) > 20
    for name, default in defaults:
        assert vars(Settings)[name].default == int(default), name


@pytest.mark.parametrize("scope", Limit.Scope.values)
def test_a_field_that_would_limit_nothing_is_refused_in_the_form(scope: str) -> None:
    name = "" if scope == "global" else "x"
    for field in Limit.FIELDS[Limit.Scope.GLOBAL]:
        row = Limit(scope=scope, name=name, **{field: 5})
        if field in Limit.FIELDS[Limit.Scope(scope)]:
            row.full_clean()
        else:
            with pytest.raises(ValidationError) as refused:
                row.full_clean()
            assert list(refused.value.message_dict) == [field]


@pytest.mark.parametrize(
    ("scope", "name"),
    [("namespace", "chat:x"), ("channel", "chat::x"), ("channel", "a b"), ("channel", "$control"), ("client", "a\nb")],
)
def test_a_name_that_nobody_has_is_refused_in_the_form(scope: str, name: str) -> None:
    with pytest.raises(ValidationError, match=f"no {scope}"):
        Limit(scope=scope, name=name, message_bytes=5).full_clean()


@pytest.mark.parametrize(("given", "own", "holds"), [(None, 7, 7), (None, 0, 0), (5, 7, 5), (9, 7, 7), (5, 0, 5)])
def test_connections_of_a_worker_and_of_an_address_are_the_stricter_of_two(
    given: int | None, own: int, holds: int
) -> None:
    assert load._stricter(given, own) == holds


@pytest.mark.parametrize("fields", [{"scope": "global", "name": "x"}, {"scope": "client", "name": ""},
                                    {"scope": "global", "publish_rate": 0}, {"scope": "x", "name": "x"},
                                    {"scope": "channel", "name": "x", "channel_rate": 0},
                                    {"scope": "global", "connections_per_worker": 0}])  # fmt: skip
def test_a_row_that_makes_no_sense_is_refused_by_the_database(fields: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        Limit.objects.create(**fields)


def test_tokens_that_live_too_long_are_refused_and_issued_ones_are_shorter() -> None:
    long = tokens.issue_token("ana", None, 3600)[0]
    limit("client", "ana", token_lifetime_s=600)
    with pytest.raises(ProtocolError, match="at most 600 s"):
        tokens.verify_token(long, time.time())
    text, expires_at_s = tokens.issue_token("ana", None, 3600)
    assert expires_at_s <= time.time() + 601
    tokens.verify_token(text, time.time())
    assert tokens.issue_token("bob", None, 3600)[1] > time.time() + 3000


def test_rest_says_what_is_left_of_the_rate(transactional_db: None) -> None:
    api = Api()
    assert "RateLimit-Limit" not in api.publish("room", {"data": 1}).headers
    limit(publish_rate=5)
    response = api.publish("room", {"messages": [{"data": 1}, {"data": 2}]})
    assert (response.headers["RateLimit-Limit"], response.headers["RateLimit-Remaining"]) == ("5", "3")
    assert response.headers["RateLimit-Reset"] == "1"
    response = api.publish("room", {"messages": [{"data": 1}] * 5})
    error = assert_refused(response, 429, "rate_limited", "5 messages a second")
    assert response.headers["RateLimit-Remaining"] == "0"
    assert response.headers["RateLimit-Reset"] == response.headers["Retry-After"] and error["retry_after_ms"] <= 1000


def test_rest_tells_of_the_budget_that_is_nearest_to_its_end(transactional_db: None) -> None:
    api = Api()
    limit(publish_rate=50, channel_rate=5)
    response = api.publish("room", {"messages": [{"data": 1}, {"data": 2}]})
    assert (response.headers["RateLimit-Limit"], response.headers["RateLimit-Remaining"]) == ("5", "3")
    items = [{"channel": name, "messages": [{"data": 1}] * count} for name, count in (("a", 1), ("b", 4), ("room", 5))]
    response = api.request("POST", "/api/v1/publish", {"items": items})
    refused = [each.get("error") for each in response.json()["items"]]
    assert refused[:2] == [None, None] and refused[2]["code"] == "rate_limited" and refused[2]["retry_after_ms"] <= 1000
    assert response.headers["RateLimit-Limit"] == "5" and response.headers["RateLimit-Remaining"] in ("1", "2")


def test_rest_refuses_what_is_larger_than_allowed(transactional_db: None) -> None:
    limit("namespace", "default", message_bytes=10)
    assert_refused(Api().publish("room", {"data": "x" * 20}), 413, "too_large")


async def heard_of(ready: Any) -> None:
    await aeventually(ready)


async def test_a_limit_holds_for_open_connections_at_once(one_worker: None) -> None:
    async with connected() as ana:
        assert (await ana.publish("room", 1))["type"] == "published"
        assert (await ana.request("attach", channel="room"))["type"] == "attached"
        await in_thread(limit, "client", "ana", publish_rate=1, attachments=1, message_bytes=100)
        await heard_of(lambda: limits.mirror.value.rows)
        answers = [await ana.publish("room", 1) for _ in range(3)]
        assert [answer["type"] for answer in answers] == ["published", "error", "error"]
        assert answers[2]["code"] == "rate_limited" and 0 < answers[2]["retry_after_ms"] <= 1000
        assert (await ana.request("attach", channel="other"))["code"] == "limit_exceeded"
        assert (await ana.request("attach", channel="room"))["type"] == "attached"
        assert (await ana.publish("room", "x" * 200))["code"] == "too_large"


async def test_connections_of_a_client_and_of_a_key(one_worker: None) -> None:
    await in_thread(limit, "client", "ana", connections=1)
    await in_thread(limit, "key", "abcd", connections=1)
    of_key = [tokens.issue_token(name, {"*": ["*"]}, 600, key_id="abcd")[0] for name in ("c1", "c2")]
    async with connected(), connected(text=of_key[0]):
        for text in (token(), of_key[1]):
            second = Peer(bearer(text))
            assert await second.connect()
            code, reason, before = await second.closed()
            assert (code, before[-1]["code"]) == (4013, "limit_exceeded") and "retry_after_ms" in reason
            await second.leave()
    running = worker.ensure()
    await aeventually(lambda: not running.clients and not running.load.admission.clients)
    async with connected(), connected(text=of_key[1]):
        pass


async def test_connections_of_a_worker_and_of_an_address(one_worker: None) -> None:
    running = worker.ensure()
    async with connected():
        own = running.load.admission.limits
        await in_thread(limit, connections_per_worker=1)
        await aeventually(lambda: running.load.admission.limits.connections == 1)
        refused = running.load.admit("192.0.2.1", ())
        assert isinstance(refused, Refusal) and refused.reason == "worker" and refused.retry_ms >= 1000
        await in_thread(limit, connections_per_worker=None, connections_per_address=2)
        await aeventually(lambda: running.load.admission.limits.per_address == 2)
        places = [running.load.admit("192.0.2.1", ()) for _ in range(3)]
        assert isinstance(places[2], Refusal) and places[2].reason == "address"
        other = running.load.admit("192.0.2.2", ())
        for place in (*places[:2], other):
            assert isinstance(place, Place)
            place.leave()
        await in_thread(Limit.objects.all().delete)
        await aeventually(lambda: running.load.admission.limits == own)


async def test_members_of_a_channel_on_all_workers_together(one_worker: None) -> None:
    await in_thread(limit, "channel", "room", members=1)
    async with connected() as ana, connected(text=token("bob")) as bob:
        for peer in (ana, bob):
            await peer.request("attach", channel="room")
        assert (await ana.request("presence", channel="room", action="enter"))["type"] == "ok"
        refused = await bob.request("presence", channel="room", action="enter")
        assert refused["code"] == "limit_exceeded" and "1 members" in refused["message"]
        assert (await ana.request("presence", channel="room", action="update", data=1))["type"] == "ok", "she stays"
        await in_thread(limit, "channel", "room", members=2)
        await aeventually(lambda: limits.of_channel(ROOM).members == 2)
        assert (await bob.request("presence", channel="room", action="enter"))["type"] == "ok"


async def test_a_worker_that_hears_nothing_finds_a_limit_by_looking(one_worker: None) -> None:
    await in_thread(limit, "channel", "room", channel_rate=1000)
    async with connected() as ana:
        assert (await ana.publish("room", 1, 2, 3))["type"] == "published"
        # As another process does it, of which no word comes here.
        await in_thread(lambda: Limit.objects.update(channel_rate=1))
        await aeventually(lambda: limits.of_channel(ROOM).messages_per_s == 1, WITHIN_S)
        answers = [(await ana.publish("room", 1))["type"] for _ in range(3)]
        assert "error" in answers


def closed_with(each: connection.Connection) -> int | None:
    return each._close_code


async def test_who_waits_as_told_is_never_closed_however_often_others_come_first(
    one_worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected():
        (polite,) = worker.ensure().clients
        assert isinstance(polite, connection.Connection)
        now = [1000.0]
        monkeypatch.setattr(connection, "time", SimpleNamespace(monotonic=lambda: now[0]))
        error = ProtocolError("rate_limited", retry_after_ms=200)
        for _ in range(1000):
            polite._mind_rate(ROOM, error)
            now[0] += 0.2
        assert not closed_with(polite)
        for _ in range(1000):
            polite._mind_rate(ROOM, error)
            now[0] += 0.1
        assert closed_with(polite) == 4429, "who asks twice as often as it was told does not listen"
        monkeypatch.undo()


async def test_a_token_that_lives_too_long_now_ends_its_connection(one_worker: None) -> None:
    async with connected() as ana, connected(text=token("bob")) as bob:
        await in_thread(limit, "client", "ana", token_lifetime_s=60)
        assert (await ana.closed())[0] == 4401
        await bob.nothing_else()


async def test_who_does_not_listen_is_closed_and_who_waits_is_not(
    one_worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "OVER_RATE_LEAST", 5)
    settings.__dict__["OVER_RATE_S"] = 0.3
    try:
        await in_thread(limit, publish_rate=5)
        async with connected() as deaf, connected(text=token("bob")) as polite:
            served = 0
            while served < 8:
                answer = await polite.publish("room", 1)
                served += answer["type"] == "published"
                if answer["type"] == "error":
                    await asyncio.sleep(answer["retry_after_ms"] / 1000)
            ended = None
            while ended is None:
                await deaf.send({"type": "publish", "channel": "room", "messages": [{"data": 1}]})
                message = await deaf.communicator.receive_output(10)
                ended = message if message["type"] == "websocket.close" else None
            assert ended["code"] == 4429 and "retry_after_ms=" in ended["reason"]
            assert (await polite.request("ping"))["type"] == "pong"
    finally:
        settings.reset()


def test_a_namespace_that_is_gone_leaves_no_limit_behind_in_memory() -> None:
    Namespace.objects.create(name="room")
    limit("namespace", "room", attachments=1)
    assert limits.of("ana", None, "room").attachments == 1
    Limit.objects.get().delete()
    assert limits.of("ana", None, "room").attachments is None
