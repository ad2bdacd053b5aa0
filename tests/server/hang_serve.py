"""`manage.py serve` that can be made to hang: `python -m tests.server.hang_serve --port N`.

SIGUSR1: the event loop hangs. SIGUSR2: a thread hangs that Python waits for at its end. FIRST_REQUEST_S in the
environment replaces the server's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import django
from django.core.management import execute_from_command_line

HANG_S = 120

pool = ThreadPoolExecutor(1)


def main() -> None:
    django.setup()
    run: Any = import_module("realtime.server.run")
    run.FIRST_REQUEST_S = float(os.environ.get("FIRST_REQUEST_S", run.FIRST_REQUEST_S))
    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(HANG_S))
    signal.signal(signal.SIGUSR2, lambda *_: pool.submit(time.sleep, HANG_S))
    execute_from_command_line(["manage.py", "serve", *sys.argv[1:]])


if __name__ == "__main__":
    main()
