"""The rules of namespaces: in memory, fresh within a second, never read on an event loop once warm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from realtime import mirror, namespaces
from realtime.models import Namespace
from realtime.namespaces import Rules, all_rules, load, rules_for, rules_named
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import parse_channel

CHANNEL = parse_channel("rules:x")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def cold() -> Iterator[None]:
    namespaces.reset()
    yield
    namespaces.reset()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(mirror, "time", clock)
    return clock


@pytest.fixture
def namespace(db: None) -> Namespace:
    return Namespace.objects.create(name="rules", retention_messages=5, known_ops=["subscribe"], publish_rate=3)


def test_every_field_of_a_namespace_is_a_rule() -> None:
    columns = {field.name for field in Namespace._meta.get_fields() if field.concrete}
    assert set(namespaces._COLUMNS) == columns


def test_rules_are_typed(namespace: Namespace) -> None:
    rules = rules_for(CHANNEL)
    assert rules.name == "rules" and rules.retention_messages == 5
    assert rules.known_ops == {"subscribe"} and rules.anonymous_ops == frozenset()
    assert (rules.publish_rate, rules.publish_burst_count) == (3, 3)
    assert rules_named("rules") is rules and all_rules()["rules"] is rules
    assert hash(rules)


def test_the_message_limit_never_exceeds_the_platforms(realtime_settings: Any) -> None:
    realtime_settings(MAX_MESSAGE_BYTES=100)
    assert Rules("x").message_limit_bytes == 100
    assert Rules("x", max_message_bytes=50).message_limit_bytes == 50
    assert Rules("x", max_message_bytes=500).message_limit_bytes == 100


def test_an_unknown_namespace_is_not_found(namespace: Namespace) -> None:
    with pytest.raises(ProtocolError) as caught:
        rules_for(parse_channel("nobody:x"))
    assert caught.value.code == "not_found" and caught.value.channel == "nobody:x"
    assert rules_named("nobody") is None


def test_warm_rules_cost_no_query_for_a_second(
    namespace: Namespace, clock: Clock, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(1):
        rules_for(CHANNEL)
        clock.now += 0.99
        rules_for(CHANNEL)
    Namespace.objects.filter(name="rules").update(retention_messages=6)
    clock.now += 0.02
    with django_assert_num_queries(1):
        assert rules_for(CHANNEL).retention_messages == 6


def test_while_a_worker_refreshes_requests_never_read(
    namespace: Namespace, clock: Clock, django_assert_num_queries: Any
) -> None:
    namespaces.mirror.refresh()
    with django_assert_num_queries(0):
        clock.now += 4.9
        rules_for(CHANNEL)
    with django_assert_num_queries(1):
        clock.now += 0.2
        rules_for(CHANNEL)


def test_saving_and_deleting_hold_at_once_in_this_process(namespace: Namespace, clock: Clock) -> None:
    namespaces.mirror.refresh()
    namespace.retention_messages = 7
    namespace.save()
    assert rules_for(CHANNEL).retention_messages == 7
    namespace.delete()
    assert rules_named("rules") is None


def test_a_commit_makes_rules_stale_again(
    namespace: Namespace, clock: Clock, django_capture_on_commit_callbacks: Any
) -> None:
    """Another thread may read the old row between the save and the commit."""
    namespaces.mirror.refresh()
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        namespace.save()
        load()
        Namespace.objects.filter(name="rules").update(retention_messages=8)
    assert rules_for(CHANNEL).retention_messages == 8


async def test_on_an_event_loop_warm_rules_are_served_however_old(clock: Clock) -> None:
    namespaces.mirror.value = {"rules": Rules("rules")}
    clock.now += 3600
    namespaces.mirror.stale()
    assert rules_for(CHANNEL).name == "rules"


async def test_on_an_event_loop_a_cold_cache_is_unavailable() -> None:
    with pytest.raises(ProtocolError) as caught:
        rules_for(CHANNEL)
    assert caught.value.code == "unavailable" and caught.value.retry_after_ms


def test_old_rules_go_on_while_the_database_is_away(
    namespace: Namespace, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()

    def away() -> None:
        raise DatabaseError("away")

    monkeypatch.setattr(namespaces.mirror, "load", away)
    clock.now += 100
    assert rules_for(CHANNEL).name == "rules"
    namespaces.reset()
    with pytest.raises(ProtocolError) as caught:
        rules_for(CHANNEL)
    assert caught.value.code == "unavailable"


def test_listeners_hear_of_other_rules_only(namespace: Namespace) -> None:
    told: list[int] = []

    def broken(*_: object) -> None:
        raise RuntimeError

    load()
    stops = [namespaces.mirror.on_change(each) for each in (broken, lambda *_: told.append(1))]
    load()
    assert told == []
    Namespace.objects.filter(name="rules").update(retention_messages=9)
    load()
    assert told == [1]
    for stop in stops:
        stop()


def test_operations_that_are_no_list_grant_nothing(namespace: Namespace) -> None:
    Namespace.objects.filter(name="rules").update(known_ops="publish", anonymous_ops=["publish", 5])
    load()
    assert rules_for(CHANNEL).known_ops == frozenset()
    assert rules_for(CHANNEL).anonymous_ops == {"publish"}


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_connection_that_broke_is_replaced_at_once() -> None:
    """A thread outside of requests would fail for ever after a restart of the database."""
    Namespace.objects.create(name="rules")
    load()
    assert connection.connection is not None
    connection.connection.close()
    namespaces.mirror.refresh()
    assert rules_for(CHANNEL).name == "rules"


@pytest.mark.django_db
def test_a_connection_that_works_is_kept_though_a_query_failed() -> None:
    connection.errors_occurred = True
    assert mirror.drop_broken_connections() is False
    assert connection.connection is not None
