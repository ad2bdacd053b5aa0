"""Control: what is said when, how often and by whom it is heard, and that a gap is never mistaken for silence."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_out
from django.core import serializers
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test import Client, RequestFactory

from realtime import authorization, control, mirror, namespaces, signals, tokens, worker
from realtime.apps import restore_default_namespace
from realtime.authorization import reauthorize
from realtime.control import CHANNEL, broadcast, on
from realtime.hub import Mode
from realtime.log import apply_retention, intake, new_epoch, outbox, prune, read_states, reads, retention
from realtime.log.types import News
from realtime.models import Channel, Message, Namespace, Outbox
from realtime.protocol.codec import canonical
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName, ClientId
from realtime.publishing import publish
from realtime.testing import captured_publishes, relay_now
from tests.conftest import MS, aeventually
from tests.conversation import OWN_ORIGIN, Peer, connected, in_thread, stop_worker, token

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE_S = 60_000 * MS


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    handlers = dict(control._handlers)
    hooks = dict(authorization._hooks)
    namespaces.reset()
    tokens.reset_caches()
    control._own_ids.clear()
    yield
    control._handlers.clear()
    control._handlers.update(handlers)
    authorization._hooks.clear()
    authorization._hooks.update(hooks)
    authorization._remembered.clear()
    namespaces.reset()
    tokens.reset_caches()


@pytest_asyncio.fixture
async def running(transactional_db: None) -> AsyncIterator[worker.Worker]:
    started = worker.ensure()
    await started.ready.wait()
    yield started
    await stop_worker()


def said() -> list[tuple[str, Any]]:
    """Events in the log, oldest first; those of transactions are relayed first."""
    outbox.relay(lambda news: None, worker.may_create)
    state = read_states([CHANNEL])[CHANNEL]
    if state.channel_id is None:
        return []
    rows = reads.read_messages(state.channel_id, 0, state.head, max_messages=1000, max_bytes=1 << 20)
    messages = [json.loads(envelope) for _, envelope in rows]
    return [(message["event"], message["data"]) for message in messages]


def say_elsewhere(event: str, **data: object) -> None:
    """As another process does: its worker, if it has one, is not this one."""
    append = control._append_of(event, canonical(data))
    intake.settle([append])
    assert not isinstance(intake.outcome_of(append), ProtocolError)


def say_in_transaction_elsewhere(event: str, **data: object) -> None:
    intake.put(control._append_of(event, canonical(data)))


class Heard(list[Mapping[str, object] | None]):
    """What a handler was called with."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self.stop = on(event, self.append)


async def test_every_event_and_nothing_else_is_in_the_explanation(running: worker.Worker) -> None:
    page = (Path(__file__).parent.parent / "docs" / "explanation" / "delivery.md").read_text()
    table = page.partition("| event | data |")[2].partition("\n\n")[0]
    told = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])}
    assert told == {event for event, handlers in control._handlers.items() if handlers}


# ---------------------------------------------------------------------- saying


def test_an_event_is_a_message_of_the_log_that_no_namespace_rules() -> None:
    Namespace.objects.all().delete()
    assert said() == [("namespaces", {})]
    broadcast("test", {"a": [1, None]})
    broadcast("test", {"a": 2})
    assert said()[1:] == [("test", {"a": [1, None]}), ("test", {"a": 2})]
    channel = Channel.objects.get(name=CHANNEL)
    assert channel.namespace is None
    with pytest.raises(IntegrityError), transaction.atomic():
        Channel.objects.create(name="lobby", namespace=None)


def test_inside_a_transaction_it_is_there_only_when_that_commits() -> None:
    with transaction.atomic():
        broadcast("test", {"n": 1})
        assert Outbox.objects.count() == 1
        assert not Channel.objects.filter(name=CHANNEL).exists()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        broadcast("test", {"n": 2})
        raise ZeroDivisionError
    assert said() == [("test", {"n": 1})]
    assert not Outbox.objects.exists()


