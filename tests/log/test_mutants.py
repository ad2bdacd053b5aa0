"""The tests above fail where the log is wrong: each mutant here breaks one line of it, and a check must notice.

A mutant is a replacement in the source of one function, made for the length of a test. A text that is no longer found
fails the test: then the mutant has to follow the code.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from realtime.log import incarnation, mark, outbox, reads, retention, rounds, sql, witness, writer
from tests.log import machine, test_incarnation, test_reads, test_retention, test_rounds, test_writer
from tests.log.machine import LogMachine
from tests.log.world import ALPHA, TABLES, Saved, append, execute, publish

Check = Callable[..., Any]


def mutate(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, old: str, new: str) -> None:
    """Replace `old` by `new` in the source of `owner.name`."""
    function = inspect.unwrap(getattr(owner, name))
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in {name}"
    module = sys.modules[function.__module__]
    namespace: dict[str, Any] = {}
    exec("from __future__ import annotations\n" + source.replace(old, new), module.__dict__, namespace)
    monkeypatch.setattr(owner, name, namespace[name])


def by_the_machine() -> None:
    run_state_machine_as_test(
        LogMachine,
        settings=settings(
            max_examples=200,
            stateful_step_count=15,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # no shrinking: one failure is enough
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.usefixtures("refusing_rows")
@pytest.mark.parametrize(
    ("owner", "name", "old", "new"),
    [
        pytest.param(
            rounds,
            "decide",
            "first = known.get(identity)\n",
            "first = known.get(identity)\n            log.head += first is not None\n",
            id="the head moves before duplicates are found",
        ),
        pytest.param(rounds, "decide", "first = known.get(identity)", "first = None", id="nothing is a duplicate"),
        pytest.param(
            rounds, "decide", 'known[identity] = (serial, data, "")', "pass", id="no duplicates within a round"
        ),
        pytest.param(rounds, "decide", "if look.known:", "if False:", id="no duplicates of earlier rounds"),
        pytest.param(rounds, "decide", "conflicts.append(index)", "pass", id="conflicts are not told"),
        pytest.param(rounds, "decide", "if previous is not None and", "if False and", id="chains are ignored"),
        pytest.param(
            rounds,
            "decide",
            "outcomes.get(previous, previous.outcome)",
            "previous.outcome",
            id="a chain does not see its own round",
        ),
        pytest.param(rounds, "decide", "identity = (client, mid)", 'identity = ("", mid)', id="ids of all clients"),
        pytest.param(
            rounds, "decide", "latest[channel_id, message.key] = serial", "pass", id="the newest of a key is not noted"
        ),
        pytest.param(
            rounds.Rounds,
            "_run",
            "self._run(appends[middle:], locks, result)",
            "[self._refuse(a, error, result) for a in appends[middle:]]",
            id="a bad row takes others with it",
        ),
        pytest.param(
            rounds.Rounds,
            "_run",
            "self._run(appends[:middle], locks, result)\n                self._run(appends[middle:], locks, result)",
            "self._run(appends[middle:], locks, result)\n                self._run(appends[:middle], locks, result)",
            id="a round is split in the wrong order",
        ),
        pytest.param(
            retention, "prune", "SET oldest = CASE", "SET head = head, oldest = 1 + CASE", id="prune takes one too many"
        ),
    ],
)
def test_the_machine_notices(owner: Any, name: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, owner, name, old, new)
    if owner is retention:
        monkeypatch.setattr(machine, name, getattr(owner, name))
    with pytest.raises(BaseException) as noticed:  # an assertion, or several in a group
        by_the_machine()
    assert not isinstance(noticed.value, KeyboardInterrupt)


@pytest.mark.usefixtures("log")
def test_time_that_goes_back_with_the_clock_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, rounds._Growing, "__init__", "max(clock_ms, log.last_time)", "clock_ms")
    with pytest.raises(AssertionError):
        test_rounds.test_time_never_decreases_when_the_clock_jumps_back()


@pytest.mark.usefixtures("log")
def test_deleting_young_rows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, retention, "delete_chunks", "now - 1000 * settings", "now + 1000 * settings")
    monkeypatch.setattr(test_retention, "delete_chunks", retention.delete_chunks)
    with pytest.raises(AssertionError):
        test_retention.test_rows_go_only_when_they_are_old_and_no_longer_retained()


@pytest.mark.usefixtures("log")
def test_a_snapshot_of_the_oldest_keys_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, reads, "read_snapshot", "ORDER BY serial DESC", "ORDER BY serial")
    monkeypatch.setattr(test_reads, "read_snapshot", reads.read_snapshot)
    with pytest.raises(AssertionError):
        test_reads.test_a_snapshot_is_the_newest_of_each_key_also_behind_retention()


@pytest.mark.usefixtures("log")
def test_a_page_that_does_not_read_the_state_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(
        monkeypatch,
        reads,
        "read_page",
        "state = read_states([name])[name]\n        if state.channel_id is None:  # the",
        "if state.channel_id is None:  # the",
    )
    monkeypatch.setattr(test_reads, "read_page", reads.read_page)
    with pytest.raises(AssertionError):
        test_reads.test_a_page_explains_its_gaps_by_what_it_read_after_the_rows(
            [4], {"after": 2, "limit": 4}, [5, 6, 7, 8], True, (3, 4), monkeypatch
        )


@pytest.mark.usefixtures("log")
def test_retention_that_takes_young_messages_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(
        monkeypatch, retention, "_apply", "first_since(cursor, bounds, young)", "first_since(cursor, bounds, now_ms)"
    )
    with pytest.raises(AssertionError):
        test_retention.test_nothing_younger_than_two_minutes_is_taken({"retention_messages": 1})


@pytest.mark.postgres
@pytest.mark.usefixtures("log")
def test_a_look_up_before_the_lock_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(
        monkeypatch,
        sql.Postgres,
        "open",
        "results = self._run(cursor, statements)",
        "results = self._run(cursor, [statements[0], *statements[3:], *statements[1:3]])[::-1]",
    )
    with pytest.raises(AssertionError):
        test_rounds.look_up_sees_the_last_commit(monkeypatch)


@pytest.mark.postgres
@pytest.mark.usefixtures("log")
def test_a_stuck_channel_that_stops_the_others_is_noticed(
    monkeypatch: pytest.MonkeyPatch, realtime_settings: Callable[..., None]
) -> None:
    mutate(monkeypatch, rounds.Rounds, "_run", "if not locks.skip:", "if False:")
    with pytest.raises(AssertionError):
        test_rounds.test_a_locked_log_is_set_aside_with_all_that_follows_on_it(realtime_settings)


@pytest.mark.postgres
@pytest.mark.usefixtures("log")
def test_a_channel_that_is_set_aside_and_overtaken_is_noticed(
    monkeypatch: pytest.MonkeyPatch, realtime_settings: Callable[..., None]
) -> None:
    mutate(monkeypatch, writer.LogWriter, "_take", "if append.channel in stuck:", "if False:")
    mutate(monkeypatch, writer._Aside, "first_appends", "appends.append(append)", "appends.insert(0, append)")
    with pytest.raises(AssertionError):
        test_writer.test_a_stuck_channel_does_not_stop_the_others_and_keeps_its_order(realtime_settings)


# -- a database that went back in time --------------------------------------------------------------------------------


def first_round(folder: Path) -> None:
    test_incarnation.test_the_first_round_after_a_restore_gives_its_serial_in_a_new_epoch(lambda: Saved(folder))


@pytest.mark.postgres
@pytest.mark.usefixtures("log", "saved")
@pytest.mark.parametrize(
    ("condition", "check"),
    [
        ("w.writer = w.xmin::text", first_round),
        (
            "w.log = 'realtime_log'::regclass::oid::bigint",
            lambda folder: test_incarnation.test_a_table_of_logs_that_was_made_anew_is_noticed(),
        ),
        (
            "w.started = pg_postmaster_start_time()",
            lambda folder: difference("timeline = '000000AF', started = 'epoch'"),
        ),
        (
            "w.database = split_part(pg_relation_filepath('realtime_incarnation'), '/', -2)",
            lambda folder: difference("database = '1'"),
        ),
    ],
)
def test_a_round_that_does_not_ask_is_noticed(
    condition: str, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module, name in (
        (sql, "_LOCK"),
        (sql, "_EPOCHS"),
        (sql, "POSTGRES_SEAL"),
        (incarnation, "POSTGRES_NUMBER"),
        (incarnation, "POSTGRES_SEAL"),
    ):
        text = getattr(module, name)
        assert text.count(condition) == 1, (name, condition)
        monkeypatch.setattr(module, name, text.replace(condition, "true"))
    with pytest.raises(AssertionError):
        check(tmp_path)


def difference(columns: str) -> None:
    """A round after a change of the witness, which knows itself."""
    publish(append(ALPHA, "a"))
    before = test_incarnation.epoch_of(ALPHA)
    execute(
        f"UPDATE realtime_incarnation SET {columns}, writer = pg_current_xact_id()::xid::text",
    )
    publish(append(ALPHA, "b"))
    assert test_incarnation.epoch_of(ALPHA) != before


@pytest.mark.postgres
@pytest.mark.usefixtures("log", "saved")
def test_an_emptied_table_that_is_not_noted_is_noticed(tmp_path: Path) -> None:
    execute("ALTER TABLE realtime_log DISABLE TRIGGER realtime_log_emptied")
    try:
        with pytest.raises(AssertionError):
            test_incarnation.test_a_part_of_a_dump_in_the_emptied_table_is_noticed(lambda: Saved(tmp_path), TABLES[1:3])
    finally:
        execute("ALTER TABLE realtime_log ENABLE TRIGGER realtime_log_emptied")


@pytest.mark.postgres
@pytest.mark.usefixtures("log")
def test_a_log_that_is_given_two_epochs_is_noticed(
    monkeypatch: pytest.MonkeyPatch, realtime_settings: Callable[..., None]
) -> None:
    mutate(monkeypatch, sql.Postgres, "_judge", "number = self._number(cursor.fetchone()[0])", "pass")
    with pytest.raises(AssertionError):
        test_incarnation.test_a_round_that_waited_for_a_new_epoch_does_not_give_another(realtime_settings)


@pytest.mark.postgres
@pytest.mark.usefixtures("log")
def test_a_memory_that_is_not_asked_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "number_of", lambda seal: int(seal.partition(" ")[0]))
    with pytest.raises(AssertionError):
        test_incarnation.test_who_did_not_settle_asks_his_own_memory(monkeypatch)


@pytest.mark.usefixtures("log", "saved")
@pytest.mark.parametrize(
    ("owner", "name", "old", "new", "check"),
    [
        pytest.param(
            rounds.Rounds, "_write", "if not log.current", "if False", first_round, id="a log keeps its epoch"
        ),
        pytest.param(
            rounds.Rounds, "_write", "guarded=self._guarded", "guarded=False", first_round, id="nothing is asked"
        ),
        pytest.param(
            outbox,
            "_relay_some",
            "guarded = not connection.in_atomic_block",
            "guarded = False",
            lambda folder: test_incarnation.test_a_relayed_message_is_in_a_new_epoch_too(lambda: Saved(folder)),
            id="the relay does not ask",
        ),
        pytest.param(
            incarnation,
            "fell",
            "state[1] < reached",
            "True",
            lambda folder: test_incarnation.test_a_head_that_did_not_fall_changes_nothing(),
            id="a head that did not fall",
        ),
    ],
)
def test_a_database_that_went_back_unseen_is_noticed(
    owner: Any, name: str, old: str, new: str, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mutate(monkeypatch, owner, name, old, new)
    with pytest.raises(AssertionError):
        check(tmp_path)


@pytest.mark.sqlite
@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    ("owner", "name", "old", "new", "check"),
    [
        pytest.param(witness, "_sound", "known.rounds <= witness.rounds", "True", first_round, id="the mark's number"),
        pytest.param(
            mark,
            "_parse",
            "line[42:] != file.instance",
            "False",
            lambda folder: test_incarnation.test_a_mark_that_is_none_begins_a_new_incarnation(
                connection.settings_dict["NAME"], "copied", folder
            ),
            id="a copied mark",
        ),
        pytest.param(
            outbox,
            "_relay_some",
            "advance_mark(connection, result.witness)",
            "pass",
            lambda folder: test_incarnation.test_a_restore_that_takes_back_nothing_but_relayed_messages_is_noticed(
                lambda: Saved(folder)
            ),
            id="the mark of a relay",
        ),
        pytest.param(
            sql,
            "reopen_if_replaced",
            "or connection.in_atomic_block",
            "or True",
            lambda folder: test_incarnation.test_a_file_that_was_replaced_is_opened_anew(
                connection.settings_dict["NAME"], folder
            ),
            id="a replaced file",
        ),
    ],
)
def test_a_file_that_went_back_unseen_is_noticed(
    owner: Any, name: str, old: str, new: str, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mutate(monkeypatch, owner, name, old, new)
    for module in (rounds, reads, outbox, incarnation):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, getattr(owner, name))
    with pytest.raises(AssertionError):
        check(tmp_path)
    # It may still have the file that was replaced open: that one would be emptied, and not the one that is there.
    connection.close()
