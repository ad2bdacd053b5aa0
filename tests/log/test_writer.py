"""The writer: a thread, a bounded queue, stuck channels, stopping and dying."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection, connections

from realtime.log import Append, LogWriter, News, RoundStats, run_round_now
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName
from tests.conftest import MS, eventually
from tests.log.world import (
    ALPHA,
    BETA,
    GAMMA,
    append,
    check_log,
    code,
    log_locked,
    other_connection,
    publish,
    rows,
    stored,
    writing,
)


@pytest.mark.usefixtures("log")
def test_what_is_submitted_is_stored_in_order_and_told_once() -> None:
    with writing() as world:
        appends = [append((ALPHA, BETA)[i % 2], f"m{i}") for i in range(100)]
        world.publish(*appends)
    world.check_told(appends)
    assert [row.mid for row in check_log(ALPHA)] == [f"m{i}" for i in range(0, 100, 2)]
    assert [row.mid for row in check_log(BETA)] == [f"m{i}" for i in range(1, 100, 2)]


@pytest.mark.usefixtures("log")
def test_what_waits_becomes_one_round() -> None:
    seen: list[RoundStats] = []
    with writing(on_stats=seen.append) as world:
        world.go_on.clear()
        world.submit(append(ALPHA, "first"))
        eventually(lambda: world.settled)
        world.submit(*[append(ALPHA, f"m{i}", "x") for i in range(20)])
        world.go_on.set()
    assert [(stats.appends_count, stats.messages_count) for stats in seen] == [(1, 1), (20, 40)]
    assert all(stats.waited_s >= 0 and stats.took_s > 0 for stats in seen)


@pytest.mark.usefixtures("log")
def test_a_round_is_bounded(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(ROUND_MAX_MESSAGES=7)
    seen: list[RoundStats] = []
    with writing(on_stats=seen.append) as world:
        world.go_on.clear()
        world.submit(append(ALPHA, "first"))
        eventually(lambda: world.settled)
        world.submit(*[append(ALPHA, f"m{i}", f"n{i}") for i in range(5)], append(ALPHA, *[f"o{i}" for i in range(9)]))
        world.go_on.set()
    assert [stats.messages_count for stats in seen] == [1, 6, 4, 9]
    check_log(ALPHA)


@pytest.mark.usefixtures("refusing_rows")
def test_many_threads_publish_to_the_same_and_to_many_channels() -> None:
    """Duplicates across threads, bad rows in the middle, and rounds of other threads besides the writer's."""
    channels = [ChannelName(f"thread{i}") for i in range(5)]
    submitted: list[list[Append]] = [[] for _ in range(6)]
    refused: list[tuple[Append, Append]] = []
    directly: list[Append] = []

    def submit(number: int) -> None:
        mine = submitted[number]
        for i in range(60):
            shared = append(channels[i % 5], f"shared{i}", f"also{i}", client="all")
            own = append(channels[(i + number) % 5], f"own{i}", client=f"c{number}")
            for each in (shared, own):
                mine.append(each)
                world.submit(each)
            if i % 6 == 0:
                bad = append(channels[i % 5], f"fine{i}", "bad", client=f"c{number}")
                after = append(channels[i % 5], f"after{i}", client=f"c{number}", previous=bad)
                refused.append((bad, after))
                world.submit(bad, after)

    def round_by_round() -> None:
        for i in range(60):
            each = append(channels[i % 5], f"shared{i}", f"also{i}", client="all")
            directly.append(each)
            run_round_now([each])
        connection.close()

    with writing() as world:
        threads = [threading.Thread(target=submit, args=[number]) for number in range(6)]
        threads.append(threading.Thread(target=round_by_round))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        everything = [each for mine in submitted for each in mine]
        failed = [each for pair in refused for each in pair]
        world.wait(*everything, *failed)

    world.check_told([*everything, *failed])
    assert all(stored(each.outcome) for each in everything)
    assert {(code(bad.outcome), code(after.outcome)) for bad, after in refused} == {("internal", "order")}
    serials: dict[str, set[tuple[int, ...]]] = {}
    for each in [*everything[0::2], *directly]:
        serials.setdefault(str(each.messages[0].id), set()).add(tuple(stored(each.outcome)))
    assert all(len(answers) == 1 for answers in serials.values()), serials
    assert sum(len(check_log(channel)) for channel in channels) == 2 * 60 + 6 * 60


