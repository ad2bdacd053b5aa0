"""Helpers of the log's tests: short ways to publish, and the one check of what a log must look like."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from django.db import connection, transaction

from realtime.log import Append, LogWriter, News, Published, read_states, run_round_now
from realtime.models import Latest, Message
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import NewMessage
from realtime.protocol.names import ChannelName
from tests.conftest import MS, eventually

ALPHA, BETA, GAMMA = ChannelName("alpha"), ChannelName("beta"), ChannelName("gamma")

#: The id of a message that the database refuses, see `refusing_rows`.
BAD = "bad"


def message(mid: str, data: str = "1", key: str | None = None) -> NewMessage:
    return NewMessage(mid, "message", key, data)


def append(channel: ChannelName, *mids: str, client: str = "ana", previous: Append | None = None) -> Append:
    return Append(channel, client, [message(mid) for mid in mids], previous=previous)


def publish(*appends: Append) -> list[Published | ProtocolError | None]:
    """One round in this thread; the outcomes."""
    run_round_now(appends)
    return [each.outcome for each in appends]


def stored(outcome: object) -> list[int]:
    """The serials of an append that must have succeeded."""
    assert isinstance(outcome, Published), outcome
    return outcome.serials


def code(outcome: object) -> str:
    """The error code of an append that must have failed."""
    assert isinstance(outcome, ProtocolError), outcome
    return outcome.code


def channel_id_of(channel: ChannelName) -> int:
    found = read_states([channel])[channel].channel_id
    assert found is not None
    return found


class Row(NamedTuple):
    serial: int
    client: str
    mid: str
    key: str | None
    time: int
    envelope: str


def rows(channel: ChannelName) -> list[Row]:
    """All rows that exist, retained or not, in serial order."""
    channel_id = channel_id_of(channel)
    found = Message.objects.filter(channel_id=channel_id).order_by("serial")
    return list(itertools.starmap(Row, found.values_list("serial", "client", "mid", "key", "time", "envelope")))


def check_log(channel: ChannelName) -> list[Row]:
    """Everything that holds for a log at any moment; returns its retained rows.

    Serials oldest … head without a hole, ids unique, time never decreasing, each envelope that of its row, and
    `Latest` naming the newest row of each key.
    """
    state = read_states([channel])[channel]
    everything = rows(channel)
    retained = [row for row in everything if row.serial >= state.oldest]
    assert [row.serial for row in retained] == list(range(state.oldest, state.head + 1)), (state, retained)
    twice = [identity for identity, count in Counter((r.client, r.mid) for r in everything).items() if count > 1]
    assert not twice, twice
    for before, after in itertools.pairwise(everything):
        assert before.time <= after.time, (before, after)
    if retained:
        assert retained[-1].time == state.last_time
    for row in everything:
        envelope = msgspec.json.decode(row.envelope)
        told = (envelope["channel"], envelope["serial"], envelope["client"] or "", envelope["id"], envelope["time"])
        assert told == (channel, row.serial, row.client, row.mid, row.time)
    newest = {row.key: row.serial for row in everything if row.key is not None}
    latest = dict(Latest.objects.filter(channel_id=channel_id_of(channel)).values_list("key", "serial"))
    assert latest.items() <= newest.items(), (latest, newest)
    return retained


class Writing:
    """A running writer that remembers what it said, and whether it said it once."""

    def __init__(self, **arguments: Any) -> None:
        self.writer = LogWriter(self._on_round, **arguments)
        self.settled: list[Append] = []
        self.news: list[News] = []
        #: Cleared: the writer's thread waits in `on_round`.
        self.go_on = threading.Event()
        self.go_on.set()

    def _on_round(self, appends: list[Append], news: list[News]) -> None:
        self.settled += appends
        self.news += news
        assert self.go_on.wait(30_000 * MS)

    def submit(self, *appends: Append) -> None:
        for each in appends:
            self.writer.submit(each)

    def wait(self, *appends: Append) -> list[Published | ProtocolError | None]:
        """Until all of them were told; their outcomes."""
        eventually(lambda: set(appends) <= set(self.settled), 20_000 * MS, what="all appends are settled")
        return [each.outcome for each in appends]

    def publish(self, *appends: Append) -> list[Published | ProtocolError | None]:
        self.submit(*appends)
        return self.wait(*appends)

    def check_told(self, submitted: Sequence[Append]) -> None:
        """Each append was told once; the news are the new messages, each once."""
        assert Counter(map(id, self.settled)) == Counter(map(id, submitted))
        told = [(n.channel, n.first + i) for n in self.news for i in range(len(n.frames))]
        new = [
            (a.channel, serial)
            for a in submitted
            if isinstance(a.outcome, Published)
            for i, serial in enumerate(a.outcome.serials)
            if i not in a.outcome.duplicates
        ]
        assert Counter(told) == Counter(new)


@contextmanager
def writing(**arguments: Any) -> Iterator[Writing]:
    """A writer that is started, and stopped at the end."""
    world = Writing(**arguments)
    world.writer.start()
    try:
        yield world
    finally:
        world.go_on.set()
        assert world.writer.stop(20_000 * MS)


def refuse_rows() -> None:
    """Have the database refuse messages whose id begins with "bad", as a constraint would."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                "CREATE TRIGGER refuse_bad BEFORE INSERT ON realtime_message WHEN new.mid LIKE 'bad%'"
                " BEGIN SELECT raise(ABORT, 'refused by the test'); END"
            )
        else:
            cursor.execute("ALTER TABLE realtime_message ADD CONSTRAINT refuse_bad CHECK (mid NOT LIKE 'bad%')")


