"""The round: serials, duplicates, chains, bad rows, and a database in trouble."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from realtime.log import Append, Published, Rounds, prune, read_states, rounds, run_round_now, sql
from realtime.log.sql import Locks, Look
from realtime.models import Channel, Latest, Log, Namespace
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
    message,
    other_connection,
    publish,
    rows,
    stored,
)

pytestmark = pytest.mark.usefixtures("log")


def test_serials_count_from_one_in_the_order_given() -> None:
    assert [stored(o) for o in publish(append(ALPHA, "a", "b"), append(BETA, "c"), append(ALPHA, "d"))] == [
        [1, 2],
        [1],
        [3],
    ]
    assert [row.mid for row in check_log(ALPHA)] == ["a", "b", "d"]
    check_log(BETA)


def test_news_are_the_envelopes_of_what_is_new() -> None:
    publish(append(ALPHA, "a"))
    _, news = run_round_now([append(ALPHA, "a", "b"), append(BETA, "c"), append(ALPHA, "d")])
    assert [(n.channel, n.first, n.frames) for n in news] == [
        (ALPHA, 2, [row.envelope for row in rows(ALPHA)[1:]]),
        (BETA, 1, [row.envelope for row in rows(BETA)]),
    ]
    assert news[0].epoch == read_states([ALPHA])[ALPHA].epoch
    assert news[0].channel_id == read_states([ALPHA])[ALPHA].channel_id


def test_a_known_id_gets_its_first_serial_and_stores_nothing() -> None:
    publish(append(ALPHA, "a", "b"))
    (outcome,) = publish(append(ALPHA, "b", "c", "a"))
    assert isinstance(outcome, Published)
    assert (outcome.serials, outcome.duplicates, outcome.conflicts) == ([2, 3, 1], [0, 2], [])
    assert len(check_log(ALPHA)) == 3


def test_ids_belong_to_a_channel_and_a_client() -> None:
    outcomes = publish(
        append(ALPHA, "a"), append(ALPHA, "a", client="bo"), append(ALPHA, "a", client=""), append(BETA, "a")
    )
    assert [stored(outcome) for outcome in outcomes] == [[1], [2], [3], [1]]
    assert [row.client for row in check_log(ALPHA)] == ["ana", "bo", ""]


def test_the_same_id_twice_in_one_append_or_round_is_one_message() -> None:
    first, second = publish(append(ALPHA, "a", "b", "a"), append(ALPHA, "b"))
    assert isinstance(first, Published) and isinstance(second, Published)
    assert (first.serials, first.duplicates) == ([1, 2, 1], [2])
    assert (second.serials, second.duplicates) == ([2], [0])
    assert len(check_log(ALPHA)) == 2


@pytest.mark.parametrize("same_round", [True, False])
def test_other_data_under_a_known_id_is_a_conflict_and_the_first_wins(same_round: bool) -> None:
    first = Append(ALPHA, "ana", [message("a", '{"x":1}')])
    second = Append(ALPHA, "ana", [message("a", '{"x":2}'), message("b"), message("a", '{"x":1}')])
    if same_round:
        publish(first, second)
    else:
        publish(first)
        publish(second)
    assert isinstance(second.outcome, Published)
    assert (second.outcome.serials, second.outcome.duplicates, second.outcome.conflicts) == ([1, 2, 1], [0, 2], [0])
    assert '"data":{"x":1}}' in check_log(ALPHA)[0].envelope


def test_fresh_ids_are_not_looked_up_and_still_deduplicated_within_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    dialect = type(sql.dialect_of(connection))
    real = dialect.open

    def open_(self: Any, cursor: Any, names: Any, wanted: Any, locks: Locks) -> Look:
        asked.extend(wanted)
        return real(self, cursor, names, wanted, locks)

    monkeypatch.setattr(dialect, "open", open_)
    each = Append(ALPHA, "ana", [message("made"), message("given"), message("made")], fresh=frozenset(["made"]))
    (outcome,) = publish(each)
    assert {mid for _, _, mid in asked} == {"given"}
    assert stored(outcome) == [1, 2, 1]


def test_a_row_below_oldest_still_answers_for_its_id() -> None:
    publish(append(ALPHA, "a", "b"))
    prune(ALPHA, 2)
    assert stored(publish(append(ALPHA, "a", "c"))[0]) == [1, 3]


def test_the_newest_of_each_key_is_noted() -> None:
    publish(Append(ALPHA, "ana", [message("a", key="k"), message("b", key="l"), message("c", key="k"), message("d")]))
    publish(Append(ALPHA, "ana", [message("e", key="l"), message("a", key="k")]))  # a duplicate changes nothing
    assert dict(Latest.objects.values_list("key", "serial")) == {"k": 3, "l": 5}
    check_log(ALPHA)


# -- channels ---------------------------------------------------------------------------------------------------------


def test_the_first_publish_makes_the_channel_if_it_may() -> None:
    allowed = append(ALPHA, "a")
    refused = Append(BETA, "ana", [message("a")], create=False)
    elsewhere = append(ChannelName("nowhere:x"), "a")
    publish(allowed, refused, elsewhere)
    assert stored(allowed.outcome) == [1]
    assert (code(refused.outcome), code(elsewhere.outcome)) == ("not_found", "not_found")
    assert list(Channel.objects.values_list("name", "namespace")) == [("alpha", "default")]


def test_a_channel_that_an_operator_made_needs_no_right_to_create() -> None:
    Namespace.objects.create(name="desk", create="operator")
    Channel.objects.create(name="desk:one", namespace_id="desk")
    name = ChannelName("desk:one")
    assert read_states([name])[name][1:] == (None, 1, 0, 0)
    (outcome,) = publish(Append(name, "ana", [message("a")], create=False))
    assert stored(outcome) == [1]


def test_many_channels_in_one_round() -> None:
    names = [ChannelName(f"many{i}") for i in range(700)]
    outcomes = publish(*[append(name, "a") for name in names], *[append(name, "a", "b") for name in names])
    assert [stored(outcome) for outcome in outcomes] == [[1]] * 700 + [[1, 2]] * 700
    assert all((state.oldest, state.head) == (1, 2) for state in read_states(names).values())


# -- chains -----------------------------------------------------------------------------------------------------------


def test_a_chained_append_fails_with_the_one_before_it() -> None:
    first = append(ChannelName("nowhere:x"), "a")
    second = append(ALPHA, "b", previous=first)
    third = append(ALPHA, "c", previous=second)
    fourth = append(ALPHA, "d")
    publish(first, second, third, fourth)
    assert [code(each.outcome) for each in (first, second, third)] == ["not_found", "order", "order"]
    assert stored(fourth.outcome) == [1]
    # A retry keeps its place.
    again = append(ALPHA, "b")
    assert [stored(o) for o in publish(again, append(ALPHA, "c", previous=again))] == [[2], [3]]


@pytest.mark.usefixtures("refusing_rows")
@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
def test_a_chain_holds_wherever_the_round_is_split(before: int, after: int) -> None:
    leading = [append(ALPHA, f"lead{i}") for i in range(before)]
    bad = append(ALPHA, "ok", "bad")
    chained = append(ALPHA, "chained", previous=bad)
    trailing = [append(BETA, f"trail{i}") for i in range(after)]
    last = append(ALPHA, "last", previous=chained)
    publish(*leading, bad, chained, *trailing, last)
    assert (code(bad.outcome), code(chained.outcome), code(last.outcome)) == ("internal", "order", "order")
    assert [row.mid for row in check_log(ALPHA)] == [f"lead{i}" for i in range(before)] if before else True
    assert [stored(each.outcome) for each in trailing] == [[i + 1] for i in range(after)]


def test_a_settled_append_lets_go_of_the_one_before_it() -> None:
    first = append(ALPHA, "a")
    second = append(ALPHA, "b", previous=first)
    publish(first, second)
    assert second.previous is None


# -- bad rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("refusing_rows")
@pytest.mark.parametrize("bad_at", [{0}, {6}, {3}, {0, 6}, {2, 3}, set(range(7))])
def test_bad_rows_fail_alone_and_leave_no_hole(bad_at: set[int]) -> None:
    appends = [append(ALPHA, f"a{i}", f"bad{i}" if i in bad_at else f"b{i}") for i in range(7)]
    publish(*appends)
    for i, each in enumerate(appends):
        if i in bad_at:
            assert code(each.outcome) == "internal"
        else:
            assert stored(each.outcome)
    expected = [mid for i in range(7) if i not in bad_at for mid in (f"a{i}", f"b{i}")]
    if expected:
        assert [row.mid for row in check_log(ALPHA)] == expected


def test_what_cannot_be_text_is_the_publishers_fault() -> None:
    good, bad = append(ALPHA, "a"), Append(ALPHA, "ana", [message("b", key="\ud800")])
    publish(good, bad)
    assert stored(good.outcome) == [1]
    assert code(bad.outcome) == "bad_frame"


@pytest.mark.postgres
def test_a_value_that_is_too_long_fails_alone() -> None:
    outcomes = publish(append(ALPHA, "a"), append(ALPHA, "b" * 65), append(ALPHA, "c"))
    assert (stored(outcomes[0]), code(outcomes[1]), stored(outcomes[2])) == ([1], "bad_frame", [2])


@pytest.mark.usefixtures("refusing_rows")
def test_failures_are_logged_once_with_context(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    publish(*[append(ALPHA, f"bad{i}") for i in range(9)], append(ALPHA, "fine"))
    (record,) = caplog.records
    assert "9 of 10 appends were refused" in record.getMessage()
    assert "channel alpha, client ana" in record.getMessage()
    assert record.exc_info is not None


def test_a_fault_of_ours_is_internal_and_hurts_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from realtime.protocol.messages import envelope as real

    def envelope(channel: str, serial: int, time_ms: int, client: str, each: Any) -> str:
        if each.id == "b":
            raise ZeroDivisionError
        return real(channel, serial, time_ms, client, each)

    monkeypatch.setattr(rounds, "envelope", envelope)
    outcomes = publish(append(ALPHA, "a"), append(ALPHA, "b"), append(ALPHA, "c"))
    assert (stored(outcomes[0]), code(outcomes[1]), stored(outcomes[2])) == ([1], "internal", [2])
    check_log(ALPHA)


# -- time -------------------------------------------------------------------------------------------------------------


def test_time_never_decreases_when_the_clock_jumps_back() -> None:
    clock = iter([5000, 3000, 3001, 6000])
    runner = Rounds(clock=lambda: next(clock))
    for mid in "abcd":
        runner.run([append(ALPHA, mid)])
    assert [row.time for row in check_log(ALPHA)] == [5000, 5000, 5000, 6000]


# -- transactions -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("refusing_rows")
def test_within_atomic_the_messages_share_the_fate_of_the_block() -> None:
    publish(append(ALPHA, "before"))
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        outcomes = publish(append(ALPHA, "a"), append(ALPHA, "bad"), append(BETA, "b"))
        assert [stored(outcomes[0]), code(outcomes[1]), stored(outcomes[2])] == [[2], "internal", [1]]
        raise ZeroDivisionError
    assert [row.mid for row in check_log(ALPHA)] == ["before"]
    with transaction.atomic():
        publish(append(ALPHA, "c"))
    assert [row.mid for row in check_log(ALPHA)] == ["before", "c"]


@pytest.mark.postgres
def test_statements_go_one_by_one_with_server_side_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql.Postgres, "__init__", _one_by_one(sql.Postgres.__init__))
    outcomes = publish(Append(ALPHA, "ana", [message("a", key='k"\\{}')]), append(ALPHA, "a", "b"))
    assert [stored(outcome) for outcome in outcomes] == [[1], [1, 2]]
    check_log(ALPHA)


def _one_by_one(real: Callable[..., None]) -> Callable[..., None]:
    def init(self: Any, **arguments: bool) -> None:
        real(self, **{**arguments, "joined": False})

    return init


@pytest.mark.parametrize("text", ['"', "\\", "{}", ",", "NULL", "", " ", "ä😀", "a\u2028b", "'; --", "%s %%"])
def test_any_text_survives(text: str) -> None:
    import msgspec

    data = msgspec.json.encode(text).decode()
    publish(Append(ALPHA, "ana", [message("a", data, key=text or None)]))
    (row,) = check_log(ALPHA)
    assert msgspec.json.decode(row.envelope)["data"] == text
    assert row.key == (text or None)
    (again,) = publish(Append(ALPHA, "ana", [message("a", data)]))
    assert isinstance(again, Published) and again.duplicates == [0] and not again.conflicts


@pytest.mark.postgres
def test_the_look_up_sees_what_the_last_holder_of_the_lock_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up_sees_the_last_commit(monkeypatch)


def look_up_sees_the_last_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds store the same id; the second waits for the lock while the first is about to commit."""
    publish(append(ALPHA, "zero"))
    reached, go_on = threading.Event(), threading.Event()
    real = sql.Postgres.store

    def store(self: Any, cursor: Any, writes: Any) -> None:
        if threading.current_thread() is first_thread:
            reached.set()
            assert go_on.wait(10_000 * MS)
        real(self, cursor, writes)

    def run(each: Append) -> None:
        Rounds().run([each], Locks(10_000))
        connection.close()

    monkeypatch.setattr(sql.Postgres, "store", store)
    first, second = append(ALPHA, "a"), append(ALPHA, "a")
    first_thread = threading.Thread(target=run, args=[first])
    second_thread = threading.Thread(target=run, args=[second])
    first_thread.start()
    assert reached.wait(10_000 * MS)
    second_thread.start()
    with other_connection() as other:
        eventually(lambda: other.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0] > 0)
    go_on.set()
    first_thread.join()
    second_thread.join()
    assert stored(first.outcome) == stored(second.outcome) == [2]


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_a_database_that_dies_before_the_commit_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(append(ALPHA, "a"))
    _break_store(monkeypatch, before=True)
    broken = append(ALPHA, "b"), append(BETA, "c")
    outcomes = publish(*broken)
    assert [code(outcome) for outcome in outcomes] == ["unavailable", "unavailable"]
    assert all(getattr(outcome, "retry_after_ms", 0) > 0 for outcome in outcomes)
    monkeypatch.undo()
    assert [row.mid for row in check_log(ALPHA)] == ["a"]
    again = publish(append(ALPHA, "b"), append(BETA, "c"))
    assert [stored(outcome) for outcome in again] == [[2], [1]]
    assert all(isinstance(outcome, Published) and not outcome.duplicates for outcome in again)


