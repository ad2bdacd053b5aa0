"""`manage.py feed`: publishes the demo's live data once a second over REST, as a backend of its own would.

It may be killed and started at any moment. The id of a message says what it is (the second it was read at, the day it
replays), so trying again stores nothing twice; what could not be published waits in memory and goes in order; a start
first publishes what the last five minutes lack. See docs/how-to/publish-from-a-backend.md.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from threading import Event
from types import FrameType
from typing import Any, Final, NamedTuple

from django.core.management.base import BaseCommand, CommandError, CommandParser

from dashboards import mast, match, quiz, replay
from realtime.tokens import issue_token

CLIENT: Final = "demo-feed"
PERIOD_S: Final = 1
#: Seconds before the start whose messages are published if the log lacks them.
BACKFILL_S: Final = 300
#: Messages kept while the server is away, about seven a second; then the oldest go, as in a real mast's memory.
KEPT_MOST: Final = 25_000
#: Messages in one request; the interface takes 1000.
BATCH: Final = 300
TOKEN_TTL_S: Final = 600
TIMEOUT_S: Final = 10
RETRY_S: Final = (0.5, 1, 2, 4, 8)
#: How often a question is said again, stored once: a feed that starts in the middle of a round has one too.
QUESTION_EVERY_S: Final = 60

CHANNELS: Final = (
    mast.CHANNEL,
    match.SCORES,
    match.COMMENTARY,
    quiz.CHANNEL,
    *(replay.channel_of(speed) for speed in replay.SPEEDS),
)
#: Codes of an item's error after which the same is worth trying again.
PASSING: Final = {"unavailable", "rate_limited", "internal"}


class Waiting(NamedTuple):
    channel: str
    message: dict[str, Any]


def messages_of(second: int) -> Iterator[Waiting]:
    """Everything that this second has to say."""
    yield Waiting(mast.CHANNEL, {"id": f"mast-{second}", "event": "reading", "data": mast.reading(second)})
    yield Waiting(
        match.SCORES, {"id": f"score-{second}", "event": "score", "key": "match", "data": match.score(second)}
    )
    said = match.commentary(second)
    if said is not None:
        yield Waiting(match.COMMENTARY, {"id": f"said-{second}", "event": "commentary", "data": said})
    for speed in replay.SPEEDS:
        for number, day in replay.replayed(second, speed):
            yield Waiting(replay.channel_of(speed), {"id": f"day-{number}", "event": "day", "data": day})
    if second % QUESTION_EVERY_S == 0:
        round_ = quiz.round_of(second)
        text, choices = quiz.question_of(round_)
        data = {"round": round_, "text": text, "choices": list(choices)}
        yield Waiting(quiz.CHANNEL, {"id": f"question-{round_}", "event": "question", "key": "question", "data": data})


class Command(BaseCommand):
    help = "Publish the demo's live data, once a second, until stopped."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--url", default="http://127.0.0.1:8000", help="The site's address.")
        parser.add_argument("--count", type=int, help="Stop after so many seconds' data (default: never).")
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
        feed.read(range(now - BACKFILL_S, now, PERIOD_S))
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
    """Messages that wait to be published, oldest first."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/v1/publish"
        self.waiting: deque[Waiting] = deque(maxlen=KEPT_MOST)
        self.read_through = 0
        self._token = ("", 0.0)
        self._failures = 0

    def read(self, seconds: range) -> int:
        """Take the messages of these seconds; how many seconds they were."""
        # After a long sleep of the machine only what would be kept is worth computing.
        taken = seconds[-KEPT_MOST // 7 :]
        for second in taken:
            self.waiting.extend(messages_of(second))
        if taken:
            self.read_through = taken[-1]
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

    def _post(self, batch: Sequence[Waiting]) -> float | None:
        """None: all is stored. Otherwise how long the server asked to wait, 0 where it said nothing."""
        by_channel: dict[str, list[dict[str, Any]]] = {}
        for channel, message in batch:
            by_channel.setdefault(channel, []).append(message)
        items = [{"channel": channel, "messages": messages} for channel, messages in by_channel.items()]
        request = urllib.request.Request(
            self._url,
            json.dumps({"items": items}).encode(),
            {"Authorization": f"Bearer {self._fresh_token()}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return _retry_of(json.load(response)["items"])
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (401, 408, 429):
                raise CommandError(f"The server refuses the data: {error.code} {error.read().decode()}") from None
            self._token = ("", 0.0)
            return float(error.headers.get("Retry-After") or 0)
        except OSError:
            # Not there, or gone before it answered: whether it was stored is unknown, and the ids make that harmless.
            return 0

    def _fresh_token(self) -> str:
        if time.time() > self._token[1] - 60:
            self._token = issue_token(CLIENT, {channel: ["publish"] for channel in CHANNELS}, TOKEN_TTL_S)
        return self._token[0]


def _retry_of(items: Sequence[dict[str, Any]]) -> float | None:
    """What the answers to the items together mean: None, or how long to wait before the whole batch goes again."""
    errors = [item["error"] for item in items if "error" in item]
    for error in errors:
        if error["code"] not in PASSING:
            raise CommandError(f"The server refuses the data: {error['message']}")
    return max((error.get("retry_after_ms", 0) / 1000 for error in errors), default=None)
