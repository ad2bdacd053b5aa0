"""Signals: what receivers are told, and that none of them can harm anybody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import transaction
from django.dispatch import Signal

from realtime import namespaces, signals, tokens
from realtime.connection import Connection
from realtime.models import Message
from realtime.publishing import publish
from realtime.testing import relay_now
from tests.conftest import MS, aeventually
from tests.conversation import Peer, bearer, connected, in_thread, stop_worker, token


@contextmanager
def receiver(signal: Signal, function: Callable[..., object]) -> Iterator[None]:
    signal.connect(function, weak=False)
    try:
        yield
    finally:
        signal.disconnect(function)


@contextmanager
def heard(signal: Signal) -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []

    def hear(**arguments: Any) -> None:
        found.append({name: value for name, value in arguments.items() if name != "signal"})

    with receiver(signal, hear):
        yield found


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    yield
    assert signals.flush()
    namespaces.reset()


@pytest.mark.django_db(transaction=True)
def test_published_tells_channel_epoch_and_serials() -> None:
    with heard(signals.published) as found:
        receipt = publish("orders", 1, id="one")
        publish("orders", 1, id="one")
        publish("orders", 2)
        assert signals.flush()
    assert found == [
        {"sender": Message, "channel": "orders", "epoch": receipt.epoch, "serials": range(1, 2)},
        {"sender": Message, "channel": "orders", "epoch": receipt.epoch, "serials": range(2, 3)},
    ]


@pytest.mark.django_db(transaction=True)
def test_what_belongs_to_a_transaction_is_told_when_it_is_in_the_log() -> None:
    with heard(signals.published) as found:
        with transaction.atomic():
            publish("orders", 1)
            publish("orders", 2)
        assert signals.flush()
        assert found == []
        relay_now()
        assert signals.flush()
    assert [each["serials"] for each in found] == [range(1, 3)]


@pytest.mark.django_db(transaction=True)
def test_a_receiver_may_use_the_database_and_sees_the_message() -> None:
    seen: list[int] = []

    def count(**_: object) -> None:
        seen.append(Message.objects.count())

    with receiver(signals.published, count):
        publish("orders", 1)
        assert signals.flush()
    assert seen == [1]


def hello(**_: object) -> None:
    """Stands for a message that was published."""
    signals.send_published("orders", "e", 1, 1)


def test_receivers_run_in_a_thread_of_their_own() -> None:
    threads: list[str] = []
    with receiver(signals.published, lambda **_: threads.append(threading.current_thread().name)):
        hello()
        assert signals.flush()
    assert threads == ["seriatim-signals"]


def test_a_receiver_that_raises_is_logged_and_keeps_nobody_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(**_: object) -> None:
        raise ValueError("mine")

    with receiver(signals.published, fail), heard(signals.published) as found:
        hello()
        hello()
        assert signals.flush()
    assert len(found) == 2
    assert "mine" in caplog.text


def test_a_receiver_that_blocks_holds_up_no_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """Senders never wait; what is too much is dropped and counted."""
    monkeypatch.setattr(signals, "QUEUE_MOST", 10)
    blocked, release = threading.Event(), threading.Event()
    calls: list[int] = []

    def block(**_: object) -> None:
        calls.append(1)
        blocked.set()
        release.wait(5000 * MS)

    with receiver(signals.published, block):
        hello()
        assert blocked.wait(5000 * MS)
        before = signals._dispatcher().dropped
        for _ in range(30):
            hello()
        assert signals._dispatcher().dropped == before + 20
        release.set()
        assert signals.flush()
    assert len(calls) == 11


def test_without_receivers_nothing_is_queued() -> None:
    signals.send(signals.connected, Message, client="ana", connection="c")
    assert signals.flush(0)


@pytest.mark.django_db(transaction=True)
def test_a_forked_child_has_a_thread_of_its_own() -> None:
    """As in a task queue that forks its workers after the parent has sent signals."""
    import os

    with heard(signals.published) as found:
        hello()
        assert signals.flush()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            hello()
            os.write(writing, b"1" if signals.flush() and len(found) == 2 else b"0")
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(writing)
        assert os.read(reading, 1) == b"1"
        os.close(reading)


@pytest.mark.django_db(transaction=True)
@pytest.mark.asyncio
async def test_connected_and_disconnected_tell_of_clients_that_were_served() -> None:
    tokens.reset_caches()
    with heard(signals.connected) as came, heard(signals.disconnected) as went:
        async with connected(text=token("ana")) as peer:
            await peer.request("ping")
            await aeventually(lambda: came)
            assert went == []
        await aeventually(lambda: went)
        # Nobody: refused before `ready`.
        refused = Peer(bearer("nonsense"))
        assert await refused.connect()
        assert (await refused.closed())[0] == 4401
        await stop_worker()
        assert await in_thread(signals.flush)
    assert came == went
    assert [(each["sender"], each["client"]) for each in came] == [(Connection, "ana")]
    assert came[0]["connection"].startswith("c_")