def test_the_same_twice_in_a_transaction_is_one_and_a_savepoint_takes_its_own_along() -> None:
    with transaction.atomic():
        for _ in range(3):
            broadcast("test", {"n": 1})
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            broadcast("test", {"n": 1})
            broadcast("test", {"n": 2})
            raise ZeroDivisionError
        with transaction.atomic():
            broadcast("test", {"n": 3})
        broadcast("other", {"n": 1})
        broadcast("test", {"n": 2})
        broadcast("test", {"n": 3})
    with transaction.atomic():
        broadcast("test", {"n": 1})
    assert said() == [
        ("test", {"n": 1}),
        ("test", {"n": 3}),
        ("other", {"n": 1}),
        ("test", {"n": 2}),
        ("test", {"n": 1}),
    ]


def test_a_transaction_of_another_database_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks: list[Callable[[], object]] = []
    other = SimpleNamespace(in_atomic_block=True, on_commit=callbacks.append)
    found = {"default": connection, "other": other}
    monkeypatch.setattr(control, "connections", found)
    monkeypatch.setattr("realtime.elsewhere.connections", found)
    broadcast("test", {"n": 1}, using="other")
    assert said() == []
    callbacks[0]()
    assert said() == [("test", {"n": 1})]
    other.in_atomic_block = False
    broadcast("test", {"n": 2}, using="other")
    assert said()[1:] == [("test", {"n": 2})]


