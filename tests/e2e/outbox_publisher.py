"""A process of an application that publishes inside its transactions until it is killed; for `tests.e2e.outbox`.

    python -m tests.e2e.outbox_publisher table              makes the application's table
    python -m tests.e2e.outbox_publisher publish NAME DONE  publishes; appends a letter per transaction to the file DONE
    python -m tests.e2e.outbox_publisher report             what was committed and what is in the log, as JSON

Every message stands beside a row of the application, a fact, in the same transaction: (connection, transaction, index).
Afterwards facts and messages must be the same.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import django

django.setup()

from django.conf import settings  # noqa: E402  (after setup)
from django.db import DatabaseError, connection, connections, transaction  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402

from realtime.publishing import publish  # noqa: E402

CHANNELS = ("a", "b", "c")
THREADS = 2


class Abandoned(Exception):
    """The application changes its mind."""


class Connection(threading.local):
    """One thread of this process: its own database connection, whose transactions have an order."""

    name = ""
    random = random.Random()
    number = 0
    index = 0


me = Connection()


def say(channel: str) -> None:
    """A fact and the message about it."""
    me.index += 1
    fact: list[str | int] = [channel, me.name, me.number, me.index]
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO outbox_fact (channel, who, number, place) VALUES (%s, %s, %s, %s)", fact)
    publish(channel, fact)


def several() -> None:
    for _ in range(me.random.randint(1, 3)):
        say(me.random.choice(CHANNELS))


def plain() -> None:
    with transaction.atomic():
        several()


def rolled_back() -> None:
    with transaction.atomic():
        several()
        raise Abandoned


def savepoints() -> None:
    """One of two savepoints is rolled back; what is around them commits."""
    with transaction.atomic():
        say(me.random.choice(CHANNELS))
        for keeps in me.random.sample([True, False], 2):
            try:
                with transaction.atomic():
                    several()
                    if not keeps:
                        raise Abandoned
            except Abandoned:
                pass
        several()


def nested_rolled_back() -> None:
    """A savepoint was released, then everything is rolled back."""
    with transaction.atomic():
        with transaction.atomic():
            several()
        raise Abandoned


def request() -> None:
    """A view under ATOMIC_REQUESTS."""
    Client(raise_request_exception=False).get("/commits")


def failed_request() -> None:
    answer = Client(raise_request_exception=False).get("/fails")
    assert answer.status_code == 500
    raise Abandoned


def commits(request: HttpRequest) -> HttpResponse:
    several()
    return HttpResponse("kept")


def fails(request: HttpRequest) -> HttpResponse:
    several()
    raise Abandoned


urlpatterns = [path("commits", commits), path("fails", fails)]

#: Letter in the file of what is done, and the kind. A third is rolled back.
KINDS: tuple[tuple[str, Callable[[], None]], ...] = (
    ("p", plain),
    ("s", savepoints),
    ("q", request),
    ("r", rolled_back),
    ("n", nested_rolled_back),
    ("f", failed_request),
)
WEIGHTS = (22, 22, 22, 12, 11, 11)


def publish_until_killed(name: str, done: int) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.LOGGING_CONFIG = None
    connections.settings["default"]["ATOMIC_REQUESTS"] = True
    parent = os.getppid()
    for number in range(THREADS):
        threading.Thread(target=_work, args=(f"{name}.{number}", done, parent), daemon=True).start()
    threading.Event().wait()


def _work(name: str, done: int, parent: int) -> None:
    me.name, me.random = name, random.Random(name)
    for me.number in itertools.count():
        if os.getppid() != parent:
            os._exit(0)
        me.index = 0
        (letter, kind) = me.random.choices(KINDS, WEIGHTS)[0]
        with _outcomes(letter) as outcome:
            kind()
        os.write(done, outcome[0].encode())


@contextmanager
def _outcomes(letter: str) -> Iterator[list[str]]:
    """What became of a transaction: its letter, or "x" when the database was too busy and rolled it back."""
    outcome = [letter]
    try:
        yield outcome
    except Abandoned:
        pass
    except DatabaseError:
        outcome[0] = "x"
        connection.close()


def make_table() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE outbox_fact (channel varchar(20), who varchar(60), number integer, place integer,"
            " PRIMARY KEY (who, number, place))"
        )


def report() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM realtime_outbox")
        waiting = cursor.fetchone()[0]
        cursor.execute("SELECT channel, who, number, place FROM outbox_fact")
        facts = [list(row) for row in cursor.fetchall()]
        cursor.execute("SELECT envelope FROM realtime_message ORDER BY channel_id, serial")
        messages = [json.loads(row[0]) for row in cursor.fetchall()]
    said = [[message["channel"], message["serial"], message["data"]] for message in messages]
    print(json.dumps({"waiting": waiting, "facts": facts, "messages": said}))


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "table":
        make_table()
    elif what == "publish":
        # As a module of its own name: the addresses above are found by it.
        from tests.e2e import outbox_publisher

        outbox_publisher.publish_until_killed(
            arguments[0], os.open(arguments[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        )
    else:
        report()