def test_a_database_that_dies_after_the_commit_knows_the_id_when_it_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(append(ALPHA, "a"))
    _break_store(monkeypatch, before=False)
    (outcome,) = publish(append(ALPHA, "b"))
    assert code(outcome) == "unavailable"
    monkeypatch.undo()
    (again,) = publish(append(ALPHA, "b"))
    assert isinstance(again, Published)
    assert (again.serials, again.duplicates) == ([2], [0])
    assert len(check_log(ALPHA)) == 2


def _break_store(monkeypatch: pytest.MonkeyPatch, *, before: bool) -> None:
    """Lose the connection in the middle of a round: for real on PostgreSQL, as an error on SQLite."""
    dialect = type(sql.dialect_of(connection))
    real = dialect.store

    def store(self: Any, cursor: Any, writes: Any) -> None:
        if not before:
            real(self, cursor, writes)
        if connection.vendor == "postgresql":
            with other_connection() as other:
                other.execute("SELECT pg_terminate_backend(%s)", [connection.connection.info.backend_pid])
            if before:
                real(self, cursor, writes)
            else:
                cursor.execute("SELECT 1")
        else:
            raise OperationalError("disk I/O error")

    monkeypatch.setattr(dialect, "store", store)


@pytest.mark.postgres
def test_an_idle_connection_that_the_server_closed_is_replaced_silently() -> None:
    publish(append(ALPHA, "a"))
    with other_connection() as other:
        other.execute("SELECT pg_terminate_backend(%s)", [connection.connection.info.backend_pid])
    assert stored(publish(append(ALPHA, "b"))[0]) == [2]


