"""`manage.py serve` that counts what is alive: `python -m tests.server.count_serve FILE --port N`.

The collector is off, so that whatever is in a circle stays. At SIGUSR1 it counts the objects of a connection by class
and writes them to FILE as JSON.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections import Counter
from pathlib import Path

import django
from django.core.management import execute_from_command_line

OF_A_CONNECTION = {
    "Connection",
    "ConnectionRequest",
    "HTTPChannel",
    "Place",
    "Protocol",
    "RealtimeConsumer",
    "SeriatimRequest",
    "Server",
    "Session",
    "Socket",
    "SocketLink",
    "Subscriber",
    "Task",
    "_GenericHTTPChannelProtocol",
    "socket",
}
"""Classes of which there is one or more for each connection, by name: they come from six libraries. Not `Identity`,
which is remembered for the next connection with the same token."""


def count(path: Path) -> None:
    found = Counter(type(each).__name__ for each in gc.get_objects())
    # Whole, or not there yet.
    part = path.with_suffix(".part")
    part.write_text(json.dumps({name: found[name] for name in sorted(OF_A_CONNECTION)}))
    part.rename(path)


def main() -> None:
    path, arguments = Path(sys.argv[1]), sys.argv[2:]
    django.setup()
    signal.signal(signal.SIGUSR1, lambda *_: count(path))
    gc.disable()
    execute_from_command_line(["manage.py", "serve", *arguments])


if __name__ == "__main__":
    main()
