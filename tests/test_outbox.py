"""Publishing inside a transaction: there if and only if the transaction commits, once, in order."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.db import InterfaceError, OperationalError, connection, transaction

from realtime import namespaces, worker
from realtime.log import incarnation, outbox, reads
from realtime.log.types import News
from realtime.log.witness import Unsound
from realtime.models import Namespace, Outbox
from realtime.protocol.names import ChannelName
from realtime.publishing import publish
from tests.conftest import aeventually, eventually
from tests.log.world import log_locked

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    yield
    namespaces.reset()


@pytest_asyncio.fixture
async def running(transactional_db: None) -> AsyncIterator[worker.Worker]:
    started = worker.ensure()
    await started.ready.wait()
    yield started
    await started.stop()


def data_of(channel: str) -> list[Any]:
    page = reads.read_page(ChannelName(channel), after=0, before=None, since=None, order="asc", limit=1000)
    return [json.loads(message)["data"] for message in page.messages]


def relay() -> tuple[int, list[News]]:
    news: list[News] = []
    return outbox.relay(news.extend, lambda channel: True), news


def relay_beside() -> None:
    """For a thread of its own."""
    relay()
    connection.close()


def test_a_message_is_there_only_when_its_transaction_commits() -> None:
    with transaction.atomic():
        receipt = publish("orders", {"paid": 1}, id="p1")
        assert (receipt.pending, receipt.serial, receipt.id) == (True, None, "p1")
        assert data_of("orders") == []
    moved, news = relay()
    assert moved == 1
    assert data_of("orders") == [{"paid": 1}]
    assert [(each.channel, each.first, len(each.frames)) for each in news] == [("orders", 1, 1)]
    assert not Outbox.objects.exists()


def test_a_transaction_that_fails_publishes_nothing() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        publish("orders", 1)
        raise ZeroDivisionError
    assert relay() == (0, [])
    assert data_of("orders") == []


def test_a_savepoint_that_is_rolled_back_takes_its_messages_along() -> None:
    with transaction.atomic():
        publish("orders", "kept")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            publish("orders", "lost")
            raise ZeroDivisionError
        publish("orders", "kept too")
    relay()
    assert data_of("orders") == ["kept", "kept too"]


def test_consecutive_transactions_stay_in_order() -> None:
    for each in range(30):
        with transaction.atomic():
            publish("orders", each)
            publish("others", -each)
    relay()
    assert data_of("orders") == list(range(30))
    assert data_of("others") == [-each for each in range(30)]


def test_the_same_id_is_stored_once_whichever_way_it_came() -> None:
    publish("orders", 1, id="same", client="ana")
    with transaction.atomic():
        publish("orders", 1, id="same", client="ana")
    relay()
    assert data_of("orders") == [1]
    assert not Outbox.objects.exists()


def test_a_message_that_the_log_refuses_is_kept_with_the_reason() -> None:
    with transaction.atomic():
        publish("orders", 1)
        publish("others", 2)
    moved = outbox.relay(lambda news: None, lambda channel: channel != "orders")
    assert moved == 1
    kept = Outbox.objects.get()
    assert (kept.channel, kept.refusal.split(" ")[0]) == ("orders", "not_found")
    assert relay() == (0, [])


def test_an_unknown_namespace_is_refused_at_once() -> None:
    with transaction.atomic(), pytest.raises(Exception, match="not_found"):
        publish("nowhere:x", 1)
    assert not Outbox.objects.exists()
    assert Namespace.objects.filter(name="default").exists()


@pytest.mark.postgres
def test_a_channel_whose_log_is_locked_keeps_no_other_waiting(
    realtime_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    realtime_settings(LOCK_TIMEOUT_MS=20)
    monkeypatch.setattr(outbox, "RELAYED_AT_ONCE", 2)
    publish("orders", 0)
    for each in (1, 2, 3):
        with transaction.atomic():
            publish("orders", each)
    with transaction.atomic():
        publish("others", "free")
        publish("orders", 4)
    relaying = threading.Thread(target=relay_beside)
    try:
        with log_locked(ChannelName("orders")):
            relaying.start()
            eventually(lambda: data_of("others") == ["free"])
            eventually(lambda: not relaying.is_alive())
            assert data_of("orders") == [0]
    finally:
        relaying.join()
    relay()
    assert data_of("orders") == [0, 1, 2, 3, 4]
    assert not Outbox.objects.exists()


@pytest.mark.asyncio
async def test_a_worker_relays_at_once_what_its_own_process_commits(
    running: worker.Worker, realtime_settings: Any
) -> None:
    def work() -> None:
        with transaction.atomic():
            publish("orders", 1)

    await sync_to_async(work, thread_sensitive=False)()
    await aeventually(lambda: sync_to_async(data_of)("orders"))


# ---------------------------------------------------------------- a database that is away


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("terminating connection due to administrator command\nserver closed the connection"),
        InterfaceError("the cursor is closed"),
    ],
)
def test_a_connection_that_was_terminated_is_one_line_and_no_trace(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Any:
        raise error

    monkeypatch.setattr(outbox, "_relay_some", broken)
    assert relay() == (0, [])
    monkeypatch.setattr(outbox, "_relay_some", unsound)
    monkeypatch.setattr(incarnation, "settle", broken)
    assert relay() == (0, [])
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert record.levelname == "WARNING" and record.exc_info is None
        assert str(error).split()[0] in record.getMessage() and "\n" not in record.getMessage()


def unsound(*_: object) -> Any:
    raise Unsound


def test_a_fault_of_ours_keeps_its_trace(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(outbox, "_relay_some", unsound)
    monkeypatch.setattr(incarnation, "settle", broken)
    assert relay() == (0, [])
    (record,) = caplog.records
    assert record.exc_info is not None and "a fault" in caplog.text


async def test_a_regular_count_of_a_database_that_is_away_is_one_line(
    running: worker.Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> outbox.Backlog:
        with reads.reading():
            raise OperationalError("terminating connection")

    monkeypatch.setattr(outbox, "count_backlog", broken)
    before = running.backlog
    running._count_backlog()
    await aeventually(lambda: "A read failed" in caplog.text)
    assert "Traceback" not in caplog.text and running.backlog is before


async def test_nothing_expires_before_the_rules_are_known(caplog: pytest.LogCaptureFixture) -> None:
    started = worker.ensure()
    try:
        assert not started.ready.is_set()
        started._expire()
        assert started._expiring is None
        await started.ready.wait()
    finally:
        await started.stop()
