"""The hub, one situation at a time; tests/hub/test_hub_machine.py mixes them."""

from __future__ import annotations

import pytest

from realtime.hub import WRITE_BYTES_MOST, Overflow
from realtime.protocol import positions
from realtime.protocol.names import Epoch, Serial
from tests.hub.world import CHANNEL, Client, World


def test_what_is_published_after_head_arrives_in_order() -> None:
    world = World()
    client = world.client()
    world.loop.advance(1)
    for _ in range(5):
        world.publish(2)
    world.hear_all()
    world.loop.advance(0.1)
    assert [serial for _, serial in client.got] == list(range(1, 11))


def test_the_first_message_of_a_channel_is_preceded_by_its_epoch() -> None:
    world = World()
    client = world.client()
    world.loop.advance(1)
    assert client.attached
    assert client.position == 0
    world.publish()
    world.hear_all()
    world.loop.advance(0.1)
    assert (client.epoch, client.got) == ("e1", [("e1", 1)])


def test_a_delta_is_made_once_for_all_who_are_level() -> None:
    world = World()
    clients = [world.client(deltas=number % 3 > 0) for number in range(9)]
    world.loop.advance(1)
    for _ in range(4):
        world.publish()
        world.hear_all()
        world.loop.advance(0.1)
    assert (world.hub.deltas.whole, world.hub.deltas.made) == (1, 3)
    assert [client.deltas_got for client in clients] == [0, 3, 3] * 3
    # Who comes later gets the next one whole, and stands with the others from then on.
    late = world.client(deltas=True)
    world.loop.advance(1)
    for _ in range(2):
        world.publish()
        world.hear_all()
        world.loop.advance(0.1)
    assert (world.hub.deltas.whole, world.hub.deltas.made) == (2, 5)
    assert late.deltas_got == 1
    (levels,) = [levels for (_, deltas), levels in world.hub._channels[CHANNEL].levels.items() if deltas]
    assert [len(level.members) for level in levels] == [7]


@pytest.mark.parametrize("what", ["a skip", "another epoch", "conflation"])
def test_the_first_is_whole_behind(what: str) -> None:
    """Though the message before it is in memory. The client refuses a delta to what it was not sent."""
    world = World()
    client = world.client(deltas=True)
    world.loop.advance(1)

    def publish(count: int) -> None:
        world.publish(count)
        world.hear_all()
        world.loop.advance(0.1)

    for _ in range(3):
        publish(1)
    assert client.deltas_got == 2
    client.congest(True)
    if what == "conflation":
        world.set_overflow(Overflow.CONFLATE)
    publish(4)
    if what == "a skip":
        world.log.prune(5, physically=False)
    elif what == "another epoch":
        world.log.prune(5, physically=False)
        world.log.new_epoch()
        world.hub.sweep()
    world.loop.advance(1)
    before = client.deltas_got
    client.congest(False)
    world.loop.advance(1)
    assert client.position == 7 and client.skipped
    # Of 6 and 7, or of 4, 5 and 7.
    assert client.deltas_got - before == (0 if what == "conflation" else 1)
    publish(1)
    assert client.deltas_got - before == (1 if what == "conflation" else 2)


def test_swapped_announcements_cost_no_read() -> None:
    world = World()
    world.publish()
    client = world.client()
    world.loop.advance(1)
    first, second = world.publish(), world.publish()
    reads = world.reader.reads
    world.hub.hear(second)
    world.hub.hear(first)
    world.loop.advance(1)
    assert [serial for _, serial in client.got] == [1 + 1, 2 + 1]
    assert world.reader.reads == reads


def test_a_broadcast_is_spread_over_turns_of_the_loop_and_forgets_nobody() -> None:
    world = World(writes_a_turn=2)
    clients = [world.client(window=0) for _ in range(7)]
    world.publish()
    world.loop.advance(1)
    world.hear_all()
    world.loop.advance(0.5)
    assert [client.position for client in clients] == [1] * 7
    reads, payloads = world.reader.reads, world.hub.counts["payloads"]
    for _ in range(3):
        world.publish()
    world.hear_all()
    # In this turn the first set; the others when the loop comes round again, with all that came meanwhile in one write.
    assert sorted(client.position for client in clients) == [1, 1, 1, 1, 1, 2, 2]
    world.loop.advance(0)
    assert [client.position for client in clients] == [4] * 7
    assert world.hub.counts["payloads"] - payloads == 2 + 7
    assert world.reader.reads == reads


