"""The tests above fail where the log is wrong: each mutant here breaks one line of it, and a check must notice.

A mutant is a replacement in the source of one function, made for the length of a test. A text that is no longer found
fails the test: then the mutant has to follow the code.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from realtime.log import reads, retention, rounds, sql, writer
from tests.log import machine, test_reads, test_retention, test_rounds, test_writer
from tests.log.machine import LogMachine

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
