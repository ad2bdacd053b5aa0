"""Each worker publishes its own metrics, every two seconds, under its own name as key.

A thread of each process that serves clients: started by config/asgi.py, on the demo. Where several workers run, each
says its own numbers and nobody else's. A worker that dies says nothing more; its row stays, with its time.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Final

from realtime.metrics.reading import snapshot
from realtime.protocol.errors import ProtocolError
from realtime.publishing import publish
from realtime.worker import current

logger = logging.getLogger("dashboards")

CHANNEL: Final = "server:workers"
PERIOD_S: Final = 2.0


def start() -> None:
    threading.Thread(target=_publish_for_ever, name="dashboards-server", daemon=True).start()


def _publish_for_ever() -> None:
    before: tuple[float, dict[str, Any]] | None = None
    while True:
        time.sleep(PERIOD_S)
        worker = current()
        if worker is None:
            continue
        now = time.monotonic(), snapshot(worker)
        if before is not None:
            try:
                publish(CHANNEL, row(before, now, time.time()), event="worker", key=worker.name or "w1")
            except ProtocolError as error:
                logger.debug("The metrics were not published: %s", error)
        before = now


def row(before: tuple[float, dict[str, Any]], now: tuple[float, dict[str, Any]], time_s: float) -> dict[str, Any]:
    """What happened between two readings, a second; and what is."""
    elapsed_s = now[0] - before[0]
    old, new = before[1], now[1]

    def rate(name: str) -> float:
        return max(0.0, (_sum(new.get(name)) - _sum(old.get(name))) / elapsed_s)

    overdue_s = _sum(new.get("event_loop_overdue_seconds"))
    shedding = int(_sum(new.get("shedding_step")))
    return {
        "at": round(time_s, 2),
        "worker": new["worker"] or "w1",
        "connections": int(_sum(new.get("connections"))),
        "attachments": int(_sum(new.get("attachments"))),
        "channels": int(_sum(new.get("channels_followed"))),
        "published": round(rate("messages_published_total"), 1),
        "delivered": round(rate("messages_delivered_total"), 1),
        "kb_out": round(rate("sent_bytes_total") / 1000, 1),
        "cpu": round(rate("process_cpu_seconds_total") * 100, 1),
        "memory": round(_sum(new.get("process_resident_memory_bytes")) / 1e6, 1),
        "lag_ms": round(overdue_s * 1000, 1),
        "waiting": int(_sum(new.get("writer_queue_messages"))),
        "state": "danger" if shedding > 1 or overdue_s > 1 else "slow" if shedding or overdue_s > 0.2 else "live",
    }


def _sum(value: object) -> float:
    if isinstance(value, dict):
        return sum(_sum(each) for each in value.values())
    return float(value) if isinstance(value, int | float) else 0.0