def test_who_is_so_late_that_memory_has_no_more_of_it_reads_on_from_the_log() -> None:
    world = World(writes_a_turn=1, cache_bytes=400, block_messages=1)
    clients = [world.client(window=0) for _ in range(3)]
    world.publish()
    world.loop.advance(1)
    world.hear_all()
    world.loop.advance(0.5)
    for _ in range(3):
        world.publish()
    world.hear_all()
    world.loop.advance(1)
    assert [client.position for client in clients] == [4] * 3


def test_a_hole_that_stays_is_read_from_the_log_once_for_all() -> None:
    world = World()
    world.publish()
    clients = [world.client() for _ in range(20)]
    world.loop.advance(1)
    world.publish()  # lost
    news = world.publish()
    reads = world.reader.reads
    world.hub.hear(news)
    world.loop.advance(0.02)
    assert all(not client.got for client in clients)
    world.loop.advance(1)
    assert all([serial for _, serial in client.got] == [2, 3] for client in clients)
    assert world.hub.counts["blocks_read"] == 1
    assert world.reader.reads - reads <= 1 + len(clients)


def test_what_no_announcement_told_is_found_by_the_sweep() -> None:
    world = World()
    client = world.client()
    world.loop.advance(1)
    world.publish(3)
    world.pending.clear()
    world.settle()
    assert [serial for _, serial in client.got] == [1, 2, 3]


def test_the_window_holds_exactly_and_an_ack_opens_it() -> None:
    world = World()
    client = world.client(window=3)
    world.loop.advance(1)
    world.publish(10)
    world.hear_all()
    world.loop.advance(1)
    assert client.position == 3
    client.ack(2)
    world.loop.advance(1)
    assert client.position == 5
    client.ack(5)
    world.loop.advance(1)
    assert client.position == 8


def test_a_window_of_bytes_lets_the_frame_that_crosses_it_through() -> None:
    world = World(window_bytes=1000)
    client = world.client(window=100)
    world.loop.advance(1)
    for _ in range(6):
        world.publish(1, size=280)
        world.hear_all()
        world.loop.advance(0.1)
    assert client.position == 3
    client.ack(1)
    world.loop.advance(1)
    assert client.position == 4
    client.ack(4)
    world.loop.advance(1)
    assert client.position == 6


def test_no_write_joins_more_than_a_socket_should_have_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(cache_bytes=1 << 20)
    world.publish(30, size=10_000)
    level, behind = world.client(), world.client(position=positions.Start())
    writes: list[int] = []
    for client in (level, behind):

        def write(payload: tuple[str, ...], client: Client = client) -> None:
            writes.append(sum(map(len, payload)))
            Client.write(client, payload)

        monkeypatch.setattr(client, "write", write)
        monkeypatch.setattr(client, "writer", write)
    world.loop.advance(1)
    world.publish(30, size=10_000)
    world.publish(1, size=100_000)
    world.hear_all()
    world.loop.advance(1)
    assert (level.position, behind.position) == (61, 61)
    # A single frame goes out whole, whatever its size; the frame that crosses the mark is still sent.
    assert sorted(writes)[-2:] == [sorted(writes)[-1]] * 2 and sorted(writes)[-1] > 100_000
    assert sorted(writes)[-3] < WRITE_BYTES_MOST + 11_000


def test_acks_beyond_what_was_sent_are_forgiven_until_the_first_valid_one() -> None:
    world = World()
    world.publish(5)
    client = world.client(window=10, position=positions.Start())
    world.loop.advance(1)
    assert client.ack(50)
    assert client.ack(3)
    assert not client.ack(50)
    assert client.ack(5)


def test_retention_that_overtakes_a_waiting_subscriber_is_told() -> None:
    world = World()
    world.publish(40)
    client = world.client(window=4, position=positions.Start())
    world.loop.advance(1)
    assert client.position == 4
    world.log.prune(20, physically=False)
    client.ack(4)
    world.loop.advance(1)
    assert [(frame["from"], frame["to"], frame["reason"]) for frame in client.skipped] == [(5, 20, "retention")]
    assert client.position == 24


def test_a_new_epoch_is_told_to_all_and_read_from_its_start() -> None:
    world = World()
    world.publish(4)
    level, behind = world.client(), world.client(window=2, position=positions.Start())
    world.loop.advance(1)
    world.log.new_epoch()
    world.settle()
    for client in (level, behind):
        assert (client.epoch, client.position) == ("e2", 4)
        assert client.skipped[-1]["reason"] == "epoch"


def test_a_subscriber_that_attached_ahead_of_the_news_waits_for_it() -> None:
    world = World()
    early = world.client()
    world.loop.advance(1)
    world.publish(3)
    late = world.client()
    world.loop.advance(0.01)
    assert late.position == 3
    assert early.position <= 3
    world.hear_all()
    world.publish()
    world.hear_all()
    world.loop.advance(1)
    assert [serial for _, serial in late.got] == [4]
    assert [serial for _, serial in early.got] == [1, 2, 3, 4]


