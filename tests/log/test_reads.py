"""Reads: states, ranges, snapshots and pages, also while retention overtakes them."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from typing import Any, Literal

import msgspec
import pytest
from django.db import connection, connections
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realtime.log import (
    NEVER_USED,
    Append,
    LogState,
    Rounds,
    delete_chunks,
    find_since,
    new_epoch,
    prune,
    read_heads,
    read_messages,
    read_page,
    read_ranges,
    read_snapshot,
    read_states,
    reading,
    reads,
)
from realtime.log.reads import read_changes
from realtime.log.types import Known
from realtime.models import Channel, Message
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName
from tests.conftest import eventually
from tests.log.world import (
    ALPHA,
    BETA,
    GAMMA,
    append,
    channel_id_of,
    check_log,
    message,
    other_connection,
    publish,
    rows,
    writing,
)

pytestmark = pytest.mark.usefixtures("log")

FAR_MS = 10**15
_numbers = itertools.count()


def fill(channel: ChannelName, count: int, *, data: str = "1") -> LogState:
    publish(Append(channel, "ana", [message(f"m{i}", data) for i in range(1, count + 1)]))
    return read_states([channel])[channel]


def serials(envelopes: list[str]) -> list[int]:
    return [msgspec.json.decode(envelope)["serial"] for envelope in envelopes]


# -- states -----------------------------------------------------------------------------------------------------------


def test_states_of_used_unused_and_unknown_channels() -> None:
    state = fill(ALPHA, 3)
    made = Channel.objects.create(name="beta", namespace_id="default")
    states = read_states([ALPHA, BETA, GAMMA])
    assert states[ALPHA] == LogState(state.channel_id, state.epoch, 1, 3, state.last_time)
    assert states[BETA] == (made.pk, None, 1, 0, 0)
    assert states[GAMMA] == NEVER_USED
    assert read_states([]) == {}


def test_heads_of_many_logs_in_one_query(django_assert_num_queries: Any) -> None:
    names = [ChannelName(f"head{i}") for i in range(1500)]
    publish(*[append(name, "a") for name in names])
    with django_assert_num_queries(1):
        states = read_states(names)
    ids = [state.channel_id for state in states.values() if state.channel_id is not None]
    with django_assert_num_queries(1):
        heads = read_heads([*ids, 10**9])
    assert heads == {state.channel_id: state for state in states.values()}
    assert read_heads([]) == {}


def test_changes_are_told_of_logs_that_are_not_what_was_known(django_assert_num_queries: Any) -> None:
    names = [ChannelName(f"known{i}") for i in range(700)]
    publish(*[append(name, "a") for name in names])
    states = read_states(names)
    known: dict[ChannelName, Known] = {
        name: (state.channel_id, state.epoch, state.head) for name, state in states.items()
    }
    with django_assert_num_queries(1):
        assert read_changes(known) == {}
    # Behind; of another epoch; deleted and made anew under the same name; not there; only there by now.
    behind, renewed, remade, gone, new = names[0], names[1], names[2], names[3], ChannelName("new")
    publish(append(behind, "b"))
    new_epoch(renewed)
    Channel.objects.filter(name__in=[remade, gone]).delete()
    publish(append(remade, "b"), append(new, "b"))
    known |= {new: (None, None, 0), GAMMA: (None, None, 0)}
    found = read_changes(known)
    assert found == {name: state for name, state in read_states(known).items() if name in found}
    assert set(found) == {behind, renewed, remade, gone, new}
    assert found[gone] == NEVER_USED
    # A head below what is known is a change as well: the hub has heard more since, or the database went back.
    assert set(read_changes({behind: (states[behind].channel_id, states[behind].epoch, 99)})) == {behind}
    assert read_changes({}) == {}


# -- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "upto", "most", "order", "expected"),
    [
        (0, 9, 100, "asc", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (2, 5, 100, "asc", [3, 4, 5]),
        (2, 9, 2, "asc", [3, 4]),
        (2, 9, 2, "desc", [9, 8]),
        (9, 20, 5, "asc", []),
        (5, 5, 5, "asc", []),
    ],
)
def test_messages_of_a_range(after: int, upto: int, most: int, order: Any, expected: list[int]) -> None:
    state = fill(ALPHA, 9)
    fill(BETA, 3)
    assert state.channel_id is not None
    found = read_messages(state.channel_id, after, upto, max_messages=most, max_bytes=10**6, order=order)
    assert [serial for serial, _ in found] == expected
    everything = {row.serial: row.envelope for row in rows(ALPHA)}
    assert all(envelope == everything[serial] for serial, envelope in found)


@pytest.mark.parametrize("text", ["x", "ä", "😀"])
def test_bytes_bound_a_read_but_one_message_always_fits(text: str) -> None:
    state = fill(ALPHA, 6, data='"' + text * 100 + '"')
    assert state.channel_id is not None
    size = len(rows(ALPHA)[0].envelope.encode())
    orders: tuple[Literal["asc", "desc"], ...] = ("asc", "desc")
    for most_bytes, expected in ((1, 1), (size, 1), (2 * size - 1, 1), (2 * size, 2), (3 * size + 1, 3), (10**6, 6)):
        for order in orders:
            found = read_messages(
                state.channel_id,
                0,
                6,
                max_messages=100,
                max_bytes=most_bytes,
                order=order,
            )
            assert len(found) == expected


def test_ranges_of_many_channels_in_one_query(django_assert_num_queries: Any) -> None:
    ids = [fill(name, 9).channel_id or 0 for name in (ALPHA, BETA, GAMMA)]
    with django_assert_num_queries(1):
        found = read_ranges([(ids[2], 0, 9), (ids[0], 6, 8), (ids[1], 9, 12), (10**9, 0, 5)], 4)
    assert {id_: [serial for serial, _ in some] for id_, some in found.items()} == {
        ids[2]: [1, 2, 3, 4],
        ids[0]: [7, 8],
        ids[1]: [],
        10**9: [],
    }
    assert found[ids[0]][0][1] == rows(ALPHA)[6].envelope
    assert read_ranges([], 4) == {}


def test_ranges_are_bounded_in_bytes_all_together() -> None:
    ids = [fill(name, 9).channel_id or 0 for name in (ALPHA, BETA)]
    size = len(rows(ALPHA)[0].envelope)
    found = read_ranges([(ids[0], 0, 9), (ids[1], 0, 9)], 100, max_bytes=11 * size)
    assert [serial for serial, _ in found[ids[0]]] == list(range(1, 10))
    assert 0 < len(found[ids[1]]) < 9
    assert len(read_ranges([(ids[1], 0, 9)], 100, max_bytes=1)[ids[1]]) == 1


def test_a_snapshot_is_the_newest_of_each_key_also_behind_retention() -> None:
    publish(Append(ALPHA, "ana", [message("a", key="k"), message("b", key="l"), message("c", key="k"), message("d")]))
    publish(Append(ALPHA, "ana", [message("e", key="m")]))
    id_ = channel_id_of(ALPHA)
    prune(ALPHA, 4)
    delete_chunks(now_ms=FAR_MS)
    state, found = read_snapshot(id_, 10)
    assert state == read_states([ALPHA])[ALPHA]
    assert [serial for serial, _ in found] == [2, 3, 5]
    assert [serial for serial, _ in read_snapshot(id_, 2)[1]] == [3, 5]
    assert read_snapshot(id_, 0) == (state, [])
    assert read_snapshot(10**9, 5) == (NEVER_USED._replace(channel_id=10**9), [])


# -- since ------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(steps=st.lists(st.integers(0, 3), min_size=1, max_size=40), pruned=st.integers(0, 20))
def test_since_finds_the_first_message_that_is_not_earlier(steps: list[int], pruned: int) -> None:
    name = ChannelName(f"since{next(_numbers)}")
    now = 1000
    times = []
    for step in steps:
        now += step
        times.append(now)
    clock = iter(times)
    runner = Rounds(clock=lambda: next(clock))
    for i in range(len(times)):
        runner.run([append(name, f"m{i}")])
    prune(name, min(pruned, len(times)))
    state = read_states([name])[name]
    for since in range(times[0] - 1, now + 3):
        young = [serial for serial, at in enumerate(times, 1) if at >= since and serial >= state.oldest]
        assert find_since(state, since) == (young[0] - 1 if young else state.head)


def test_since_of_a_channel_never_used_is_its_start() -> None:
    assert find_since(NEVER_USED, 5) == 0


def test_since_takes_rows_that_went_meanwhile_for_older() -> None:
    clock = iter(range(1, 11))
    runner = Rounds(clock=lambda: next(clock))
    for i in range(10):
        runner.run([append(ALPHA, f"m{i}")])
    state = read_states([ALPHA])[ALPHA]
    Message.objects.filter(serial__lte=6).delete()
    assert find_since(state, 5) == 6
    assert find_since(state, 9) == 8


# -- pages ------------------------------------------------------------------------------------------------------------


def test_a_channel_never_used_is_an_empty_page() -> None:
    page = read_page(ALPHA, after=5)
    assert (page.epoch, page.oldest, page.head, page.messages, page.more, page.skipped) == (None, 1, 0, [], False, None)


@pytest.mark.parametrize(
    ("asked", "expected", "more"),
    [
        ({}, [9, 8, 7, 6, 5, 4, 3, 2, 1], False),
        ({"order": "asc"}, [1, 2, 3, 4, 5, 6, 7, 8, 9], False),
        ({"limit": 3}, [9, 8, 7], True),
        ({"limit": 9}, [9, 8, 7, 6, 5, 4, 3, 2, 1], False),
        ({"order": "asc", "limit": 3}, [1, 2, 3], True),
        ({"after": 6}, [7, 8, 9], False),
        ({"after": 6, "limit": 3}, [7, 8, 9], False),
        ({"after": 6, "limit": 2}, [7, 8], True),
        ({"after": 6, "order": "desc"}, [9, 8, 7], False),
        ({"after": 6, "order": "desc", "limit": 2}, [9, 8], True),
        ({"before": 3}, [2, 1], False),
        ({"before": 3, "limit": 1}, [2], True),
        ({"before": 3, "order": "asc"}, [1, 2], False),
        ({"after": 3, "before": 7}, [4, 5, 6], False),
        ({"after": 3, "before": 7, "limit": 3}, [4, 5, 6], False),
        ({"after": 3, "before": 7, "limit": 2}, [4, 5], True),
        ({"after": 9}, [], False),
        ({"after": 20}, [], False),
        ({"before": 1}, [], False),
        ({"before": 99}, [9, 8, 7, 6, 5, 4, 3, 2, 1], False),
        ({"after": 5, "before": 5}, [], False),
        ({"since": 0}, [1, 2, 3, 4, 5, 6, 7, 8, 9], False),
        ({"since": 10**15}, [], False),
        ({"since": 0, "limit": 2}, [1, 2], True),
        ({"since": 0, "order": "desc", "limit": 2}, [9, 8], True),
    ],
)
def test_pages_of_a_whole_log(asked: dict[str, Any], expected: list[int], more: bool) -> None:
    state = fill(ALPHA, 9)
    page = read_page(ALPHA, **asked)
    assert (serials(page.messages), page.more) == (expected, more)
    assert (page.epoch, page.oldest, page.head, page.skipped) == (state.epoch, 1, 9, None)


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize(
    ("asked", "expected", "more", "skipped"),
    [
        ({"after": 2}, [7, 8, 9, 10], False, (3, 6)),
        ({"after": 0}, [7, 8, 9, 10], False, (1, 6)),
        ({"after": 2, "limit": 1}, [7], True, (3, 6)),
        ({"after": 6}, [7, 8, 9, 10], False, None),
        ({"after": 8}, [9, 10], False, None),
        ({"after": 2, "before": 5}, [], False, (3, 4)),
        ({"after": 2, "before": 9}, [7, 8], False, (3, 6)),
        ({"after": 2, "order": "desc"}, [10, 9, 8, 7], False, (3, 6)),
        ({"after": 2, "order": "desc", "limit": 2}, [10, 9], True, None),
        ({}, [10, 9, 8, 7], False, None),
        ({"order": "asc"}, [7, 8, 9, 10], False, None),
        ({"before": 9, "limit": 1}, [8], True, None),
        ({"before": 9, "limit": 4}, [8, 7], False, (5, 6)),
        ({"before": 9}, [8, 7], False, (1, 6)),
        ({"before": 4}, [], False, (1, 3)),
        ({"before": 9, "order": "asc"}, [7, 8], False, (1, 6)),
        ({"since": 0}, [7, 8, 9, 10], False, None),
        ({"since": 0, "after": 2}, [7, 8, 9, 10], False, (3, 6)),
        ({"since": 0, "after": 8}, [9, 10], False, None),
    ],
)
def test_pages_tell_what_retention_took(
    deleted: bool, asked: dict[str, Any], expected: list[int], more: bool, skipped: tuple[int, int] | None
) -> None:
    fill(ALPHA, 10)
    prune(ALPHA, 6)
    if deleted:
        delete_chunks(now_ms=FAR_MS)
    page = read_page(ALPHA, **asked)
    assert (serials(page.messages), page.more, page.oldest, page.head) == (expected, more, 7, 10)
    assert page.skipped == (None if skipped is None else (*skipped, "retention"))


def test_a_page_of_an_empty_log() -> None:
    fill(ALPHA, 4)
    prune(ALPHA, 4)
    page = read_page(ALPHA, after=1)
    assert (page.messages, page.more, page.oldest, page.head, page.skipped) == ([], False, 5, 4, (2, 4, "retention"))
    assert read_page(ALPHA).skipped is None


def test_a_page_is_bounded_in_bytes() -> None:
    fill(ALPHA, 30, data='"' + "x" * 50_000 + '"')
    got: list[int] = []
    more = True
    while more:
        page = read_page(ALPHA, after=got[-1] if got else 0, limit=1000)
        assert 0 < sum(map(len, page.messages)) <= 512 * 1024
        got += serials(page.messages)
        more = page.more
    assert got == list(range(1, 31))


def overtake(monkeypatch: pytest.MonkeyPatch, upto: list[int]) -> None:
    """Retention takes everything through `upto[i]` right after the rows of the i-th read."""
    real = reads.read_messages

    def read(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        if upto:
            prune(ALPHA, upto.pop(0))
            delete_chunks(now_ms=FAR_MS)
        return found

    monkeypatch.setattr(reads, "read_messages", read)


@pytest.mark.parametrize(
    ("upto", "asked", "expected", "more", "skipped"),
    [
        ([4], {"after": 2, "limit": 4}, [5, 6, 7, 8], True, (3, 4)),
        ([8], {"after": 2, "limit": 4}, [9, 10], False, (3, 8)),
        ([10], {"after": 2}, [], False, (3, 10)),
        ([4, 6, 8], {"after": 2, "limit": 1}, [9], True, (3, 8)),
        ([8], {"before": 10, "limit": 3}, [9], False, (7, 8)),
        ([8], {"limit": 5}, [10, 9], False, None),
    ],
)
def test_a_page_explains_its_gaps_by_what_it_read_after_the_rows(
    upto: list[int],
    asked: dict[str, Any],
    expected: list[int],
    more: bool,
    skipped: tuple[int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(ALPHA, 10)
    last = upto[-1]
    overtake(monkeypatch, upto)
    page = read_page(ALPHA, **asked)
    assert (serials(page.messages), page.more, page.oldest) == (expected, more, last + 1)
    assert page.skipped == (None if skipped is None else (*skipped, "retention"))


def test_a_page_tells_the_epoch_of_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(ALPHA, 3)
    real = reads.read_messages
    given: list[str] = []

    def read(*arguments: Any, **options: Any) -> Any:
        given.append(new_epoch(ALPHA))
        return real(*arguments, **options)

    monkeypatch.setattr(reads, "read_messages", read)
    page = read_page(ALPHA, after=0)
    assert (page.epoch, serials(page.messages)) == (given[-1], [1, 2, 3])


def test_readers_racing_publishers_and_retention_see_no_unexplained_gap() -> None:
    """Readers follow the log page by page while it grows, is pruned, and rows are deleted behind it."""
    total = 1500
    done = threading.Event()
    faults: list[str] = []
    counts = {"skipped": 0, "read": 0, "deleted": 0}

    def overtaken(position: int) -> bool:
        return read_states([ALPHA])[ALPHA].oldest > position + 1

    def follow(limit: int) -> None:
        position = 0
        while position < total:
            page = read_page(ALPHA, after=position, limit=limit)
            got = serials(page.messages)
            first = position + 1
            if page.skipped is not None:
                counts["skipped"] += 1
                if page.skipped.first != first:
                    faults.append(f"skipped from {page.skipped.first} at {position}")
                first = page.skipped.last + 1
                position = page.skipped.last
            if got and got != list(range(first, first + len(got))):
                faults.append(f"after {position}: {got} with {page.skipped}")
            counts["read"] += len(got)
            position = got[-1] if got else position
            if limit == 3 and position < total - 100:
                # The slow one reads on when retention has overtaken it.
                eventually(partial(overtaken, position))
        connection.close()

    def forget() -> None:
        while not done.is_set():
            state = read_states([ALPHA])[ALPHA]
            if state.head > 40:
                prune(ALPHA, state.head - 20)
                counts["deleted"] += delete_chunks(now_ms=FAR_MS, pause=lambda _: None)
        connection.close()

    with writing() as world:
        world.publish(append(ALPHA, "m1"))
        threads = [threading.Thread(target=follow, args=[limit]) for limit in (3, 50)]
        forgetting = threading.Thread(target=forget)
        for thread in (*threads, forgetting):
            thread.start()
        for i in range(2, total + 1, 7):
            world.publish(append(ALPHA, *[f"m{j}" for j in range(i, min(i + 7, total + 1))]))
        for thread in threads:
            thread.join()
        done.set()
        forgetting.join()
    assert not faults, faults[:5]
    assert all(counts.values()), counts
    check_log(ALPHA)


# -- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_a_read_replaces_a_connection_that_the_server_closed() -> None:
    fill(ALPHA, 2)
    with other_connection() as other:
        other.execute("SELECT pg_terminate_backend(%s)", [connection.connection.info.backend_pid])
    assert read_states([ALPHA])[ALPHA].head == 2


@pytest.mark.postgres
def test_reading_closes_a_connection_that_broke() -> None:
    with pytest.raises(ProtocolError) as raised, reading() as cursor, other_connection() as other:
        other.execute("SELECT pg_terminate_backend(%s)", [connection.connection.info.backend_pid])
        cursor.execute("SELECT 1")
    assert raised.value.code == "unavailable"
    assert connections["default"].connection is None
    with reading() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_a_thread_keeps_its_connection() -> None:
    fill(ALPHA, 1)
    before = connection.connection
    read_states([ALPHA])
    read_page(ALPHA)
    assert connection.connection is before
