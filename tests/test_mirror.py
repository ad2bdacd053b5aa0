"""Rows in memory: when they are read, what changes meanwhile, and who is told. No database: readings are given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError

from realtime import closings, limits, mirror, namespaces, signing
from realtime.mirror import READS_MOST, Mirror
from realtime.models import Channel, Limit, Namespace, SigningKey
from tests.conftest import MS, eventually


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(mirror, "time", clock)
    return clock


class Rows:
    """A database of one number."""

    def __init__(self) -> None:
        self.number = 1
        self.reads = 0
        self.meanwhile: Callable[[], object] = lambda: None
        """Happens behind a reading, before it is known what it found."""

    def read(self) -> int:
        self.reads += 1
        found = self.number
        self.meanwhile()
        return found


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def copy(rows: Rows) -> Mirror[int]:
    return Mirror("Numbers", rows.read, 0, every_s=15.0)


def test_a_second_is_fresh_and_a_worker_that_looks_after_it_keeps_others_from_reading(
    copy: Mirror[int], rows: Rows, clock: Clock
) -> None:
    assert copy.value == 0 and copy.current() == 1
    rows.number = 2
    clock.now += 0.99
    assert (copy.current(), rows.reads) == (1, 1)
    clock.now += 0.02
    assert (copy.current(), rows.reads) == (2, 2)
    rows.number = 3
    assert copy.refresh() and rows.reads == 2, "it is not time yet"
    clock.now += 4.9
    assert (copy.current(), rows.reads) == (2, 2)
    clock.now += 0.2
    assert (copy.current(), rows.reads) == (3, 3), "the worker is gone"
    assert copy.refresh(now=True) and rows.reads == 4


async def test_on_an_event_loop_nothing_is_read(copy: Mirror[int], rows: Rows, clock: Clock) -> None:
    clock.now += 3600
    copy.stale()
    assert (copy.current(), rows.reads) == (0, 0)


def test_what_is_said_to_be_old_is_read_by_the_next_who_asks(copy: Mirror[int], rows: Rows) -> None:
    heard: list[str] = []
    stop = copy.on_stale(lambda: heard.append("old"))
    copy.refresh()
    rows.number = 2
    assert copy.current() == 1
    copy.stale()
    assert heard == ["old"] and copy.current() == 2
    stop()
    copy.stale()
    assert heard == ["old"]
    rows.number = 3
    copy.refresh()
    assert copy.value == 3, "whatever the time"


def test_a_change_that_comes_while_it_is_read_is_not_lost(copy: Mirror[int], rows: Rows) -> None:
    def changed() -> None:
        rows.number, rows.meanwhile = 2, lambda: None
        copy.stale()

    rows.meanwhile = changed
    assert copy.load() == 2 and rows.reads == 2


def test_facts_that_come_while_it_is_read_are_not_overwritten(copy: Mirror[int], rows: Rows) -> None:
    copy.load()

    def heard() -> None:
        rows.number, rows.meanwhile = 9, lambda: None
        copy.change(lambda before: 9)

    rows.meanwhile = heard
    told: list[tuple[int, int]] = []
    copy.on_change(lambda before, after: told.append((before, after)))
    assert copy.load() == 9 and told == [(1, 9)]


def test_changes_without_end_do_not_keep_a_thread_for_ever(copy: Mirror[int], rows: Rows) -> None:
    rows.meanwhile = copy.stale
    assert copy.load() == 0 and rows.reads == READS_MOST and copy.is_stale


def test_a_reading_that_took_long_does_not_bring_old_rows_back(copy: Mirror[int], rows: Rows, clock: Clock) -> None:
    copy.load()

    def overtaken() -> None:
        rows.number, rows.meanwhile = 2, lambda: None
        clock.now += 0.01
        copy.load()

    rows.meanwhile = overtaken
    assert copy.load() == 2


def test_the_same_rows_are_the_same_value_and_nobody_is_told() -> None:
    found = [{"a": 1}, {"a": 1}, {"a": 2}]
    copy: Mirror[dict[str, int]] = Mirror("Numbers", lambda: found.pop(0), {})
    told: list[object] = []

    def broken(*_: object) -> None:
        raise RuntimeError

    stops = [copy.on_change(broken), copy.on_change(lambda before, after: told.append((before, after)))]
    first = copy.load()
    assert copy.load() is first and told == [({}, {"a": 1})]
    copy.load()
    assert told[1:] == [({"a": 1}, {"a": 2})]
    copy.change(dict)
    for stop in stops:
        stop()
        stop()
    copy.change(lambda before: {})
    assert len(told) == 2 and copy.value == {}


def test_what_was_known_goes_on_while_the_database_is_away(
    copy: Mirror[int], rows: Rows, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    copy.load()

    def away() -> None:
        raise OperationalError("away")

    rows.meanwhile = away
    clock.now += 100
    assert copy.current() == 1 and "Numbers cannot be read" in caplog.text
    with pytest.raises(OperationalError):
        copy.refresh()
    copy.reset()
    assert copy.current() == 0


def test_one_thread_reads_and_the_others_wait_only_for_the_first_reading(copy: Mirror[int], rows: Rows) -> None:
    go_on, reading = threading.Event(), threading.Event()

    def slow() -> None:
        reading.set()
        assert go_on.wait(20_000 * MS)

    def asked(into: list[int]) -> threading.Thread:
        thread = threading.Thread(target=lambda: into.append(copy.current()))
        thread.start()
        return thread

    rows.meanwhile = slow
    first: list[int] = []
    threads = [asked(first)]
    assert reading.wait(20_000 * MS)
    threads.append(asked(first))
    go_on.set()
    for thread in threads:
        thread.join(20_000 * MS)
    assert first == [1, 1], "nobody goes on with nothing"
    go_on.clear()
    reading.clear()
    copy.stale()
    rows.number = 2
    second: list[int] = []
    reader = asked(second)
    assert reading.wait(20_000 * MS)
    assert copy.current() == 1, "it goes on with what there is"
    go_on.set()
    reader.join(20_000 * MS)
    eventually(lambda: second == [2])


# ---------------------------------------------------------------------- a glance before a reading


@pytest.fixture
def glanced(rows: Rows) -> Mirror[int]:
    return Mirror("Numbers", rows.read, 0, glance=lambda: rows.number)


def test_a_worker_reads_again_only_what_looks_otherwise(glanced: Mirror[int], rows: Rows, clock: Clock) -> None:
    for number, reads in ((1, 1), (1, 1), (2, 2), (2, 2), (1, 3)):
        rows.number = number
        clock.now += 1
        assert glanced.refresh()
        assert (glanced.value, rows.reads) == (number, reads)
    glanced.stale()
    assert glanced.refresh() and rows.reads == 4, "it was said to be old"
    assert glanced.refresh(now=True) and rows.reads == 5
    clock.now += 0.5
    assert glanced.current() == 1 and not glanced.is_stale and rows.reads == 5


def test_what_somebody_else_read_is_compared_with_nothing_that_was_seen_before(
    glanced: Mirror[int], rows: Rows
) -> None:
    glanced.refresh()
    rows.number = 2
    assert glanced.load() == 2
    rows.number = 1
    glanced.refresh()
    assert glanced.value == 1, "it looks as it did when the worker read, and is not what was read since"
    glanced.change(lambda before: 7)
    glanced.refresh()
    assert glanced.value == 1


def test_a_reading_that_was_overtaken_is_no_match_for_its_glance(
    glanced: Mirror[int], rows: Rows, clock: Clock
) -> None:
    def overtaken() -> None:
        rows.number, rows.meanwhile = 2, lambda: None
        clock.now += 0.01
        glanced.load()
        rows.number = 1

    rows.meanwhile = overtaken
    glanced.refresh()
    assert glanced.value == 2
    glanced.refresh()
    assert glanced.value == 1


@pytest.fixture
def forgetful(clock: Clock) -> Iterator[None]:
    """The process's own mirrors, as if nobody had read them: those before and after went by another clock."""
    own = (namespaces.mirror, limits.mirror, closings.mirror, signing.mirror)
    for each in own:
        each.reset()
    yield
    for each in own:
        each.reset()