def test_a_channel_nobody_follows_is_let_go_after_a_while() -> None:
    world = World()
    client = world.client()
    world.loop.advance(1)
    client.detach()
    world.loop.advance(1)
    assert CHANNEL in world.following.channels
    world.loop.advance(10)
    assert not world.following.channels
    assert world.hub.occupancy(CHANNEL) == 0


def test_a_row_that_is_missing_without_a_reason_ends_the_attachment_loudly(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.publish(5)
    del world.log.rows[3]
    client = world.client(position=positions.Start())
    world.settle()
    assert client.position == 2
    assert client.ended == "internal"
    assert "no message 3" in caplog.text


@pytest.mark.parametrize("most_rows", [1, 3, 5])
def test_a_read_that_ends_before_the_wanted_message_is_no_hole(most_rows: int) -> None:
    """Blocks of 8 messages, of which a read gives fewer: each position in a block must be reached."""
    world = World()
    world.publish(30)
    world.reader.most_rows = most_rows
    clients = [world.client(0, positions.Resume(Epoch("e1"), Serial(position))) for position in (20, 6, 0, 13, 29)]
    world.loop.advance(3)
    for client, position in zip(clients, (20, 6, 0, 13, 29), strict=True):
        assert client.ended is None
        assert [serial for _, serial in client.got] == list(range(position + 1, 31))


def test_slow_subscribers_cost_no_memory_per_message() -> None:
    world = World(cache_bytes=20_000)
    client = world.client(window=4)
    world.loop.advance(1)
    for _ in range(2000):
        world.publish()
        world.hear_all()
        world.loop.advance(0.001)
    assert client.position == 4
    assert world.hub._blocks.bytes <= 20_000
    followed = world.hub._channels[CHANNEL]
    assert len(followed.ledger) <= 8192
    world.settle(seconds=40)
    assert client.position == 2000


def test_a_sweep_waits_for_the_one_before() -> None:
    world = World()
    world.publish()
    world.client()
    world.loop.advance(1)
    reads = world.reader.reads
    assert world.hub.sweep()
    assert not world.hub.sweep() and not world.hub.sweep(lambda channel: True)
    world.loop.advance(1)
    assert world.reader.reads == reads + 1
    world.reader.away = True
    assert world.hub.sweep()
    world.loop.advance(1)
    assert world.hub.sweep(), "a read that failed is over"


def test_a_sweep_may_be_for_some_channels_only() -> None:
    world = World()
    client = world.client()
    world.loop.advance(1)
    world.publish()  # lost
    world.hub.sweep(lambda channel: channel != CHANNEL)
    world.loop.advance(1)
    assert not client.got
    world.hub.sweep(lambda channel: channel == CHANNEL)
    world.loop.advance(1)
    assert [serial for _, serial in client.got] == [1]


def test_a_head_that_fell_is_told_as_a_new_epoch() -> None:
    world = World()
    clients = [world.client(), world.client(window=10)]
    world.loop.advance(1)
    world.publish(5)
    world.hear_all()
    world.loop.advance(0.1)
    world.log.fall(3)
    world.hub.sweep()
    world.loop.advance(1)
    assert world.hub.counts["fallen"] == 1
    for client in clients:
        assert (client.epoch, client.position) == ("e2", 3)
        assert client.got == [*(("e1", serial) for serial in range(1, 6)), *(("e2", serial) for serial in range(1, 4))]
        assert [frame["reason"] for frame in client.skipped] == ["epoch"]


def test_who_is_behind_when_the_head_falls_is_told_and_not_sent_away() -> None:
    world = World(cache_bytes=6000, window_bytes=100_000)  # one block of eight
    client = world.client(window=8, position=positions.Start())
    world.loop.advance(1)
    world.publish(20, size=400)
    world.hear_all()
    world.loop.advance(1)
    assert client.position == 8
    world.log.fall(9)
    for _ in range(3):
        client.ack(client.position)
        world.loop.advance(1)
    assert client.ended is None
    assert (client.epoch, client.position) == ("e2", 9)


def test_a_sweep_that_is_older_than_what_was_heard_says_nothing_about_the_head() -> None:
    world = World()
    client = world.client()
    world.publish()
    world.hear_all()
    world.loop.advance(1)
    world.hub.sweep()
    world.loop.advance(world.reader.begins_after_s + world.reader.takes_s / 2)
    world.publish(3)
    world.hear_all()
    world.loop.advance(1)
    assert client.position == 4
    assert (client.epoch, client.skipped) == ("e1", [])
    assert world.hub.counts["fallen"] == 0