@pytest.mark.sqlite
def test_a_writer_that_holds_the_file_too_long_makes_it_unavailable() -> None:
    publish(append(ALPHA, "a"))
    with other_connection() as other:
        other.execute("BEGIN IMMEDIATE")
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 20")
        (outcome,) = publish(append(ALPHA, "b"))
        assert code(outcome) == "unavailable"
        other.execute("COMMIT")
    (again,) = publish(append(ALPHA, "b"))
    assert isinstance(again, Published)
    assert (again.serials, again.duplicates) == ([2], [])


@pytest.mark.sqlite
def test_a_full_disk_makes_it_unavailable_and_leaves_the_log_whole() -> None:
    publish(append(ALPHA, "a"))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")  # pages that earlier tests left free would be room
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages + 2}")
    large = [Append(ALPHA, "ana", [message(f"large{i}", '"' + "x" * 60_000 + '"')]) for i in range(4)]
    outcomes = publish(append(BETA, "b"), *large)
    assert [code(outcome) for outcome in outcomes] == ["unavailable"] * 5
    assert [row.mid for row in check_log(ALPHA)] == ["a"]
    # The limit was the connection's, and that was closed: there is room again.
    assert [stored(outcome) for outcome in publish(append(BETA, "b"), *[_again(each) for each in large])] == [
        [1],
        [2],
        [3],
        [4],
        [5],
    ]
    check_log(ALPHA)