@pytest.mark.django_db
@pytest.mark.usefixtures("forgetful")
def test_a_glance_sees_what_the_reading_depends_on() -> None:
    """Of every mirror that has one, on a real table: a row that comes, changes, and goes, by whatever road."""
    known = namespaces.mirror
    known.refresh(now=True)
    name = "glanced"
    Namespace.objects.bulk_create([Namespace(name=name, window_max=777)])
    known.refresh()
    assert known.value is not None and known.value[name].window_max == 777
    Namespace.objects.filter(name=name).update(window_max=778)
    known.refresh()
    assert known.value[name].window_max == 778
    Namespace.objects.filter(name=name).delete()
    known.refresh()
    assert name not in known.value

    Limit.objects.bulk_create([Limit(scope="client", name="ana", attachments=7)])
    limits.mirror.refresh()
    assert limits.of("ana", None, "room").attachments == 7
    Limit.objects.update(attachments=8)
    limits.mirror.refresh()
    assert limits.of("ana", None, "room").attachments == 8

    Channel.objects.bulk_create([Channel(name="shut", namespace_id="default", closed=datetime.now(UTC))])
    closings.mirror.refresh()
    assert "shut" in closings.mirror.value
    Channel.objects.update(closed=None)
    closings.mirror.refresh()
    assert "shut" not in closings.mirror.value

    signing.mirror.refresh()
    key = signing.generate("HS256")
    signing.mirror.refresh()
    assert key.kid in signing.mirror.value[0]
    SigningKey.objects.update(retires=datetime.now(UTC) + timedelta(seconds=1))
    signing.mirror.refresh()
    seen = signing.mirror.value
    assert key.kid in seen[0]

    def is_retired() -> bool:
        signing.mirror.refresh()
        return key.kid not in signing.mirror.value[0]

    eventually(is_retired)
