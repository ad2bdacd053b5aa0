"""Forgetting: `oldest` first, rows later, never what is young or newest of its key, never in anybody's way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from realtime.log import (
    Append,
    Published,
    Rounds,
    apply_retention,
    begin_anew,
    delete_chunks,
    new_epoch,
    new_epochs,
    prune,
    read_states,
    retention,
)
from realtime.models import Channel, Latest, Namespace
from realtime.namespaces import Rules
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName
from tests.log.world import (
    ALPHA,
    BETA,
    GAMMA,
    append,
    check_log,
    log_locked,
    message,
    other_connection,
    publish,
    rows,
    stored,
)

pytestmark = pytest.mark.usefixtures("log")

MINUTE_MS = 60_000
RULES = Rules("default")


def fill(channel: ChannelName, times_ms: list[int], *, keys: list[str | None] | None = None) -> None:
    """Messages m1, m2, … at these times."""
    clock = iter(times_ms)
    runner = Rounds(clock=lambda: next(clock))
    for i, key in enumerate(keys or [None] * len(times_ms), 1):
        runner.run([Append(channel, "ana", [message(f"m{i}", key=key)])])


def bounds(channel: ChannelName) -> tuple[int, int]:
    state = read_states([channel])[channel]
    return state.oldest, state.head


def retain(now_ms: int, **rule: Any) -> int:
    return apply_retention({"default": replace(RULES, **rule)}, now_ms=now_ms)


# -- prune and epochs -------------------------------------------------------------------------------------------------


def test_prune_moves_oldest_only_forward_and_never_beyond_the_head() -> None:
    fill(ALPHA, [1] * 5)
    for upto, expected in ((0, 1), (2, 3), (1, 3), (2, 3), (99, 6), (3, 6)):
        assert prune(ALPHA, upto).oldest == expected
        assert bounds(ALPHA) == (expected, 5)
    assert len(rows(ALPHA)) == 5
    assert stored(publish(append(ALPHA, "next"))[0]) == [6]
    assert bounds(ALPHA) == (6, 6)


@pytest.mark.parametrize("change", [lambda name: prune(name, 1), new_epoch, begin_anew])
def test_a_channel_without_a_log_is_not_found(change: Callable[[ChannelName], object]) -> None:
    Channel.objects.create(name="beta", namespace_id="default")
    for name in (ALPHA, BETA):
        with pytest.raises(ProtocolError) as raised:
            change(name)
        assert raised.value.code == "not_found"


def test_a_new_epoch_keeps_rows_serials_and_ids() -> None:
    fill(ALPHA, [1] * 3)
    before = rows(ALPHA)
    epoch = new_epoch(ALPHA)
    assert (read_states([ALPHA])[ALPHA].epoch, rows(ALPHA)) == (epoch, before)
    (outcome,) = publish(append(ALPHA, "m2", "m4"))
    assert isinstance(outcome, Published)
    assert (outcome.epoch, outcome.serials, outcome.duplicates) == (epoch, [2, 4], [0])


def test_a_log_that_begins_anew_retains_nothing_and_goes_on_counting() -> None:
    fill(ALPHA, [1] * 3, keys=["k", None, "l"])
    before = read_states([ALPHA])[ALPHA]
    epoch = begin_anew(ALPHA)
    assert read_states([ALPHA])[ALPHA] == before._replace(epoch=epoch, oldest=4)
    assert not Latest.objects.exists()
    assert stored(publish(append(ALPHA, "next"))[0]) == [4]
    assert delete_chunks(now_ms=10**15) == 3
    assert [row.serial for row in check_log(ALPHA)] == [4]


def test_new_epochs_for_all() -> None:
    names = [ChannelName(f"epoch{i}") for i in range(250)]
    publish(*[append(name, "a") for name in names])
    before = {state.epoch for state in read_states(names).values()}
    assert new_epochs() == (250, [])
    after = {state.epoch for state in read_states(names).values()}
    assert len(after) == 250 and not after & before


# -- by rule ----------------------------------------------------------------------------------------------------------


def test_a_count_takes_what_is_beyond_it() -> None:
    fill(ALPHA, [1] * 10)
    fill(BETA, [1] * 3)
    fill(GAMMA, [1] * 4)
    assert retain(10 * MINUTE_MS, retention_messages=3) == 2
    assert [bounds(name) for name in (ALPHA, BETA, GAMMA)] == [(8, 10), (1, 3), (2, 4)]
    assert retain(10 * MINUTE_MS, retention_messages=3) == 0


def test_an_age_takes_what_is_older() -> None:
    fill(ALPHA, [minute * MINUTE_MS for minute in range(1, 11)])
    fill(BETA, [9 * MINUTE_MS] * 3)
    assert retain(10 * MINUTE_MS, retention_age_s=5 * 60) == 1
    assert [bounds(name) for name in (ALPHA, BETA)] == [(5, 10), (1, 3)]
    retain(100 * MINUTE_MS, retention_age_s=5 * 60)
    assert [bounds(name) for name in (ALPHA, BETA)] == [(11, 10), (4, 3)]


def test_count_and_age_together_take_what_either_takes() -> None:
    fill(ALPHA, [minute * MINUTE_MS for minute in range(1, 11)])
    retain(20 * MINUTE_MS, retention_messages=6, retention_age_s=13 * 60)
    assert bounds(ALPHA) == (7, 10)
    retain(20 * MINUTE_MS, retention_messages=1, retention_age_s=10 * 60)
    assert bounds(ALPHA) == (10, 10)


@pytest.mark.parametrize("rule", [{"retention_messages": 1}, {"retention_age_s": 1}])
def test_nothing_younger_than_two_minutes_is_taken(rule: dict[str, int]) -> None:
    now = 10 * MINUTE_MS
    fill(ALPHA, [now - 2 * MINUTE_MS - 1, now - 2 * MINUTE_MS, now - 1000, now])
    retain(now, **rule)
    assert bounds(ALPHA) == (2, 4)


def test_a_time_to_live_takes_what_is_older_however_young_and_leaves_the_rows() -> None:
    fill(ALPHA, [1000, 2000, 3000, 9000])
    assert retain(9500, message_ttl_s=7) == 1
    assert bounds(ALPHA) == (3, 4)
    assert delete_chunks(now_ms=9500) == 0
    # Published again it is still the same message.
    (again,) = publish(append(ALPHA, "m1"))
    assert isinstance(again, Published) and (again.serials, again.duplicates) == ([1], [0])
    retain(100_000, message_ttl_s=7)
    assert bounds(ALPHA) == (5, 4)


def test_an_expired_message_is_the_newest_of_its_key_no_more() -> None:
    fill(ALPHA, [1000, 2000, 9000], keys=["a", "b", "b"])
    retain(9500, message_ttl_s=60)
    assert Latest.objects.count() == 2
    retain(9500, message_ttl_s=7)
    assert list(Latest.objects.values_list("key", "serial")) == [("b", 3)]


def test_expiring_applies_no_other_rule() -> None:
    fill(ALPHA, [1000, 2000, 20 * MINUTE_MS])
    fill(BETA, [1000, 2000])
    rules = {"default": replace(RULES, message_ttl_s=20 * 60 - 2, retention_messages=1)}
    assert retention.expire(rules, now_ms=20 * MINUTE_MS) == 2
    assert (bounds(ALPHA), bounds(BETA)) == ((2, 3), (2, 2))


def test_a_rule_holds_for_its_own_namespace() -> None:
    Namespace.objects.create(name="short", retention_messages=1)
    Namespace.objects.filter(name="default").update(retention_messages=2)
    short, plain = ChannelName("short:x"), ALPHA
    fill(short, [1] * 4)
    fill(plain, [1] * 4)
    assert apply_retention(now_ms=10 * MINUTE_MS) == 2
    assert (bounds(short), bounds(plain)) == ((4, 4), (3, 4))


def test_without_a_rule_everything_is_kept() -> None:
    fill(ALPHA, [1] * 4)
    assert retain(10**15) == 0
    assert bounds(ALPHA) == (1, 4)


def test_retention_of_many_channels_takes_few_queries(django_assert_max_num_queries: Any) -> None:
    names = [ChannelName(f"many{i}") for i in range(300)]
    runner = Rounds(clock=lambda: 1)
    runner.run([append(name, *"abcdefgh") for name in names])
    with django_assert_max_num_queries(40):
        assert retain(10 * MINUTE_MS, retention_messages=2) == 300
    assert {(state.oldest, state.head) for state in read_states(names).values()} == {(7, 8)}


# -- deleting ---------------------------------------------------------------------------------------------------------


def test_rows_go_only_when_they_are_old_and_no_longer_retained() -> None:
    now = 10 * MINUTE_MS
    fill(ALPHA, [now - 2 * MINUTE_MS - 1, now - 2 * MINUTE_MS, now - 1])
    assert delete_chunks(now_ms=10**15) == 0
    prune(ALPHA, 3)
    assert delete_chunks(now_ms=now) == 1
    assert [row.serial for row in rows(ALPHA)] == [2, 3]
    # Until then a repeated publish finds its first serial; afterwards the id is new.
    assert stored(publish(append(ALPHA, "m2"))[0]) == [2]
    assert delete_chunks(now_ms=now + 10 * MINUTE_MS) == 2
    assert stored(publish(append(ALPHA, "m2"))[0]) == [4]
    check_log(ALPHA)


def test_the_newest_of_a_key_stays_until_there_is_a_newer_one() -> None:
    fill(ALPHA, [1] * 5, keys=["k", "l", "k", None, "m"])
    prune(ALPHA, 5)
    assert delete_chunks(now_ms=10**15) == 2
    assert [row.serial for row in rows(ALPHA)] == [2, 3, 5]
    publish(Append(ALPHA, "ana", [message("newer", key="l")]))
    assert delete_chunks(now_ms=10**15) == 1
    assert [row.serial for row in rows(ALPHA)] == [3, 5, 6]


def test_keys_beyond_the_limit_are_forgotten_the_oldest_first() -> None:
    fill(ALPHA, [1] * 6, keys=["a", "b", "c", "a", "d", None])
    prune(ALPHA, 6)
    retain(10**15, key_limit=2)
    assert set(Latest.objects.values_list("key", "serial")) == {("a", 4), ("d", 5)}
    delete_chunks(now_ms=10**15)
    assert [row.serial for row in rows(ALPHA)] == [4, 5]
    retain(10**15, key_limit=0)
    delete_chunks(now_ms=10**15)
    assert rows(ALPHA) == []
    check_log(ALPHA)


def test_deleting_goes_in_small_transactions_with_pauses(
    realtime_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    realtime_settings(DELETE_CHUNK=10)
    sizes: list[int] = []
    real = retention._delete

    def delete(cursor: Any, doomed: Any) -> int:
        sizes.append(len(doomed))
        return real(cursor, doomed)

    monkeypatch.setattr(retention, "_delete", delete)
    names = [ChannelName(f"chunk{i}") for i in range(4)]
    Rounds(clock=lambda: 1).run([append(name, *[f"m{i}" for i in range(12)]) for name in names])
    for name in names:
        prune(name, 11)
    pauses: list[float] = []
    assert delete_chunks(now_ms=10**15, pause=pauses.append) == 44
    assert (sizes, len(pauses)) == ([10, 10, 10, 10, 4], 4)
    for name in names:
        assert [row.serial for row in check_log(name)] == [12]


def test_keys_are_forgotten_in_small_transactions_too(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(DELETE_CHUNK=3)
    fill(ALPHA, [1] * 10, keys=[f"k{i}" for i in range(10)])
    retain(10**15, key_limit=2)
    assert set(Latest.objects.values_list("serial", flat=True)) == {9, 10}


# -- in nobody's way --------------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_a_locked_log_keeps_nobody_else_from_retention() -> None:
    for name in (ALPHA, BETA, GAMMA):
        fill(name, [1] * 4, keys=["a", "b", "c", "d"])
    with log_locked(BETA):
        assert retain(10 * MINUTE_MS, retention_messages=1, key_limit=1) == 2
        assert [bounds(name) for name in (ALPHA, BETA, GAMMA)] == [(4, 4), (1, 4), (4, 4)]
        changed, locked = new_epochs()
        assert (changed, locked) == (2, [read_states([BETA])[BETA].channel_id])
    assert retain(10 * MINUTE_MS, retention_messages=1, key_limit=1) == 1
    assert Latest.objects.count() == 3


@pytest.mark.postgres
def test_prune_of_a_locked_log_is_unavailable(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(STUCK_CHANNEL_MS=20)
    fill(ALPHA, [1] * 4)
    with log_locked(ALPHA), pytest.raises(ProtocolError) as raised:
        prune(ALPHA, 2)
    assert raised.value.code == "unavailable"
    assert prune(ALPHA, 2).oldest == 3


@pytest.mark.postgres
def test_rows_that_another_deletes_are_left_to_it() -> None:
    fill(ALPHA, [1] * 4)
    prune(ALPHA, 3)
    with other_connection() as other:
        other.execute("BEGIN")
        other.execute("DELETE FROM realtime_message WHERE serial <= 2")
        assert delete_chunks(now_ms=10**15) == 1
        other.execute("COMMIT")
    assert delete_chunks(now_ms=10**15) == 0
    assert [row.serial for row in check_log(ALPHA)] == [4]


def test_publishing_goes_on_between_the_chunks(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(DELETE_CHUNK=5)
    fill(ALPHA, [1] * 30)
    prune(ALPHA, 30)
    published = itertools.count()

    def publish_one(_: float) -> None:
        publish(append(ALPHA, f"between{next(published)}"))

    assert delete_chunks(now_ms=10**15, pause=publish_one) == 30
    assert [row.serial for row in check_log(ALPHA)] == list(range(31, 31 + next(published)))


# -- commands ---------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_the_command_prune_applies_the_rules() -> None:
    Namespace.objects.filter(name="default").update(retention_messages=2)
    fill(ALPHA, [1] * 5)
    assert run("prune").splitlines()[0] == "1 channels retain less than before."
    assert bounds(ALPHA) == (4, 5)
    assert len(rows(ALPHA)) == 2


def test_the_command_prune_takes_a_channel_and_a_serial() -> None:
    fill(ALPHA, [1] * 5)
    assert run("prune", "--channel", "alpha", "--upto", "3").splitlines()[0] == "alpha retains serials 4 to 5."
    assert len(rows(ALPHA)) == 2
    for arguments in (["--channel", "alpha"], ["--upto", "3"], ["--channel", "none", "--upto", "3"]):
        with pytest.raises(CommandError):
            run("prune", *arguments)


def test_the_command_new_epoch() -> None:
    fill(ALPHA, [1])
    fill(BETA, [1])
    before = read_states([ALPHA, BETA])
    assert run("new_epoch", "beta") == f"beta has epoch {read_states([BETA])[BETA].epoch}.\n"
    assert read_states([ALPHA])[ALPHA] == before[ALPHA]
    assert read_states([BETA])[BETA].epoch != before[BETA].epoch
    assert run("new_epoch", "--all") == "2 logs have a new epoch.\n"
    assert read_states([ALPHA])[ALPHA].epoch != before[ALPHA].epoch
    for arguments in ([], ["alpha", "--all"], ["none"]):
        with pytest.raises(CommandError):
            run("new_epoch", *arguments)


def test_the_constraints_have_the_last_word() -> None:
    fill(ALPHA, [1] * 3)
    from django.db import IntegrityError, transaction

    for sql in (
        "UPDATE realtime_log SET oldest = 5",
        "UPDATE realtime_log SET head = -1",
        "UPDATE realtime_message SET serial = 0 WHERE serial = 1",
        "UPDATE realtime_message SET mid = 'm2' WHERE serial = 1",
        "UPDATE realtime_namespace SET window_default = 0",
        "UPDATE realtime_namespace SET overflow = 'explode'",
    ):
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql)