def _again(each: Append) -> Append:
    return Append(each.channel, each.client, each.messages)


@pytest.mark.postgres
def test_a_deadlock_is_repeated_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg.errors

    real, tries = sql.Postgres.open, []

    def open_(self: Any, *args: Any) -> Look:
        tries.append(1)
        if len(tries) < 3:
            raise OperationalError("deadlock detected") from psycopg.errors.DeadlockDetected()
        return real(self, *args)

    monkeypatch.setattr(sql.Postgres, "open", open_)
    assert stored(publish(append(ALPHA, "a"))[0]) == [1]


# -- locked logs ------------------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_a_known_message_of_a_locked_log_is_set_aside_like_any_other(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(LOCK_TIMEOUT_MS=20)
    publish(append(ALPHA, "a"), append(BETA, "b"))
    again, other = append(ALPHA, "a"), append(BETA, "b")
    with log_locked(ALPHA):
        result = Rounds().run([again, other])
        assert result.aside == [again]
        assert stored(other.outcome) == [1]
    Rounds().run(result.aside)
    assert stored(again.outcome) == [1]


@pytest.mark.postgres
def test_a_locked_log_is_set_aside_with_all_that_follows_on_it(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(LOCK_TIMEOUT_MS=20)
    publish(append(ALPHA, "zero"), append(BETA, "zero"))
    first, second, other = append(ALPHA, "a"), append(ALPHA, "b"), append(BETA, "c")
    chained = append(ALPHA, "d", previous=second)
    kept = connection.connection
    with log_locked(ALPHA):
        result = Rounds().run([first, other, second, chained])
        assert result.aside == [first, second, chained]
        assert connection.connection is kept
        assert result.stuck == {ALPHA}
        assert stored(other.outcome) == [2]
    assert not Rounds().run(result.aside).aside
    assert [stored(each.outcome) for each in (first, second, chained)] == [[2], [3], [4]]


@pytest.mark.postgres
@pytest.mark.usefixtures("refusing_rows")
def test_what_is_set_aside_stays_behind_also_when_the_round_is_split(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(LOCK_TIMEOUT_MS=20)
    publish(append(ALPHA, "zero"))
    with log_locked(ALPHA):
        appends = [append(ALPHA, "a"), append(BETA, "b"), append(BETA, "bad"), append(ALPHA, "c"), append(GAMMA, "d")]
        result = Rounds().run(appends)
    assert result.aside == [appends[0], appends[3]]
    assert (stored(appends[1].outcome), code(appends[2].outcome), stored(appends[4].outcome)) == ([1], "internal", [1])


@pytest.mark.postgres
def test_a_channel_that_somebody_is_making_is_set_aside(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(LOCK_TIMEOUT_MS=20)
    with other_connection() as other:
        other.execute("BEGIN")
        other.execute("INSERT INTO realtime_channel (name, namespace_id, created) VALUES ('alpha', 'default', now())")
        waiting, free = append(ALPHA, "a"), append(BETA, "b")
        result = Rounds().run([waiting, free])
        assert (result.aside, stored(free.outcome)) == ([waiting], [1])
        other.execute("COMMIT")
    Rounds().run(result.aside)
    assert stored(waiting.outcome) == [1]


@pytest.mark.postgres
def test_without_a_writer_a_locked_log_is_unavailable_in_the_end(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(LOCK_TIMEOUT_MS=10, STUCK_CHANNEL_MS=50)
    publish(append(ALPHA, "zero"))
    with log_locked(ALPHA):
        outcomes = publish(append(ALPHA, "a"), append(BETA, "b"))
    assert (code(outcomes[0]), stored(outcomes[1])) == ("unavailable", [1])


def test_no_row_of_the_log_moves_when_nothing_is_new() -> None:
    publish(append(ALPHA, "a"))
    before = Log.objects.values().get()
    publish(append(ALPHA, "a"))
    assert Log.objects.values().get() == before
