"""Numbers after real traffic: each must be what was done, no more and no less."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from django.db import transaction

from realtime import counting, metrics, namespaces, publishing, tokens, worker
from realtime.log import outbox, retention
from realtime.log.types import News
from realtime.metrics.reading import Buckets
from realtime.metrics.table import METRICS
from realtime.protocol.names import ChannelName
from tests.conftest import aeventually
from tests.conversation import Peer, bearer, connected, in_thread, stop_worker, token

pytestmark = pytest.mark.django_db(transaction=True)

ROOM = "room"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    tokens.reset_caches()
    yield
    namespaces.reset()
    tokens.reset_caches()


@pytest_asyncio.fixture(autouse=True)
async def one_worker(fresh: None) -> AsyncIterator[None]:
    yield
    await stop_worker()


class Numbers:
    """Readings of the worker that runs; differences to the reading before."""

    def __init__(self) -> None:
        self.series: dict[str, dict[tuple[str, ...], Any]] = {}
        self.take()

    def take(self) -> None:
        self.series = self.read()

    @staticmethod
    def read() -> dict[str, dict[tuple[str, ...], Any]]:
        reading = metrics.read(worker.ensure())
        assert set(reading.series) == {metric.name for metric in METRICS}, "some metric could not be read"
        return {name: dict(series) for name, series in reading.series.items()}

    def grew(self, name: str, *labels: str) -> float:
        now, before = self.read()[name].get(labels, 0), self.series[name].get(labels, 0)
        return observed(now) - observed(before)

    def now(self, name: str, *labels: str) -> Any:
        return self.read()[name][labels]


def observed(value: Any) -> float:
    """A number, or how many values a histogram has."""
    return sum(value.counts) if isinstance(value, Buckets) else float(value)


async def test_what_can_happen_is_there_before_it_does() -> None:
    """A rate does not see the event with which a series appears."""
    series = Numbers().series
    for name, *labels in (
        ("seriatim_connections_opened_total", "websocket"),
        ("seriatim_handshakes_refused_total", "503"),
        ("seriatim_messages_published_total", "outbox"),
        ("seriatim_errors_total", "websocket", "internal"),
        ("seriatim_errors_total", "http", "unavailable"),
        ("seriatim_database_errors_total", "writer"),
        ("seriatim_gaps_told_total", "retention"),
        ("seriatim_admission_refused_total", "overload"),
        ("seriatim_shedding_rises_total", "conflate"),
        ("seriatim_attachments", "waiting_socket"),
        ("seriatim_conflated_messages_total",),
        ("seriatim_delta_frames_total", "delta"),
        ("seriatim_signals_dropped_total", "backplane"),
    ):
        assert tuple(labels) in series[name], name


async def test_whatever_is_counted_can_be_read() -> None:
    """A count that somebody adds belongs into the table, too."""
    running = worker.ensure()
    expected: dict[str, float] = {}
    for owner in (running.hub, running.backplane, running.signalling):
        for name in owner.counts:
            owner.counts[name] = int(1e9) + len(expected)
            expected[f"{type(owner).__name__}.{name}"] = owner.counts[name]
    for name in running.counts.__slots__:
        if isinstance(getattr(running.counts, name), int):
            setattr(running.counts, name, int(2e9) + len(expected))
            expected[name] = getattr(running.counts, name)
    # One number in two halves: what the hub broadcast, and what single connections got.
    expected["bytes_out"] += expected.pop("Hub.bytes")
    read = [value for series in metrics.read(running).series.values() for _, value in series]
    assert {name for name, value in expected.items() if value not in read} == set()


async def test_signals_are_counted_for_each_who_gets_them() -> None:
    async with connected() as ana, connected(text=token("bo")) as bo:
        for peer in (ana, bo):
            await peer.request("attach", channel=ROOM)
        numbers = Numbers()
        await ana.send({"type": "signal", "channel": ROOM, "event": "typing"})
        await bo.read(type="signal")
    assert numbers.grew("seriatim_signals_passed_total") == 1
    assert numbers.grew("seriatim_signals_delivered_total") == 1
    assert numbers.grew("seriatim_messages_delivered_total") == 0


async def test_connections_are_counted_as_they_come_and_go() -> None:
    numbers = Numbers()
    async with connected(), connected():
        assert numbers.now("seriatim_connections", "websocket") == 2
        assert numbers.grew("seriatim_connections_opened_total", "websocket") == 2
    await aeventually(lambda: numbers.now("seriatim_connections", "websocket") == 0)
    assert numbers.grew("seriatim_connections_closed_total", "websocket", "client", "1000") == 2


async def test_a_close_is_counted_for_the_one_who_closed() -> None:
    numbers = Numbers()
    peer = Peer(bearer("not.a.token"))
    assert await peer.connect()
    code, _, _ = await peer.closed()
    await peer.leave()
    assert code == 4401
    await aeventually(lambda: numbers.grew("seriatim_connections_closed_total", "websocket", "server", "4401") == 1)
    assert numbers.grew("seriatim_errors_total", "websocket", "unauthorized") == 1


@pytest.mark.parametrize(("code", "label"), [(1001, "1001"), (4401, "4401"), (4999, "0"), (3001, "0"), (1006, "1006")])
async def test_close_codes_of_clients_make_no_series_of_their_own(code: int, label: str) -> None:
    numbers = Numbers()
    async with connected() as peer:
        await peer.communicator.send_input({"type": "websocket.disconnect", "code": code})
        await aeventually(lambda: numbers.grew("seriatim_connections_closed_total", "websocket", "client", label) == 1)


async def test_a_handshake_that_is_refused_is_counted() -> None:
    numbers = Numbers()
    assert not await Peer((b"origin", b"http://elsewhere.example")).connect()
    assert numbers.grew("seriatim_handshakes_refused_total", "403") == 1
    assert numbers.grew("seriatim_connections_opened_total", "websocket") == 0


async def test_frames_and_bytes_that_come_in_are_counted() -> None:
    numbers = Numbers()
    async with connected() as peer:
        frames = ['{"type":"ping"}', json.dumps({"type": "ping", "x": "ä€😀"}, ensure_ascii=False)]
        await peer.send(*frames)
        await peer.request("ping")
        assert numbers.grew("seriatim_received_frames_total") == 3
        size = sum(len(frame.encode()) for frame in frames)
        assert numbers.grew("seriatim_received_bytes_total") == size + len('{"type": "ping", "ref": "peer-1"}')


async def test_what_a_socket_took_is_counted_at_the_latest_at_its_end() -> None:
    numbers = Numbers()
    async with connected() as peer:
        answer = await peer.request("ping")
    await aeventually(lambda: numbers.now("seriatim_connections", "websocket") == 0)
    assert numbers.grew("seriatim_sent_bytes_total") >= len(json.dumps(answer, separators=(",", ":")))


async def test_errors_are_counted_by_code() -> None:
    numbers = Numbers()
    async with connected() as peer:
        await peer.send("{", '{"type":"dance"}')
        await peer.request("attach", channel="a b")
        await peer.request("publish", channel=ROOM, messages=[])
    assert numbers.grew("seriatim_errors_total", "websocket", "bad_frame") == 2
    assert numbers.grew("seriatim_errors_total", "websocket", "unknown_type") == 1
    assert numbers.grew("seriatim_errors_total", "websocket", "bad_channel") == 1


async def test_messages_are_counted_by_what_brought_them() -> None:
    numbers = Numbers()
    async with connected() as peer:
        await peer.publish(ROOM, 1, 2, 3)
        assert numbers.grew("seriatim_messages_published_total", "socket") == 3
        await in_thread(publishing.publish, ROOM, 4)
        assert numbers.grew("seriatim_messages_published_total", "call") == 1

        def in_transaction() -> None:
            with transaction.atomic():
                publishing.publish(ROOM, 5)
                publishing.publish(ROOM, 6)

        await in_thread(in_transaction)
        await aeventually(lambda: numbers.grew("seriatim_messages_published_total", "outbox") == 2)
        page = await peer.request("history", channel=ROOM)
        stored = sum(len(json.dumps(each, separators=(",", ":"))) for each in page["messages"])
        assert numbers.grew("seriatim_published_bytes_total") == stored
        # Of what the outbox relayed, the writer knows no rounds of its own.
        await aeventually(lambda: numbers.grew("seriatim_publish_commit_seconds") == 2)
        assert numbers.grew("seriatim_round_messages") == numbers.grew("seriatim_round_seconds") == 2
        assert numbers.now("seriatim_round_messages").total == 4


async def test_duplicates_and_conflicts_are_counted_and_not_as_published() -> None:
    numbers = Numbers()
    async with connected() as peer:
        for data in ("first", "first", "other"):
            await peer.request("publish", channel=ROOM, messages=[{"id": "m1", "data": data}])
    assert numbers.grew("seriatim_messages_published_total", "socket") == 1
    assert numbers.grew("seriatim_publish_duplicates_total") == 2
    assert numbers.grew("seriatim_publish_conflicts_total") == 1


async def test_a_message_counts_for_each_subscriber() -> None:
    numbers = Numbers()
    async with connected() as ana, connected(text=token("bo")) as bo:
        for peer in (ana, bo):
            await peer.request("attach", channel=ROOM)
        await aeventually(lambda: numbers.now("seriatim_attachments", "level") == 2)
        await ana.publish(ROOM, 1, 2, 3)
        for peer in (ana, bo):
            assert await peer.messages(ROOM, 3) == [1, 2, 3]
        assert numbers.grew("seriatim_messages_delivered_total") == 6
        assert numbers.grew("seriatim_socket_writes_total") == 2
        assert numbers.grew("seriatim_fanout_seconds") == 1
        assert numbers.now("seriatim_channels_followed") == 1


async def test_those_who_catch_up_are_counted_too_and_their_state_is_told() -> None:
    async with connected() as peer:
        await peer.publish(ROOM, *range(10))
        numbers = Numbers()
        await peer.request("attach", channel=ROOM, **{"from": "start"}, window=4)
        await peer.messages(ROOM, 4)
        await aeventually(lambda: numbers.now("seriatim_attachments", "waiting_ack") == 1)
        assert numbers.now("seriatim_attachments", "level") == 0
        assert numbers.now("seriatim_furthest_behind_messages") == 6
        assert numbers.grew("seriatim_messages_delivered_total") == 4
        for upto, more in ((4, 4), (8, 2)):
            await peer.send({"type": "ack", "serials": {ROOM: upto}})
            await peer.messages(ROOM, more)
        await aeventually(lambda: numbers.now("seriatim_attachments", "level") == 1)
        assert numbers.grew("seriatim_messages_delivered_total") == 10
        assert numbers.now("seriatim_furthest_behind_messages") == 0
        assert numbers.grew("seriatim_block_cache_misses_total") == numbers.grew("seriatim_blocks_read_total") == 1
        assert numbers.grew("seriatim_block_cache_hits_total") >= 3
        assert numbers.now("seriatim_block_cache_bytes") > 0


async def test_one_whose_socket_takes_nothing_waits_for_that(realtime_settings: Any) -> None:
    realtime_settings(SOCKET_BUFFER_HIGH_BYTES=4096)
    async with connected() as slow, connected(text=token("bo")) as bo:
        numbers = Numbers()
        await slow.request("attach", channel=ROOM)
        slow.hold()
        for _ in range(4):
            await bo.publish(ROOM, "x" * 4000)
        await aeventually(lambda: numbers.now("seriatim_attachments", "waiting_socket") == 1)
        slow.take()
        assert len(await slow.messages(ROOM, 4)) == 4
        await aeventually(lambda: numbers.now("seriatim_attachments", "level") == 1)


async def test_gaps_are_counted_by_reason_with_what_they_lack() -> None:
    async with connected() as peer:
        published = await peer.publish(ROOM, *range(5))
        await in_thread(retention.prune, ChannelName(ROOM), 3)
        numbers = Numbers()
        await peer.request("attach", channel=ROOM, **{"from": {"epoch": published["epoch"], "serial": 1}})
        assert (await peer.read(type="skipped"))["reason"] == "retention"
        await peer.request("attach", channel=ROOM, **{"from": {"epoch": "another", "serial": 1}})
        assert (await peer.read(type="skipped", reason="epoch"))["from"] is None
    assert numbers.grew("seriatim_gaps_told_total", "retention") == 1
    assert numbers.grew("seriatim_gap_messages_total", "retention") == 2
    assert numbers.grew("seriatim_gaps_told_total", "epoch") == 1


async def test_holes_and_what_comes_twice_or_early_are_counted() -> None:
    async with connected() as peer:
        await peer.request("attach", channel=ROOM)
        await peer.publish(ROOM, "one")
        await peer.messages(ROOM, 1)
        hub = worker.ensure().hub
        numbers = Numbers()
        hear, hub.hear = hub.hear, lambda news: None  # type: ignore[method-assign]
        published = await peer.publish(ROOM, "two")
        hub.hear = hear  # type: ignore[method-assign]
        followed = hub._channels[ChannelName(ROOM)]
        assert followed.channel_id is not None
        third = await peer.publish(ROOM, "three")
        assert await peer.messages(ROOM, 2) == ["two", "three"]
        assert (published["serials"], third["serials"]) == ([2], [3])
        assert numbers.grew("seriatim_holes_total") == 1
        # The third was held behind the hole, and read together with the second.
        assert numbers.grew("seriatim_healed_messages_total") == 2
        assert numbers.grew("seriatim_announcements_early_total") == 1
        hub.hear(News(ChannelName(ROOM), followed.channel_id, third["epoch"], 3, ["late"]))
        assert numbers.grew("seriatim_announcements_duplicate_total") == 1


async def test_sweeps_are_counted_with_what_they_find(realtime_settings: Any) -> None:
    realtime_settings(SWEEP_MS=50, SWEEP_SUSPECT_MS=50, SWEEP_GRACE_MS=10)
    async with connected() as peer:
        await peer.publish(ROOM, "first")
        await peer.request("attach", channel=ROOM)
        hub = worker.ensure().hub
        numbers = Numbers()
        hub.hear = lambda news: None  # type: ignore[method-assign]
        await peer.publish(ROOM, "unheard")
        assert await peer.messages(ROOM, 1) == ["unheard"]
        await aeventually(lambda: numbers.grew("seriatim_sweep_seconds") >= 1)
        assert numbers.grew("seriatim_sweep_found_total", "behind") >= 1
        assert numbers.grew("seriatim_sweep_channels_total") >= numbers.grew("seriatim_sweep_seconds")


async def test_a_read_that_fails_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from realtime.log import reads

    def fail(*_: object) -> None:
        raise RuntimeError("no database")

    async with connected() as peer:
        numbers = Numbers()
        monkeypatch.setattr(reads, "read_states", fail)
        assert (await peer.request("attach", channel=ROOM))["code"] == "unavailable"
    assert numbers.grew("seriatim_database_errors_total", "reader") >= 1
    assert numbers.grew("seriatim_log_read_seconds") >= 1
    await aeventually(lambda: numbers.now("seriatim_log_reads_waiting") == 0)


async def test_the_outbox_is_counted_with_its_oldest() -> None:
    running = worker.ensure()
    await running.ready.wait()
    running.relay_outbox = lambda: None  # type: ignore[method-assign]

    def publish() -> None:
        with transaction.atomic():
            publishing.publish(ROOM, 1)
            publishing.publish(ROOM, 2)

    numbers = Numbers()
    await in_thread(publish)
    await asyncio.sleep(0.02)
    running._count_backlog()
    await aeventually(lambda: numbers.now("seriatim_outbox_messages", "waiting") == 2)
    assert 0.02 <= numbers.now("seriatim_outbox_oldest_seconds") < 60
    await in_thread(outbox.relay, lambda news: None, lambda channel: True)
    running._count_backlog()
    await aeventually(lambda: numbers.now("seriatim_outbox_messages", "waiting") == 0)
    assert numbers.now("seriatim_outbox_oldest_seconds") == 0


async def test_heartbeats_are_counted(realtime_settings: Any) -> None:
    realtime_settings(HEARTBEAT_MS=1000)
    async with connected() as peer:
        numbers = Numbers()
        await peer.read(type="heartbeat")
        assert numbers.grew("seriatim_heartbeats_sent_total") >= 1


async def test_one_number_that_cannot_be_read_does_not_take_the_others_along(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = worker.ensure()
    monkeypatch.setattr(running, "backlog", None)
    for _ in range(2):
        series = metrics.read(running).series
    assert {metric.name for metric in METRICS} - set(series) == {
        "seriatim_outbox_messages",
        "seriatim_outbox_oldest_seconds",
    }
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 2


async def test_the_snapshot_has_the_main_figures_as_plain_json() -> None:
    async with connected() as peer:
        await peer.request("attach", channel=ROOM)
        await peer.publish(ROOM, 1, 2)
        await peer.messages(ROOM, 2)
        running = worker.ensure()
        # Rounds are counted when they have been told.
        await aeventually(lambda: sum(running.counts.commit_seconds.counts) == 1)
        figures = metrics.snapshot(running)
    assert json.loads(json.dumps(figures)) == figures
    assert figures["worker"] == running.name
    assert figures["connections"] == {"websocket": 1}
    assert figures["attachments"]["level"] == 1
    assert figures["messages_published_total"]["socket"] == 2
    assert figures["messages_delivered_total"] == 2
    assert figures["publish_commit_seconds"][0] == 1
    assert {name.removeprefix("seriatim_") for name in (*metrics.reading.FIGURES, *metrics.reading.TIMES)} | {
        "worker"
    } == set(figures)


async def test_counting_needs_no_worker_of_its_own() -> None:
    """A process that only publishes (a shell, a command) counts nothing and fails at nothing."""
    await in_thread(publishing.publish, ROOM, 1)
    assert worker.current() is None
    assert counting.database_errors.copy().get("nothing", 0) == 0
