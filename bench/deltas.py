"""What deltas save: bytes of the frames that a subscriber gets, plain, compressed, as deltas, and both.

    python -m bench.deltas [--messages 300]

Payloads of the dashboards are replayed through what makes frames in a worker (envelope, delta, compression), and the
bytes of the frames are counted. No server is needed, and chance decides nothing. The readings of workers are drawn, but
go through the function that makes them on the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()

from dashboards import mast, match, replay, server  # noqa: E402
from realtime.conf import settings  # noqa: E402
from realtime.delivery.deltas import Deltas  # noqa: E402
from realtime.links import DEFLATE, WEBSOCKET  # noqa: E402
from realtime.protocol.fossil import delta  # noqa: E402
from realtime.protocol.messages import NewMessage, data_of, envelope  # noqa: E402

START_MS = 1_763_812_345_678
TURNS = 5


def workers(count: int) -> Iterator[tuple[str | None, object]]:
    """What workers say of themselves, in turn, every two seconds."""
    dice = random.Random(5)
    reading = [_reading(f"w{number + 1}", dice, None) for number in range(count)]
    at_s = 0.0
    while True:
        at_s += server.PERIOD_S
        for number in range(count):
            before = reading[number]
            reading[number] = _reading(f"w{number + 1}", dice, before)
            row = server.row((at_s - server.PERIOD_S, before), (at_s, reading[number]), START_MS / 1000 + at_s)
            yield f"w{number + 1}", row


def _reading(name: str, dice: random.Random, before: dict[str, object] | None) -> dict[str, object]:
    def more(metric: str, most: float) -> float:
        earlier = 0.0 if before is None else float(str(before[metric]))
        return earlier + dice.random() * most

    connections = 1200 if before is None else int(str(before["connections"])) + dice.randint(-3, 3)
    return {
        "worker": name,
        "connections": connections,
        "attachments": 3 * connections,
        "channels_followed": 41,
        "messages_published_total": more("messages_published_total", 80),
        "messages_delivered_total": more("messages_delivered_total", 90_000),
        "sent_bytes_total": more("sent_bytes_total", 2e7),
        "process_cpu_seconds_total": more("process_cpu_seconds_total", 0.6),
        "process_resident_memory_bytes": 190e6 + dice.randrange(10**6),
        "event_loop_overdue_seconds": dice.random() * 0.004,
        "writer_queue_messages": dice.choice([0, 0, 0, 1]),
        "shedding_step": 0,
    }


def seattle() -> Iterator[tuple[str | None, object]]:
    second = 1_763_812_345
    while True:
        for _, day in replay.replayed(second, "normal"):
            yield None, day
        second += 1


def readings() -> Iterator[tuple[str | None, object]]:
    second = 1_763_812_345
    while True:
        yield None, mast.reading(second)
        second += mast.PERIOD_S


def scores() -> Iterator[tuple[str | None, object]]:
    second = 1_763_812_345
    while True:
        yield "score", match.score(second)
        second += 1


def board(rows: int) -> Iterator[tuple[str | None, object]]:
    """A table whose every message is all of it: three values of it change each time."""
    dice = random.Random(7)
    table = [{"symbol": f"Q{row:03}", "price": round(dice.random() * 100, 2), "state": "open"} for row in range(rows)]
    while True:
        for row in dice.sample(table, 3):
            row["price"] = round(dice.random() * 100, 2)
        yield None, table


def words() -> Iterator[tuple[str | None, object]]:
    """Nothing is as it was."""
    dice = random.Random(3)
    while True:
        yield None, {"text": " ".join(dice.choice(WORDS) for _ in range(12))}


SPOKEN = "the log has a row for each message and every reader has a place in it that nobody else moves on"
WORDS = SPOKEN.split()

KINDS: dict[str, Callable[[], Iterator[tuple[str | None, object]]]] = {
    "this server, one worker": lambda: workers(1),
    "this server, two workers in turn": lambda: workers(2),
    "Seattle's weather, a day a second": seattle,
    "a mast, a reading a second": readings,
    "a score, a second": scores,
    "a table of 20 rows": lambda: board(20),
    "a table of 200 rows": lambda: board(200),
    "chat, 12 words": words,
}


def frames_of(kind: str, count: int) -> list[str]:
    source = KINDS[kind]()
    frames = []
    for serial in range(1, count + 1):
        key, data = next(source)
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        message = NewMessage(f"01K9ZB8Q5T{serial:016}", "message", key, text)
        frames.append(envelope("board:main", serial, START_MS + serial * 1000, "", message))
    return frames


def bytes_of(frames: list[str]) -> tuple[float, float, float, float]:
    """Bytes of a message on the wire: plain, compressed, as deltas, and both."""
    told = Deltas(settings.DELTA_MAX_BYTES).frames(1, frames, None)
    count = len(frames)
    return (
        len(WEBSOCKET.encode(frames)) / count,
        len(DEFLATE[15].encode(frames)) / count,
        len(WEBSOCKET.encode(told)) / count,
        len(DEFLATE[15].encode(told)) / count,
    )


def microseconds(frames: list[str]) -> float:
    """Of one delta, in the quickest turn."""
    data = [data_of(frame).encode() for frame in frames]
    best = float("inf")
    for _ in range(TURNS):
        began = time.perf_counter()
        for before, after in pairwise(data):
            delta(before, after)
        best = min(best, time.perf_counter() - began)
    return best / (len(data) - 1) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=300)
    options = parser.parse_args()
    print("| bytes on the wire a message | data | plain | deflate | delta | both | µs a delta |")
    print("|---|---|---|---|---|---|---|")
    for kind in KINDS:
        frames = frames_of(kind, options.messages)
        data = sum(len(data_of(frame).encode()) for frame in frames) / len(frames)
        cells = [f"{value:,.0f}" for value in (data, *bytes_of(frames), microseconds(frames))]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