def accept_rows() -> None:
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("DROP TRIGGER IF EXISTS refuse_bad")
        else:
            cursor.execute("ALTER TABLE realtime_message DROP CONSTRAINT IF EXISTS refuse_bad")


@contextmanager
def other_connection() -> Iterator[Any]:
    """A driver connection to the test database, in autocommit, that Django knows nothing of."""
    settings = connection.settings_dict
    if connection.vendor == "sqlite":
        import sqlite3

        other: Any = sqlite3.connect(settings["NAME"], isolation_level=None, timeout=30, check_same_thread=False)
    else:
        import psycopg

        other = psycopg.connect(
            host=settings["HOST"],
            port=settings["PORT"],
            user=settings["USER"],
            password=settings["PASSWORD"] or None,
            dbname=settings["NAME"],
            autocommit=True,
        )
    try:
        yield other
    finally:
        other.close()


@contextmanager
def log_locked(channel: ChannelName) -> Iterator[None]:
    """Another connection holds the channel's log (PostgreSQL)."""
    with other_connection() as other:
        other.execute("BEGIN")
        other.execute(
            "SELECT 1 FROM realtime_log l JOIN realtime_channel c ON c.id = l.channel_id WHERE c.name = %s FOR UPDATE",
            [channel],
        )
        yield
        other.execute("ROLLBACK")


#: What a restore brings back, in the order in which it can.
TABLES = ("realtime_channel", "realtime_log", "realtime_message", "realtime_latest", "realtime_incarnation")


def execute(*statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


class Saved:
    """A copy of the log's tables, and the way back to it: rows on PostgreSQL, pages of the file on SQLite."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "saved.sqlite3"
        if connection.vendor == "sqlite":
            self._copy(connection.settings_dict["NAME"], str(self.file))
        else:
            execute(
                "DROP SCHEMA IF EXISTS saved CASCADE",
                "CREATE SCHEMA saved",
                *(f"CREATE TABLE saved.{table} AS SELECT * FROM {table}" for table in TABLES),
            )

    def restore(self, tables: tuple[str, ...] = TABLES) -> None:
        """As one transaction, under the eyes of everybody who has the database open."""
        if connection.vendor == "sqlite":
            self._copy(str(self.file), connection.settings_dict["NAME"])
            return
        with transaction.atomic():
            execute(f"TRUNCATE {', '.join(tables)} CASCADE")
            execute(*(f"INSERT INTO {table} SELECT * FROM saved.{table}" for table in tables))

    @staticmethod
    def _copy(source: str, target: str) -> None:
        with closing(sqlite3.connect(source)) as copied, closing(sqlite3.connect(target, timeout=20)) as changed:
            copied.backup(changed)