def test_what_cannot_be_stored_is_logged_and_harms_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[object] = []
    stop = authorization.on_reauthorize(lambda *about: told.append(about))

    def away(append: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM no_such_table")

    with monkeypatch.context() as patch:
        patch.setattr(intake, "put", away)
        with transaction.atomic():
            reauthorize(ChannelName("room"))
            assert get_user_model().objects.create(username="ana").pk
    assert told == [("room", None)] and get_user_model().objects.exists()
    with monkeypatch.context() as patch:
        patch.setattr(intake, "settle", lambda appends: appends[0].settle(ProtocolError("unavailable")))
        reauthorize(client="bo")
    stop()
    assert told[1:] == [(None, "bo")]
    assert [record.levelno for record in caplog.records if record.name == "realtime.control"] == [logging.ERROR] * 2
    assert said() == []


def test_the_database_away_keeps_no_change_from_taking_effect_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing asks the database before the effect: not even whether there is a transaction."""

    def away() -> None:
        raise DatabaseError("away")

    told: list[object] = []
    stop = authorization.on_reauthorize(lambda *about: told.append(about))
    with monkeypatch.context() as patch:
        connection.close()
        patch.setattr(connection, "ensure_connection", away)
        patch.setattr(intake, "settle", lambda appends: appends[0].settle(ProtocolError("unavailable")))
        reauthorize()
    stop()
    assert told == [(None, None)]


# ---------------------------------------------------------------------- on an event loop


@pytest.mark.parametrize("with_worker", [True, False])
async def test_an_event_loop_is_not_blocked(
    with_worker: bool, monkeypatch: pytest.MonkeyPatch, transactional_db: None
) -> None:
    if with_worker:
        await worker.ensure().ready.wait()
    go, threads = threading.Event(), list[threading.Thread]()
    settle = intake.settle

    def slow(appends: Any) -> None:
        threads.append(threading.current_thread())
        assert go.wait(PATIENCE_S)
        settle(appends)

    monkeypatch.setattr(intake, "settle", slow)
    told: list[object] = []
    stop = authorization.on_reauthorize(lambda *about: told.append(about))
    reauthorize(ChannelName("room"), "ana")
    stop()
    assert told == [("room", "ana")]
    await aeventually(lambda: threads)
    assert threads[0] is not threading.current_thread()
    go.set()
    event = ("reauthorize", {"channel": "room", "client": "ana"})
    await aeventually(lambda: in_thread(said), what="stored")
    assert await in_thread(said) == [event]
    await stop_worker()


async def test_what_waits_for_the_thread_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, transactional_db: None
) -> None:
    go = threading.Event()
    monkeypatch.setattr(control, "WAITING_MOST", 2)
    stored: list[Any] = []

    def slow(appends: Any) -> None:
        assert go.wait(PATIENCE_S)
        stored.append(appends)
        appends[0].settle(ProtocolError("unavailable"))

    monkeypatch.setattr(intake, "settle", slow)
    for number in range(5):
        broadcast("test", {"n": number})
    assert len([record for record in caplog.records if "too many events" in record.getMessage()]) == 3
    go.set()
    await aeventually(lambda: len(stored) == 2)
    await aeventually(lambda: control._waiting == 0)


# ---------------------------------------------------------------------- what is an event


def login(name: str = "ana") -> Client:
    browser = Client()
    assert browser.login(username=name, password="one")
    return browser


@pytest.fixture
def ana(transactional_db: None) -> User:
    return User.objects.create_user("ana", password="one")


def test_logging_in_and_ordinary_saves_say_nothing(ana: User, django_assert_num_queries: Any) -> None:
    login()
    with django_assert_num_queries(1):
        ana.save(update_fields=["last_login"])
    Client().force_login(ana)
    ana.first_name = "Ana"
    ana.save()
    ana.save(update_fields=["email"])
    User.objects.only("username").get().save()
    User.objects.create_user("bo", password="two")
    (fixture,) = serializers.deserialize("json", serializers.serialize("json", [ana]))
    setattr(fixture.object, "is_active", False)  # noqa: B010  (of a model that the type of a fixture does not name)
    fixture.save()
    assert not User.objects.get(username="ana").is_active
    assert said() == []


def test_the_end_of_a_session_is_said_without_its_key(ana: User) -> None:
    browser = login()
    key = browser.session.session_key
    browser.logout()
    assert key is not None
    mark = tokens.SessionMark(key, str(ana.pk), "")
    ((event, data),) = said()
    assert event == "session_end"
    assert data == {"session": tokens.hash_of_session(key), "user": str(ana.pk), "certain": True}
    stored = [*Message.objects.values_list("envelope", flat=True)]
    assert not any(key in text for text in stored)
    end = tokens.SessionEnd(data["session"], data["user"], data["certain"])
    assert end.concerns(mark)
    assert not end.concerns(tokens.SessionMark("another", str(ana.pk), ""))
    assert not end.concerns(tokens.SessionMark(key, "another", ""))
    assert tokens.SessionEnd(None, str(ana.pk), False).concerns(mark)
    assert tokens.SessionEnd(None, None, False).concerns(mark)
    # Nobody was logged in.
    user_logged_out.send(sender=User, request=RequestFactory().get("/"), user=None)
    assert len(said()) == 1


@pytest.mark.parametrize("end", ["password", "inactive", "written over", "deleted"])
def test_what_ends_all_sessions_of_a_user_is_said_once(end: str, ana: User) -> None:
    if end == "password":
        ana.set_password("two")
        ana.save()
    elif end == "inactive":
        ana.is_active = False
        ana.save(update_fields=["is_active"])
    elif end == "written over":
        User(pk=ana.pk, username="ana", password="!").save()
    else:
        ana.delete()
    pk = User.objects.get().pk if User.objects.exists() else ana.pk
    events = said()
    assert [event for event, _ in events] == ["session_end"]
    assert events[0][1]["session"] is None and events[0][1]["certain"] is False
    assert end == "deleted" or events[0][1]["user"] == str(pk)
    ana.pk = pk
    if end != "deleted":
        ana.save()
        assert len(said()) == 1 or end == "written over"


def test_an_end_is_said_only_when_it_is_committed(ana: User) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        ana.is_active = False
        ana.save()
        raise ZeroDivisionError
    assert said() == []
    with transaction.atomic():
        ana.save()
    assert [event for event, _ in said()] == ["session_end"]


def test_namespaces_are_said_once_for_each_transaction() -> None:
    with transaction.atomic():
        for name in ("one", "two"):
            Namespace.objects.create(name=name)
        Namespace.objects.get(name="one").delete()
    assert said() == [("namespaces", {})]
    Namespace.objects.get(name="two").save()
    assert said() == [("namespaces", {})] * 2


def test_loading_fixtures_and_emptied_tables_write_no_other_rows() -> None:
    """A fixture is loaded into a database that is not consistent yet; emptied tables had no change of anybody."""
    (fixture,) = serializers.deserialize("json", serializers.serialize("json", [Namespace(name="one")]))
    fixture.save()
    Namespace.objects.filter(name__in=["one", "default"]).delete()
    before = len(said())
    Namespace.objects.bulk_create([Namespace(name="kept")])
    Namespace.objects.all()._raw_delete("default")
    restore_default_namespace()
    assert Namespace.objects.get().name == "default"
    assert len(said()) == before


# ---------------------------------------------------------------------- nobody else sees it


def test_the_channel_is_no_channel_of_clients_or_applications(django_user_model: Any) -> None:
    told: list[Any] = []

    def receiver(**arguments: Any) -> None:
        told.append(arguments["channel"])

    signals.published.connect(receiver)
    with captured_publishes() as published:
        with transaction.atomic():
            broadcast("test", {"n": 1})
            publish("lobby", 1)
        broadcast("test", {"n": 2})
        assert len(published) == 1
    assert relay_now() == 1
    broadcast("test", {"n": 3})
    assert signals.flush()
    signals.published.disconnect(receiver)
    assert told == ["lobby"]
    for refused in (CHANNEL, "$other"):
        with pytest.raises(ProtocolError, match="bad_channel"):
            publish(refused, 1)

    desk = Client()
    desk.force_login(django_user_model.objects.create_superuser("op", password="op"))
    channel = Channel.objects.get(name=CHANNEL)
    for page in ("channel", "log"):
        listed = desk.get(f"/admin/realtime/{page}/")
        assert listed.context["cl"].result_count == 1
        assert "lobby" in listed.content.decode() and CHANNEL not in listed.content.decode()
        assert desk.get(f"/admin/realtime/{page}/{channel.pk}/change/").status_code == 302
    assert desk.get(f"/admin/realtime/channel/{channel.pk}/messages/").status_code == 404
    changes = desk.get("/admin/realtime/channel/").context["cl"]
    choices = [choice["display"] for choice in changes.filter_specs[0].choices(changes)]
    assert choices == ["All", *Namespace.objects.values_list("name", flat=True)]


def test_the_log_of_events_is_pruned_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        broadcast("test", {"n": number})
    Namespace.objects.filter(name="default").update(retention_messages=1)
    later_ms = int(time.time() * 1000) + 1000 * 600
    assert apply_retention(now_ms=later_ms) == 0
    assert read_states([CHANNEL])[CHANNEL].oldest == 1
    assert apply_retention(now_ms=later_ms + 1000 * 3600) == 1
    state = read_states([CHANNEL])[CHANNEL]
    assert (state.oldest, state.head) == (6, 5)
    broadcast("test", {"n": 5})
    broadcast("test", {"n": 6})
    rules = namespaces.Rules("", retention_messages=1)
    monkeypatch.setattr(retention, "PLATFORM_RULES", rules)
    call_command("prune")
    assert read_states([CHANNEL])[CHANNEL].oldest == 6, "young messages stay"
    assert apply_retention(now_ms=later_ms) == 1
    assert read_states([CHANNEL])[CHANNEL].oldest == 7


# ---------------------------------------------------------------------- hearing


async def test_events_of_others_are_heard_in_order_and_own_ones_are_not(running: worker.Worker) -> None:
    heard, other = Heard("test"), Heard("other")

    def broken(data: object) -> None:
        raise RuntimeError

    control._handlers["test"] = (broken, *control._handlers["test"])

    def work() -> None:
        say_elsewhere("test", n=1)
        broadcast("test", {"n": 2})
        with transaction.atomic():
            broadcast("test", {"n": 3})
        say_elsewhere("unheard of", n=4)
        say_elsewhere("test", n=5)
        say_elsewhere("other", n=6)

    await in_thread(work)
    await aeventually(lambda: other)
    assert (heard, other) == ([{"n": 1}, {"n": 5}], [{"n": 6}])
    await aeventually(lambda: running.control.counts["own"] == 2)
    assert running.control.counts == {"heard": 4, "own": 2, "missed": 0}
    heard.stop()
    await in_thread(say_elsewhere, "test", n=7)
    await in_thread(say_elsewhere, "other", n=8)
    await aeventually(lambda: len(other) == 2)
    assert len(heard) == 2


async def test_an_event_whose_effect_here_was_lost_is_heard_like_those_of_others(running: worker.Worker) -> None:
    """Django drops the callbacks behind one that raises."""
    heard = Heard("test")

    def raises() -> None:
        raise ZeroDivisionError

    def work() -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            transaction.on_commit(raises)
            broadcast("test", {"n": 1})

    await in_thread(work)
    await aeventually(lambda: heard)
    assert heard == [{"n": 1}]


async def test_own_events_that_are_remembered_are_bounded(
    running: worker.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "OWN_MOST", 3)
    for number in range(9):
        await in_thread(broadcast, "test", {"n": number})
    assert len(control._own_ids) == 3


async def test_following_begins_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, transactional_db: None
) -> None:
    modes: list[Mode] = []
    load = namespaces.mirror.load

    def observed() -> Any:
        subscriber = started.control._subscriber
        assert subscriber is not None
        modes.append(subscriber.mode)
        return load()

    monkeypatch.setattr(namespaces.mirror, "load", observed)
    started = worker.ensure()
    await started.ready.wait()
    assert modes[0] is Mode.LEVEL
    await stop_worker()


async def test_following_begins_when_the_database_comes_back(
    monkeypatch: pytest.MonkeyPatch, transactional_db: None
) -> None:
    asked: list[object] = []
    read = reads.read_states

    def away(names: Any) -> Any:
        asked.append(names)
        if len(asked) < 3:
            raise ProtocolError("unavailable")
        return read(names)

    monkeypatch.setattr(control, "RETRY_S", 5 * MS)
    monkeypatch.setattr(reads, "read_states", away)
    running = worker.ensure()
    await running.ready.wait()
    heard = Heard("test")
    await in_thread(say_elsewhere, "test", n=1)
    await aeventually(lambda: heard)
    assert (heard, running.control.counts["missed"]) == ([{"n": 1}], 0)
    await stop_worker()


def hide_news(running: worker.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub hears nothing of what is committed: it must look at the log."""

    def deaf(news: News) -> None:
        assert news.channel == CHANNEL

    monkeypatch.setattr(running.hub, "hear", deaf)


async def test_pruned_events_mean_that_everything_changed(
    running: worker.Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard, other = Heard("test"), Heard("other")
    await in_thread(say_elsewhere, "test", n=0)
    await aeventually(lambda: heard)
    with monkeypatch.context() as patch:
        hide_news(running, patch)
        patch.setattr(running, "_sweep", lambda: None)

        def work() -> None:
            for number in range(1, 4):
                say_elsewhere("test", n=number)
            prune(CHANNEL, 3)

        await in_thread(work)
    await aeventually(lambda: len(heard) == 3)
    assert (heard, other) == ([{"n": 0}, None, {"n": 3}], [None])
    assert running.control.counts["missed"] == 1


async def test_another_epoch_means_that_everything_changed_and_says_nothing_again(running: worker.Worker) -> None:
    heard = Heard("test")
    for number in range(3):
        await in_thread(say_elsewhere, "test", n=number)
    await aeventually(lambda: len(heard) == 3)
    await in_thread(new_epoch, CHANNEL)
    await aeventually(lambda: None in heard)
    await in_thread(say_elsewhere, "test", n=3)
    await aeventually(lambda: {"n": 3} in heard)
    assert heard == [{"n": 0}, {"n": 1}, {"n": 2}, None, {"n": 3}]
    assert running.hub.occupancy(CHANNEL) == 1


async def test_a_channel_that_was_deleted_begins_again(running: worker.Worker) -> None:
    heard = Heard("test")
    await in_thread(say_elsewhere, "test", n=1)
    await aeventually(lambda: len(heard) == 1)
    await in_thread(lambda: Channel.objects.filter(name=CHANNEL).delete())
    await in_thread(say_elsewhere, "test", n=2)
    await aeventually(lambda: None in heard)
    await in_thread(say_elsewhere, "test", n=3)
    await aeventually(lambda: heard[-1] == {"n": 3})


async def test_an_event_that_cannot_be_read_is_left_out(
    running: worker.Worker, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard("test")

    def work() -> None:
        intake.settle([control._append_of("test", "[1]")])
        say_elsewhere("test", n=1)

    await in_thread(work)
    await aeventually(lambda: heard)
    assert heard == [{"n": 1}] and "cannot be read" in caplog.text


async def test_a_worker_that_stopped_hears_nothing(running: worker.Worker) -> None:
    heard = Heard("test")
    running.control.stop()
    running.control.start()
    await in_thread(say_elsewhere, "test", n=1)
    await in_thread(running.hub.sweep)
    assert running.hub.occupancy(CHANNEL) == 0 and heard == []


# ---------------------------------------------------------------------- what it does


def slow_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the regular looks: what happens is because it was heard."""
    monkeypatch.setattr(worker, "SESSIONS_EVERY_S", float("inf"))
    monkeypatch.setattr(worker.Worker, "_refresh_caches", lambda self: None)


@pytest.fixture
def cookies(ana: User) -> list[tuple[bytes, bytes]]:
    """What the browsers of ana and bo send."""
    User.objects.create_user("bo", password="one")
    return [(b"cookie", f"sessionid={login(name).session.session_key}".encode()) for name in ("ana", "bo")]


@pytest.fixture
def room(transactional_db: None) -> None:
    Namespace.objects.create(name="room", known_ops=["subscribe", "publish"])


@pytest.mark.parametrize("end", ["logout", "password", "missed"])
async def test_a_session_that_ended_elsewhere_closes_its_socket(
    end: str, ana: User, cookies: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_looks(monkeypatch)
    peers = [Peer(each, OWN_ORIGIN) for each in cookies]
    for peer in peers:
        assert await peer.connect()
        await peer.read(type="ready")
    key = cookies[0][1].decode().removeprefix("sessionid=")

    def work() -> None:
        if end == "logout":
            # The session stays: what is certain is not asked for.
            say_elsewhere("session_end", session=tokens.hash_of_session(key), user=str(ana.pk), certain=True)
        elif end == "password":
            User.objects.filter(pk=ana.pk).update(password="!")
            say_elsewhere("session_end", session=None, user=str(ana.pk), certain=False)
        else:
            User.objects.filter(pk=ana.pk).update(is_active=False)
            new_epoch(CHANNEL)

    heard = Heard("test")
    await in_thread(say_elsewhere, "test")
    await aeventually(lambda: heard)
    await in_thread(work)
    code, _, frames = await peers[0].closed()
    assert (code, [frame["code"] for frame in frames]) == (4401, ["unauthorized"])
    await peers[1].nothing_else()
    for peer in peers:
        await peer.leave()
    await stop_worker()


async def test_a_user_that_may_have_changed_keeps_sessions_that_hold(cookies: Any) -> None:
    """Also from a program that says more than it knows."""
    peer = Peer(cookies[0], OWN_ORIGIN)
    assert await peer.connect()
    await peer.read(type="ready")
    heard = Heard("session_end")

    def work() -> None:
        say_elsewhere("session_end", session=None, user=None, certain=True)
        say_elsewhere("session_end", session="0" * 64, user=None, certain=True)
        say_elsewhere("session_end", nonsense=1)

    await in_thread(work)
    await aeventually(lambda: len(heard) == 3)
    await peer.nothing_else()
    await peer.leave()
    await stop_worker()


async def test_rights_that_were_taken_elsewhere_end_attachments_and_what_is_remembered(room: None) -> None:
    allowed = {"ana", "bo"}
    authorization.register("room", lambda identity, *_: identity.client in allowed, remember_s=600)
    async with connected() as ana, connected(text=token("bo")) as bo:
        for peer in (ana, bo):
            await peer.request("attach", channel="room:x")
            await peer.publish("room:x", 1)
        assert len(authorization._remembered) == 4
        allowed.clear()
        await in_thread(say_elsewhere, "reauthorize", channel="room:x", client="bo")
        assert (await bo.read(type="detached"))["reason"] == "forbidden"
        assert {question[0] for question in authorization._remembered} == {"ana"}
        assert (await ana.request("detach", channel="room:x"))["type"] == "detached"
        await ana.request("attach", channel="room:x")
        await in_thread(new_epoch, CHANNEL)
        assert (await ana.read(type="detached", reason="forbidden"))["channel"] == "room:x"
    await stop_worker()


async def test_rules_that_were_changed_elsewhere_are_read_at_once(room: None, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_looks(monkeypatch)
    async with connected(text=token("ana", cap=None)) as ana, connected(text=token("bo")) as bo:
        for peer in (ana, bo):
            await peer.request("attach", channel="room:x")

        def narrow() -> None:
            Namespace.objects.filter(name="room").update(known_ops=["publish"])
            say_elsewhere("namespaces")

        await in_thread(narrow)
        # Who has a capability of his own is not ruled by what is granted to anybody.
        assert (await ana.read(type="detached"))["reason"] == "forbidden"
        assert (await bo.request("detach", channel="room:x"))["type"] == "detached"

        def grow() -> None:
            Namespace.objects.filter(name="room").update(max_message_bytes=5)
            say_elsewhere("namespaces")

        await in_thread(grow)
        await aeventually(lambda: namespaces.all_rules()["room"].max_message_bytes == 5)
        assert (await bo.publish("room:x", "too large"))["code"] == "too_large"
    await stop_worker()


async def test_rules_that_are_changed_here_hold_at_once_on_the_event_loop(
    room: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_looks(monkeypatch)
    async with connected() as ana:
        await ana.publish("room:x", 1)

        def change() -> None:
            row = Namespace.objects.get(name="room")
            row.max_message_bytes = 5
            row.save()

        await in_thread(change)
        await aeventually(lambda: namespaces.all_rules()["room"].max_message_bytes == 5)
        assert (await ana.publish("room:x", "too large"))["code"] == "too_large"
    await stop_worker()


def test_a_reading_that_took_long_does_not_bring_old_rules_back(monkeypatch: pytest.MonkeyPatch) -> None:
    read = mirror.read_again_if_broken

    def slow(call: Callable[[], Any]) -> Any:
        rows = read(call)
        monkeypatch.setattr(mirror, "read_again_if_broken", read)
        Namespace.objects.filter(name="default").update(max_message_bytes=5)
        namespaces.load()
        return rows

    namespaces.load()
    monkeypatch.setattr(mirror, "read_again_if_broken", slow)
    namespaces.load()
    assert namespaces.all_rules()["default"].max_message_bytes == 5


def test_a_yes_from_before_a_change_is_not_remembered_after_it() -> None:
    identity = tokens.Identity(ClientId("ana"), None, "token")

    def hook(*_: object) -> bool:
        authorization.reauthorize_here(None, None)
        return True

    authorization.register("default", hook, remember_s=60)
    authorization.authorize(identity, ChannelName("lobby"), "subscribe")
    assert not authorization._remembered


async def test_no_rule_of_an_operator_leaves_events_out(
    running: worker.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`default`, where names without a colon are, conflates, and the worker is overloaded."""
    monkeypatch.setattr(type(running.load), "conflates", True)
    heard = Heard("test")

    def work() -> None:
        Namespace.objects.filter(name="default").update(overflow="conflate", create="operator")
        namespaces.load()
        with monkeypatch.context() as patch:
            hide_news(running, patch)
            for number in range(5):
                say_elsewhere("test", n=number)
            with transaction.atomic():
                say_in_transaction_elsewhere("test", n=5)
        running.relay_outbox()

    await in_thread(work)
    await aeventually(lambda: len(heard) == 6)
    assert heard == [{"n": number} for number in range(6)]


async def test_the_census_counts_no_channel_of_the_platform(running: worker.Worker) -> None:
    assert running.hub.occupancy(CHANNEL) == 1
    assert running.hub.census().channels == 0 and not running.hub.census().modes
