"""A process of an application that publishes inside its transactions until it is ended; for `tests.e2e.outbox` and the
torture.

    python -m tests.e2e.outbox_publisher table              makes the application's table
    python -m tests.e2e.outbox_publisher publish NAME DONE  publishes; appends a letter per transaction to the file DONE
    python -m tests.e2e.outbox_publisher report             what was committed and what is in the log, as JSON

Every message stands beside a row of the application, a fact, in the same transaction: (connection, transaction, index).
Afterwards facts and messages must be the same. SIGTERM lets open transactions end; SIGKILL is what it is for. The
variable MUTANT names a fault to build in (`tests.e2e.mutant_serve`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import django

django.setup()

from django.conf import settings  # noqa: E402  (after setup)
from django.db import Error, connection, connections, transaction  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402

from realtime.protocol.errors import ProtocolError  # noqa: E402
from realtime.publishing import publish  # noqa: E402
from tests.e2e.mutant_serve import MUTANTS  # noqa: E402

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
channels: list[str] = []
client = ""
ending = threading.Event()


def say() -> None:
    """A fact and the message about it."""
    me.index += 1
    channel = me.random.choice(channels)
    fact: list[str | int] = [channel, me.name, me.number, me.index]
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO outbox_fact (channel, who, number, place) VALUES (%s, %s, %s, %s)", fact)
    publish(channel, fact, client=client)


def several() -> None:
    for _ in range(me.random.randint(1, 3)):
        say()


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
        say()
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


def publish_until_ended(name: str, done: str, rate: float) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.LOGGING_CONFIG = None
    connections.settings["default"]["ATOMIC_REQUESTS"] = True
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    parent = os.getppid()
    letters = os.open(done, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    pause_s = THREADS / rate if rate else 0.0
    threads = [
        threading.Thread(target=_work, args=(f"{name}.{number}", letters, parent, pause_s), daemon=True)
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)  # not for ever: a signal is handled in between


def _work(name: str, letters: int, parent: int, pause_s: float) -> None:
    me.name, me.random = name, random.Random(name)
    try:
        for me.number in itertools.count():
            if os.getppid() != parent:
                os._exit(0)
            if ending.is_set():
                return
            me.index = 0
            (letter, kind) = me.random.choices(KINDS, WEIGHTS)[0]
            with _outcomes(letter) as outcome:
                kind()
            os.write(letters, outcome[0].encode())
            if pause_s:
                time.sleep(me.random.expovariate(1 / pause_s))
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # whoever started this process sees it, which a thread that ends would not show


@contextmanager
def _outcomes(letter: str) -> Iterator[list[str]]:
    """What became of a transaction: its letter, or "x" when the database failed it. Whether that committed, its facts
    will tell."""
    outcome = [letter]
    try:
        yield outcome
    except Abandoned:
        pass
    except Error:
        outcome[0] = "x"
        connection.close()
    except ProtocolError as error:
        if error.code != "unavailable":
            raise
        outcome[0] = "x"
        connection.close()


WHO_RELAYS = """
CREATE TABLE outbox_relay (pid integer);
CREATE FUNCTION note_relay() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO outbox_relay VALUES (pg_backend_pid()); RETURN NULL; END $$;
CREATE TRIGGER note_relay AFTER DELETE ON realtime_outbox FOR EACH STATEMENT EXECUTE FUNCTION note_relay();
"""


def make_table() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE outbox_fact (channel varchar(20), who varchar(60), number integer, place integer,"
            " PRIMARY KEY (who, number, place))"
        )
        if connection.vendor == "postgresql":
            cursor.execute(WHO_RELAYS)


def report() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM realtime_outbox")
        waiting = cursor.fetchone()[0]
        cursor.execute("SELECT channel, who, number, place FROM outbox_fact")
        facts = [list(row) for row in cursor.fetchall()]
        cursor.execute("SELECT envelope FROM realtime_message ORDER BY channel_id, serial")
        messages = [json.loads(row[0]) for row in cursor.fetchall()]
    said = [[message["channel"], message["serial"], message["data"]] for message in messages]
    print(json.dumps({"waiting": waiting, "facts": facts, "messages": said, "relays": _relays()}))


def report_relays() -> None:
    print(json.dumps({"relays": _relays()}))


def _relays() -> list[int]:
    """How often each connection has relayed; only PostgreSQL tells."""
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM outbox_relay GROUP BY pid")
        return [row[0] for row in cursor.fetchall()]


def main() -> None:
    global channels, client
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.outbox_publisher")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    commands.add_parser("report")
    commands.add_parser("relays")
    publishing = commands.add_parser("publish")
    publishing.add_argument("name", help="of this process; its connections are called after it")
    publishing.add_argument("done", help="file that gets a letter per transaction")
    publishing.add_argument("--channels", default="a,b,c")
    publishing.add_argument("--client", default="", help="whom the messages are from (default: nobody)")
    publishing.add_argument("--rate", type=float, default=0, help="transactions a second (default: all it can)")
    given = parser.parse_args()
    if mutant := os.environ.get("MUTANT"):
        MUTANTS[mutant]()
    match given.command:
        case "table":
            make_table()
        case "publish":
            channels, client = given.channels.split(","), given.client
            publish_until_ended(given.name, given.done, given.rate)
        case "relays":
            report_relays()
        case _:
            report()


if __name__ == "__main__":
    # As a module of its own name: the addresses above are found by it.
    from tests.e2e import outbox_publisher

    outbox_publisher.main()
