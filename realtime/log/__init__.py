"""The durable log: the only writer of `Log`, `Message` and `Latest`.

`LogWriter` (or `run_round_now` without one) stores, the functions of `reads` read, those of `retention` forget. All is
synchronous and blocking: call it from threads. docs/explanation/architecture.md, "The tables" and "The round".
"""

from __future__ import annotations

from realtime.log.incarnation import new_epochs
from realtime.log.reads import (
    find_since,
    read_heads,
    read_list,
    read_messages,
    read_page,
    read_ranges,
    read_snapshot,
    read_states,
    reading,
)
from realtime.log.retention import apply_retention, begin_anew, delete_chunks, new_epoch, prune
from realtime.log.rounds import Rounds, run_round_now
from realtime.log.types import NEVER_USED, Append, LogState, News, Page, Published, Skipped
from realtime.log.writer import LogWriter, RoundStats

__all__ = [
    "Append",
    "LogState",
    "LogWriter",
    "NEVER_USED",
    "News",
    "Page",
    "Published",
    "RoundStats",
    "Rounds",
    "Skipped",
    "apply_retention",
    "begin_anew",
    "delete_chunks",
    "find_since",
    "new_epoch",
    "new_epochs",
    "prune",
    "read_heads",
    "read_list",
    "read_messages",
    "read_page",
    "read_ranges",
    "read_snapshot",
    "read_states",
    "reading",
    "run_round_now",
]