# -- the queue --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("bound", ["WRITER_QUEUE_MESSAGES", "WRITER_QUEUE_BYTES"])
def test_a_full_queue_refuses_and_recovers(bound: str, realtime_settings: Callable[..., None]) -> None:
    realtime_settings(**{bound: 10 if bound == "WRITER_QUEUE_MESSAGES" else 10 * 257})
    with writing() as world:
        world.go_on.clear()
        accepted = [append(ALPHA, f"m{i}") for i in range(10)]
        world.submit(accepted[0])
        eventually(lambda: world.settled)
        world.submit(*accepted[1:])
        eventually(lambda: world.writer.queued()[0] == 9)
        world.submit(extra := append(ALPHA, "fits"))
        with pytest.raises(ProtocolError) as refused:
            world.submit(append(ALPHA, "too much"))
        assert refused.value.code == "unavailable"
        assert refused.value.retry_after_ms
        world.go_on.set()
        world.wait(*accepted, extra)
        assert world.writer.queued() == (0, 0)
        assert stored(world.publish(append(ALPHA, "again"))[0]) == [12]


@pytest.mark.usefixtures("log")
def test_an_append_larger_than_the_queue_goes_when_it_is_empty(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(WRITER_QUEUE_MESSAGES=5)
    with writing() as world:
        assert len(stored(world.publish(append(ALPHA, *[f"m{i}" for i in range(9)]))[0])) == 9


# -- stopping and dying -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("log")
def test_stop_stores_what_waits_and_refuses_the_rest() -> None:
    with writing() as world:
        appends = [append(ALPHA, f"m{i}") for i in range(300)]
        world.submit(*appends)
        assert world.writer.stop(20_000 * MS)
        assert [stored(each.outcome) for each in appends] == [[i + 1] for i in range(300)]
        with pytest.raises(ProtocolError) as refused:
            world.submit(append(ALPHA, "late"))
        assert refused.value.code == "unavailable"
    world.check_told(appends)


@pytest.mark.usefixtures("log")
def test_stop_gives_up_what_waits_when_its_time_is_over() -> None:
    with writing() as world:
        world.go_on.clear()
        first, second = append(ALPHA, "a"), append(ALPHA, "b")
        world.submit(first)
        eventually(lambda: world.settled)
        world.submit(second)
        threading.Timer(50 * MS, world.go_on.set).start()
        assert not world.writer.stop(1 * MS)
        assert code(second.outcome) == "unavailable"
    world.check_told([first, second])
    assert [row.mid for row in check_log(ALPHA)] == ["a"]


def test_a_writer_that_was_not_started_refuses() -> None:
    with pytest.raises(ProtocolError) as refused:
        LogWriter(lambda appends, news: None).submit(append(ALPHA, "a"))
    assert refused.value.code == "unavailable"


@pytest.mark.usefixtures("log")
def test_an_exception_in_on_round_is_survived() -> None:
    done = threading.Event()
    failures: list[int] = []

    def on_round(appends: list[Append], news: list[News]) -> None:
        if not failures:
            failures.append(1)
            raise ZeroDivisionError
        done.set()

    writer = LogWriter(on_round)
    writer.start()
    writer.submit(append(ALPHA, "a"))
    eventually(lambda: failures)
    writer.submit(append(ALPHA, "b"))
    assert done.wait(10_000 * MS)
    assert writer.stop(10_000 * MS)
    assert [row.mid for row in check_log(ALPHA)] == ["a", "b"]


@pytest.mark.usefixtures("log")
def test_a_thread_that_dies_settles_what_waits_and_then_refuses() -> None:
    told: list[Append] = []
    go_on = threading.Event()

    def on_round(appends: list[Append], news: list[News]) -> None:
        first = not told
        told.extend(appends)
        if first:
            assert go_on.wait(10_000 * MS)
            raise SystemExit

    writer = LogWriter(on_round)
    writer.start()
    first, second = append(ALPHA, "a"), append(ALPHA, "b")
    writer.submit(first)
    eventually(lambda: told)
    writer.submit(second)
    go_on.set()
    eventually(lambda: second in told)
    assert (stored(first.outcome), code(second.outcome)) == ([1], "unavailable")

    def refused() -> bool:
        try:
            writer.submit(append(ALPHA, "c"))
        except ProtocolError as error:
            return error.code == "unavailable"
        return False

    eventually(refused)


@pytest.mark.usefixtures("log")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_refuses_at_once() -> None:
    with writing() as world:
        world.publish(append(ALPHA, "a"))
        # The lock is held while we fork, as another thread may do at that moment.
        with world.writer._changed:
            child = os.fork()
            if child == 0:
                try:
                    world.writer.submit(append(ALPHA, "child"))
                except ProtocolError as error:
                    os._exit(0 if error.code == "unavailable" else 1)
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert stored(world.publish(append(ALPHA, "b"))[0]) == [2]


# -- locked logs ------------------------------------------------------------------------------------------------------


@pytest.mark.postgres
@pytest.mark.usefixtures("log")
def test_a_stuck_channel_does_not_stop_the_others_and_keeps_its_order(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(LOCK_TIMEOUT_MS=20, STUCK_CHANNEL_MS=60_000)
    publish(append(ALPHA, "zero"), append(BETA, "zero"))
    with writing() as world:
        stuck = [append(ALPHA, f"m{i}") for i in range(5)]
        stuck.append(append(ALPHA, "chained", previous=stuck[-1]))
        with log_locked(ALPHA):
            for i, each in enumerate(stuck):
                world.submit(each)
                assert stored(world.publish(append(BETA, f"m{i}"))[0]) == [i + 2]
            assert not any(each.outcome for each in stuck)
        assert [stored(outcome) for outcome in world.wait(*stuck)] == [[i + 2] for i in range(6)]
        assert stored(world.publish(append(ALPHA, "last"))[0]) == [8]
    assert [row.mid for row in check_log(ALPHA)] == ["zero", "m0", "m1", "m2", "m3", "m4", "chained", "last"]


@pytest.mark.postgres
@pytest.mark.usefixtures("log")
def test_a_channel_that_stays_stuck_is_unavailable_and_works_afterwards(
    realtime_settings: Callable[..., None],
) -> None:
    realtime_settings(LOCK_TIMEOUT_MS=20, STUCK_CHANNEL_MS=150)
    publish(append(ALPHA, "zero"), append(BETA, "zero"))
    with writing() as world:
        first = append(ALPHA, "a")
        second = append(ALPHA, "b", previous=first)
        with log_locked(ALPHA):
            world.submit(first, second)
            assert stored(world.publish(append(BETA, "b"))[0]) == [2]
            outcomes = world.wait(first, second)
            assert [code(outcome) for outcome in outcomes] == ["unavailable", "unavailable"]
            # It is remembered: the next one does not make the others wait.
            third = append(ALPHA, "c")
            world.submit(third)
            assert code(world.wait(third)[0]) == "unavailable"
        assert stored(world.publish(append(ALPHA, "a"))[0]) == [2]
        assert stored(world.publish(append(ALPHA, "b"), append(GAMMA, "x"))[0]) == [3]
    world.check_told(list(world.settled))
    assert [row.mid for row in check_log(ALPHA)] == ["zero", "a", "b"]


@pytest.mark.postgres
@pytest.mark.usefixtures("log")
def test_what_is_set_aside_is_bounded(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(LOCK_TIMEOUT_MS=20, STUCK_CHANNEL_MS=60_000, WRITER_QUEUE_MESSAGES=40)
    publish(append(ALPHA, "zero"))
    with writing() as world:
        with log_locked(ALPHA):
            first = append(ALPHA, "first")
            world.submit(first)
            eventually(lambda: world.writer._aside.channels)
            more = []
            for i in range(12):
                more.append(append(ALPHA, f"m{i}"))
                world.submit(more[-1])
                world.publish(append(BETA, f"m{i}"))
            assert [code(each.outcome) for each in more if each.outcome] == ["unavailable"] * 3
        world.wait(first, *more)
    assert [row.mid for row in check_log(ALPHA)] == ["zero", "first", *[f"m{i}" for i in range(9)]]


@pytest.mark.postgres
@pytest.mark.usefixtures("log")
def test_stop_waits_for_stuck_channels_too(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(LOCK_TIMEOUT_MS=20, STUCK_CHANNEL_MS=100)
    publish(append(ALPHA, "zero"))
    with writing() as world, log_locked(ALPHA):
        each = append(ALPHA, "a")
        world.submit(each)
        assert world.writer.stop(20_000 * MS)
        assert code(each.outcome) == "unavailable"


# -- a database that goes away ----------------------------------------------------------------------------------------


@pytest.mark.postgres
@pytest.mark.usefixtures("log")
def test_publishing_goes_on_by_itself_when_connections_are_cut_again_and_again() -> None:
    """Every backend but ours is ended while messages flow; publishers repeat what is unavailable."""
    cuts = 0
    with writing() as world, other_connection() as other:
        for i in range(60):
            world.submit(each := append(ALPHA, f"m{i}"))
            if i % 6 == 0:
                cuts += other.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND pid <> %s",
                    [_own_pid()],
                ).fetchone()[0]
            while code_or_none(world.wait(each)[0]) == "unavailable":
                world.submit(each := append(ALPHA, f"m{i}"))
    assert cuts
    assert [row.mid for row in check_log(ALPHA)] == [f"m{i}" for i in range(60)]


@pytest.mark.usefixtures("log")
def test_a_database_that_refuses_connections_is_tried_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    away = threading.Event()
    refused: list[int] = []
    wrapper = type(connections["default"])
    real = wrapper.get_new_connection

    def get_new_connection(self: Any, parameters: Any) -> Any:
        if away.is_set() and threading.current_thread().name == "realtime-log-writer":
            refused.append(1)
            raise OperationalError("could not connect")
        return real(self, parameters)

    monkeypatch.setattr(wrapper, "get_new_connection", get_new_connection)
    away.set()
    with writing() as world:
        outcomes = []
        for i in range(4):
            outcomes += world.publish(append(ALPHA, "a"), append(BETA, f"b{i}"))
        assert {code(outcome) for outcome in outcomes} == {"unavailable"}
        # The hint grows with the trouble.
        assert refused
        assert max(outcome.retry_after_ms or 0 for outcome in outcomes if isinstance(outcome, ProtocolError)) > 200
        away.clear()
        assert stored(world.publish(append(ALPHA, "a"))[0]) == [1]
    check_log(ALPHA)


def _own_pid() -> int:
    connection.ensure_connection()
    return int(connection.connection.info.backend_pid)


def code_or_none(outcome: object) -> str | None:
    return outcome.code if isinstance(outcome, ProtocolError) else None


@pytest.mark.sqlite
@pytest.mark.usefixtures("log")
def test_a_writer_waits_for_its_turn_at_the_file() -> None:
    """Another connection writes for a while, less than the timeout: nobody is told anything."""
    with writing() as world, other_connection() as other:
        world.publish(append(ALPHA, "a"))
        other.execute("BEGIN IMMEDIATE")
        each = append(ALPHA, "b")
        world.submit(each)
        assert not each.outcome
        other.execute("COMMIT")
        assert stored(world.wait(each)[0]) == [2]
    assert len(rows(ALPHA)) == 2
