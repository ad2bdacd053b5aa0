"""The door from Python: from threads and coroutines, with and without a worker in the process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from django.db import connection, transaction

from realtime import limits, namespaces, publishing, worker
from realtime.delivery.capability import Capability
from realtime.log import intake, reads
from realtime.log.types import Append, News
from realtime.models import Namespace
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import NewMessage
from realtime.protocol.names import ChannelName, ClientId
from realtime.publishing import apublish, publish, publish_batch
from realtime.tokens import Identity
from tests.conftest import aeventually

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    publishing._buckets.clear()
    yield
    namespaces.reset()
    publishing._buckets.clear()


@pytest_asyncio.fixture
async def running(transactional_db: None) -> AsyncIterator[worker.Worker]:
    """A worker in this process, as where the site serves sockets."""
    started = worker.ensure()
    await started.ready.wait()
    yield started
    await started.stop()


def messages_of(channel: str) -> list[dict[str, Any]]:
    page = reads.read_page(ChannelName(channel), after=0, before=None, since=None, order="asc", limit=1000)
    return [json.loads(message) for message in page.messages]


def assert_refused(code: str, act: Callable[[], object], said: str = "") -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        act()
    assert caught.value.code == code
    assert said in f"{caught.value.message} {caught.value.remedy}"
    return caught.value


# ---------------------------------------------------------------------- without a worker


def test_a_receipt_says_where_the_message_stands() -> None:
    assert worker.current() is None
    first = publish("lobby", {"n": 1})
    second = publish("lobby", {"n": 2}, event="changed", key="k", client="ana", id="m2")
    assert (first.channel, first.serial, first.duplicate) == ("lobby", 1, False)
    assert (second.serial, second.id, second.epoch) == (2, "m2", first.epoch)
    stored = messages_of("lobby")
    assert [message["id"] for message in stored] == [first.id, "m2"]
    assert (stored[0]["client"], stored[0]["event"], stored[0]["data"]) == (None, "message", {"n": 1})
    assert (stored[1]["client"], stored[1]["event"], stored[1]["key"]) == ("ana", "changed", "k")


def test_the_same_id_is_stored_once_for_each_client_and_channel() -> None:
    first = publish("lobby", 1, id="same")
    again = publish("lobby", 2, id="same")
    assert (again.serial, again.duplicate, again.id) == (first.serial, True, "same")
    assert not publish("lobby", 3, id="same", client="ana").duplicate
    assert not publish("other", 4, id="same").duplicate
    assert [message["data"] for message in messages_of("lobby")] == [1, 3]


def test_ids_made_here_are_never_the_same() -> None:
    ids = {publish("lobby", number).id for number in range(20)}
    assert len(ids) == 20 and all(1 <= len(each) <= 64 and each.isascii() for each in ids)


@pytest.mark.parametrize("data", [None, True, 0, -1.5, "text", [], {}, {"ä": [1, {"b": None}]}, "\u2028"])
def test_data_is_anything_that_json_can_say(data: object) -> None:
    publish("lobby", data)
    assert messages_of("lobby")[0]["data"] == data


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("bad_channel", {"channel": "no:"}),
        ("bad_channel", {"channel": "$control"}),
        ("not_found", {"channel": "nowhere:x"}),
        ("bad_frame", {"data": float("nan")}),
        ("bad_frame", {"data": "\ud800"}),
        ("bad_frame", {"data": object()}),
        ("bad_frame", {"event": ""}),
        ("bad_frame", {"event": "e" * 65}),
        ("bad_frame", {"id": ""}),
        ("bad_frame", {"id": "with space"}),
        ("bad_frame", {"key": "k" * 129}),
        ("bad_frame", {"client": "with space"}),
        ("bad_frame", {"client": "c" * 129}),
        ("too_large", {"data": "x" * 70_000}),
        ("too_large", {"data": "é" * 40_000}),
    ],
)
def test_refusals(code: str, arguments: dict[str, Any]) -> None:
    assert_refused(code, lambda: publish(**{"channel": "lobby", "data": 1, **arguments}))
    assert messages_of("lobby") == []


def test_the_limit_of_a_namespace_is_kept_in_bytes() -> None:
    Namespace.objects.create(name="small", max_message_bytes=10)
    publish("small:x", "12345678")
    publish("small:x", "éééé")
    assert_refused("too_large", lambda: publish("small:x", "123456789"), "11 bytes")
    assert_refused("too_large", lambda: publish("small:x", "ééééé"), "12 bytes")


def test_channels_of_an_operator_are_not_made_by_publishing() -> None:
    Namespace.objects.create(name="made", create="operator")
    assert_refused("not_found", lambda: publish("made:x", 1))


def test_on_commit_it_is_published_when_the_transaction_is() -> None:
    with transaction.atomic():
        transaction.on_commit(lambda: publish("lobby", "committed"))
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        transaction.on_commit(lambda: publish("lobby", "rolled back"))
        raise ZeroDivisionError
    assert [message["data"] for message in messages_of("lobby")] == ["committed"]


def test_many_threads_give_serials_without_a_hole() -> None:
    serials: list[int] = []

    def work(name: int) -> None:
        try:
            serials.extend([publish("lobby", number, client=f"c{name}").serial or 0 for number in range(10)])
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(serials) == list(range(1, 41))
    for name in range(4):
        mine = [message["data"] for message in messages_of("lobby") if message["client"] == f"c{name}"]
        assert mine == list(range(10))


async def test_a_coroutine_publishes_without_a_worker() -> None:
    receipt = await apublish("lobby", "async", id="m1")
    assert (receipt.serial, receipt.id) == (1, "m1")
    with pytest.raises(ProtocolError):
        await apublish("no:", 1)


# ---------------------------------------------------------------------- with a worker


async def test_with_a_worker_its_writer_makes_the_round(
    running: worker.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "run_round_now", None)
    by_thread = await asyncio.to_thread(publish, "lobby", 1)
    by_coroutine = await apublish("lobby", 2)
    assert (by_thread.serial, by_coroutine.serial) == (1, 2)


async def test_many_coroutines_share_rounds(running: worker.Worker) -> None:
    receipts = await asyncio.gather(*[apublish("lobby", number) for number in range(50)])
    assert sorted(receipt.serial or 0 for receipt in receipts) == list(range(1, 51))


async def test_what_is_published_is_announced(running: worker.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[News] = []
    monkeypatch.setattr(running.backplane, "announce", lambda news, committed_at: announced.append(news))
    await apublish("lobby", 1)
    await aeventually(lambda: announced)
    assert (announced[0].channel, announced[0].first) == ("lobby", 1)


async def test_a_writer_that_takes_too_long_is_unavailable(
    running: worker.Worker, monkeypatch: pytest.MonkeyPatch, realtime_settings: Callable[..., None]
) -> None:
    realtime_settings(PUBLISH_TIMEOUT_S=1)
    held: list[Append] = []
    submit = running.writer.submit
    monkeypatch.setattr(running.writer, "submit", held.append)
    with pytest.raises(ProtocolError) as caught:
        await apublish("lobby", 1, id="m1")
    assert caught.value.code == "unavailable" and caught.value.retry_after_ms
    # The outcome was unknown; the same id finds out.
    monkeypatch.setattr(running.writer, "submit", submit)
    running.writer.submit(held[0])
    again = await apublish("lobby", 1, id="m1")
    assert (again.serial, again.duplicate) == (1, True)


async def test_a_writer_that_refuses_is_heard(running: worker.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(append: Append) -> None:
        raise ProtocolError("unavailable", "The queue is full.", retry_after_ms=50)

    monkeypatch.setattr(running.writer, "submit", refuse)
    with pytest.raises(ProtocolError, match="queue is full"):
        await apublish("lobby", 1)


# ---------------------------------------------------------------------- with a client's authority


def identity(cap: Any = None, client: str = "ana") -> Identity:
    return Identity(ClientId(client), None if cap is None else Capability.parse(cap), "token")


def test_a_batch_is_authorised_and_all_or_none() -> None:
    Namespace.objects.create(name="small", max_message_bytes=10)
    lobby, small = ChannelName("lobby"), ChannelName("small:x")
    fitting = [NewMessage("a", "message", None, "1"), NewMessage(None, "message", None, "2")]
    done = publish_batch(identity({"*": ["publish"]}), lobby, fitting)
    assert (done.serials, done.duplicates) == ([1, 2], [])
    assert publish_batch(identity(), lobby, fitting[:1]).duplicates == [0]
    assert_refused("forbidden", lambda: publish_batch(identity({}), lobby, fitting))
    large = [*fitting, NewMessage(None, "message", None, '"' + "x" * 20 + '"')]
    assert_refused("too_large", lambda: publish_batch(identity({"*": ["*"]}), small, large), "message 2")
    assert messages_of("small:x") == []


def test_a_batch_is_from_whom_it_says() -> None:
    publish_batch(identity(), ChannelName("lobby"), [NewMessage(None, "message", None, "1")], client="bo")
    assert messages_of("lobby")[0]["client"] == "bo"


def test_rates_are_kept_per_client_and_follow_the_namespace() -> None:
    Namespace.objects.create(name="slow", publish_rate=1, publish_burst=2, known_ops=["publish"])
    one = [NewMessage(None, "message", None, "1")]

    def take(client: str) -> None:
        publish_batch(identity(client=client), ChannelName("slow:x"), one)

    take("ana")
    take("ana")
    error = assert_refused("rate_limited", lambda: take("ana"))
    assert error.retry_after_ms is not None and 0 < error.retry_after_ms <= 1000
    take("bo")
    Namespace.objects.filter(name="slow").update(publish_rate=1000, publish_burst=1000)
    namespaces.load()
    take("ana")
    # The application itself has no rate.
    for _ in range(5):
        publish("slow:x", 1)


def test_rates_are_remembered_for_a_bounded_number_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "BUCKETS_MOST", 10)
    Namespace.objects.create(name="slow", publish_rate=1, known_ops=["publish"])
    rules = namespaces.rules_for(ChannelName("slow:x"))
    message = NewMessage(None, "message", None, "1")
    for number in range(100):
        publishing._take(rules, limits.Limits(), limits.ChannelLimits(), f"c{number}", [message], ChannelName("slow:x"))
    assert len(publishing._buckets) == 10
