"""`manage.py feed`: publishes the mast's readings once a second over REST, as a backend of its own would.

It may be killed and started at any moment. The id of a message is the second it was read at, so trying again stores
nothing twice; readings that could not be published wait in memory and go in order; a start first publishes what the
last five minutes lack. See docs/how-to/publish-from-a-backend.md.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Sequence
from threading import Event
from types import FrameType
from typing import Any, Final
from urllib.parse import quote

from django.core.management.base import BaseCommand, CommandError, CommandParser

from dashboards.mast import CHANNEL, PERIOD_S, Reading, reading
from realtime.tokens import issue_token

CLIENT: Final = "weather-mast"
#: Readings from before the start that are published if the log lacks them.
BACKFILL: Final = 300
#: Readings kept while the server is away; then the oldest go, as a real mast's memory would be full.
KEPT_MOST: Final = 3600
#: Messages in one request; the interface takes 1000.
BATCH: Final = 300
TOKEN_TTL_S: Final = 600
TIMEOUT_S: Final = 10
RETRY_S: Final = (0.5, 1, 2, 4, 8)


class Command(BaseCommand):
    help = "Publish the demo's weather readings, one a second, until stopped."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--url", default="http://127.0.0.1:8000", help="The site's address.")
        parser.add_argument("--count", type=int, help="Stop after so many readings (default: never).")
        parser.add_argument(
            "--with-parent", action="store_true", help="Stop when the process that started this one is gone."
        )

    def handle(self, *args: Any, url: str, count: int | None, with_parent: bool, **options: Any) -> None:
        if not url.startswith(("http://", "https://")):
            raise CommandError("--url begins with http:// or https://.")
        stopping = Event()

        def stop(number: int, frame: FrameType | None) -> None:
            stopping.set()

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        parent = os.getppid()
        feed = Feed(url.rstrip("/"))
        now = int(time.time())
        feed.read(range(now - BACKFILL, now, PERIOD_S))
        done = 0
        while not stopping.is_set() and (count is None or done < count):
            if with_parent and os.getppid() != parent:
                return
            now = int(time.time())
            done += feed.read(range(feed.read_through + 1, now + 1, PERIOD_S))
            wait_s = feed.publish()
            # To just after the next full second, unless the server asked for a pause.
            stopping.wait(wait_s or PERIOD_S - time.time() % PERIOD_S + 0.01)
        while feed.waiting and not stopping.is_set() and not feed.publish():
            pass


class Feed:
    """Readings that wait to be published, oldest first."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/v1/channels/{quote(CHANNEL, safe='')}/messages"
        self.waiting: deque[Reading] = deque(maxlen=KEPT_MOST)
        self.read_through = 0
        self._token = ("", 0.0)
        self._failures = 0

    def read(self, seconds: range) -> int:
        """Take the readings of these seconds; how many they were."""
        # After a long sleep of the machine only what would be kept is worth computing.
        taken = [reading(second) for second in seconds[-KEPT_MOST:]]
        self.waiting.extend(taken)
        if taken:
            self.read_through = taken[-1]["at"]
        return len(taken)

    def publish(self) -> float:
        """Publish the oldest of what waits. Returns how long to wait before trying again, 0 after a success."""
        batch = [self.waiting[index] for index in range(min(BATCH, len(self.waiting)))]
        if not batch:
            return 0
        retry_s = self._post(batch)
        if retry_s is None:
            for _ in batch:
                self.waiting.popleft()
            self._failures = 0
            return 0.01 if self.waiting else 0
        self._failures += 1
        return retry_s or RETRY_S[min(self._failures, len(RETRY_S)) - 1]

    def _post(self, batch: Sequence[Reading]) -> float | None:
        """None: stored. Otherwise how long the server asked to wait, 0 where it said nothing."""
        messages = [{"id": f"mast-{each['at']}", "event": "reading", "data": each} for each in batch]
        request = urllib.request.Request(
            self._url,
            json.dumps({"messages": messages}).encode(),
            {"Authorization": f"Bearer {self._fresh_token()}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                return None
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (401, 408, 429):
                raise CommandError(f"The server refuses the readings: {error.code} {error.read().decode()}") from None
            self._token = ("", 0.0)
            return float(error.headers.get("Retry-After") or 0)
        except OSError:
            # Not there, or gone before it answered: whether it was stored is unknown, and the ids make that harmless.
            return 0

    def _fresh_token(self) -> str:
        if time.time() > self._token[1] - 60:
            self._token = issue_token(CLIENT, {CHANNEL: ["publish"]}, TOKEN_TTL_S)
        return self._token[0]
