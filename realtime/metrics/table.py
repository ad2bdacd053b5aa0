"""The registry: every metric that a worker has, and where in the worker its number stands.

Names follow Prometheus: prefix `seriatim_`, units in seconds and bytes as suffixes, `_total` on counters. Every series
also has the label `worker`. Labels are bounded by the program's own tables (codes, reasons, parts), never by what
clients send; there are none for channels or clients.

A reading function is called with the worker, from any thread: it copies before it iterates, and takes no lock that the
event loop waits for. docs/reference/metrics.md is written from this table by `python -m scripts.metrics_page`.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal

from django.db import connections

from realtime import __version__, counting, load, providers, signals
from realtime.conf import settings
from realtime.counting import MESSAGES, SECONDS, Histogram
from realtime.delivery.admission import REASONS
from realtime.delivery.shedding import Step
from realtime.hub import Census
from realtime.interpreter import interpreter
from realtime.protocol.errors import ERRORS
from realtime.worker import Worker

PREFIX: Final = "seriatim_"

Kind = Literal["counter", "gauge", "histogram", "info"]

Values = Iterable[tuple[tuple[str, ...], float | Histogram]]
"""Label values, in the order of the metric's labels, and the number; a histogram for those."""


@dataclass(slots=True)
class Source:
    """A worker at the moment of reading; what takes a while to work out is worked out once."""

    worker: Worker
    census: Census
    began: float
    """By `time.perf_counter`."""


Read = Callable[[Source], Values]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `action` is what to do about it, or what to make of it."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    action: str
    read: Read
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets."""

    @property
    def unit(self) -> str:
        """As OpenMetrics says it: the suffix of the name, before `_total`."""
        stem = self.name.removesuffix("_total")
        return next((unit for unit in ("seconds", "bytes", "ratio") if stem.endswith(f"_{unit}")), "")


# ---------------------------------------------------------------------- reading


def _one(number: Callable[[Worker], float | None]) -> Read:
    """A single series; none where the number is not known."""

    def read(source: Source) -> Values:
        value = number(source.worker)
        return [] if value is None else [((), value)]

    return read


def _histogram(which: Callable[[Worker], Histogram]) -> Read:
    return lambda source: [((), which(source.worker))]


def _by(totals: Callable[[Worker], Mapping[Any, float]], *known: object) -> Read:
    """A series for each key of a mapping; a tuple is several labels. `known` keys are there from the start: a rate of
    what appears with its first event does not see that one."""

    def read(source: Source) -> Values:
        # The copy is one step for every other thread.
        copy = dict.fromkeys(known, 0) | dict(totals(source.worker))
        return [(tuple(map(str, key)) if isinstance(key, tuple) else (str(key),), n) for key, n in copy.items()]

    return read


def _hub(name: str) -> Read:
    return _one(lambda worker: worker.hub.counts.get(name, 0))


def _signals(name: str) -> Read:
    return _one(lambda worker: worker.signalling.counts[name])


def _backplane(name: str) -> Read:
    return _one(lambda worker: worker.backplane.counts[name])


def _open(worker: Worker) -> dict[str, int]:
    """Connections by transport. Ends before beginnings: read the other way round, one could seem to be below 0."""
    closed = dict(worker.counts.closed)
    opened = dict(worker.counts.opened)
    for (transport, _, _), count in closed.items():
        opened[transport] -= count
    return opened


def _errors(worker: Worker) -> dict[tuple[str, str], int]:
    found = {("websocket", code): count for code, count in dict(worker.counts.errors).items()}
    return found | {("http", code): count for code, count in worker.counts.http_errors.copy().items()}


def _lines(number: Callable[[Any], float]) -> Read:
    return lambda source: [((str(index),), number(line)) for index, line in enumerate(source.worker.backplane.lines)]


def _cpu_s(worker: Worker) -> float:
    times = os.times()
    return times.user + times.system


def _open_files(worker: Worker) -> float | None:
    try:
        # Since Linux 6.2 the folder's size is how many there are; to list ten thousand would take milliseconds.
        return os.stat("/proc/self/fd").st_size or None
    except OSError:
        return None


def _info(source: Source) -> Values:
    vendor = connections.databases[settings.DATABASE]["ENGINE"].rpartition(".")[2]
    return [((__version__, platform.python_version(), vendor), 1)]


def _refused(worker: Worker) -> Mapping[str, int]:
    refused = dict(worker.load.admission.refused)
    return {reason: refused.get(reason, 0) for reason in REASONS}


def _rises(worker: Worker) -> Mapping[str, int]:
    rises = dict(worker.load.ladder.rises)
    return {step.name.lower(): rises.get(step, 0) for step in Step if step is not Step.NORMAL}


# ---------------------------------------------------------------------- the table

MODES: Final = ("level", "behind", "waiting_ack", "waiting_socket", "joining", "ahead")
"""See `realtime.hub.Census`."""

METRICS: Final[tuple[Metric, ...]] = (
    # -- workers ------------------------------------------------------------------------------------------------------
    Metric(
        "seriatim_worker_info",
        "info",
        ("version", "python", "database"),
        "What this worker runs.",
        "More than one `version` for longer than a rolling restart takes: a worker was not replaced.",
        _info,
    ),
    Metric(
        "seriatim_worker_start_time_seconds",
        "gauge",
        (),
        "Unix time at which the worker started.",
        "`changes()` of it counts restarts; several within minutes are a crash loop: read the log above the restart.",
        _one(lambda worker: worker.counts.started_at),
    ),
    Metric(
        "seriatim_worker_draining",
        "gauge",
        (),
        "1 while the worker sends its clients away to stop.",
        "Longer than `DRAIN_S`: something holds it; its supervisor kills it soon.",
        _one(lambda worker: int(worker.draining)),
    ),
    Metric(
        "seriatim_process_cpu_seconds_total",
        "counter",
        (),
        "CPU time of the worker's process, user and system.",
        "A rate near 1 is one full core, which is all that one worker can use: add workers.",
        _one(_cpu_s),
    ),
    Metric(
        "seriatim_process_resident_memory_bytes",
        "gauge",
        (),
        "Memory of the worker's process.",
        "It follows connections, not backlogs. Growth without connections is a fault: report it.",
        _one(lambda worker: load.rss_bytes() or None),
    ),
    Metric(
        "seriatim_process_open_fds",
        "gauge",
        (),
        "Open file descriptors (Linux 6.2 and later).",
        "Each connection is one. Near the next metric, accepting fails: raise `LimitNOFILE` or add workers.",
        _one(_open_files),
    ),
    Metric(
        "seriatim_process_max_fds",
        "gauge",
        (),
        "How many file descriptors the process may have.",
        "Set by the system (`ulimit -n`); at least twice the connections expected.",
        _one(lambda worker: load.open_files_most()),
    ),
    Metric(
        "seriatim_process_threads",
        "gauge",
        (),
        "Threads of the process.",
        "About ten, and one for each HTTP request that Django serves at the moment.",
        _one(lambda worker: threading.active_count()),
    ),
    Metric(
        "seriatim_event_loop_lag_seconds",
        "histogram",
        (),
        "How late the event loop came to what was due, four times a second.",
        "All connections of the worker wait so long. High with high CPU: add workers. High with low CPU: something "
        "blocks the loop, or threads beside it hold the interpreter (admin, reports): give them workers of their own.",
        _histogram(lambda worker: worker.lag.histogram),
        SECONDS,
    ),
    Metric(
        "seriatim_event_loop_overdue_seconds",
        "gauge",
        (),
        "How late the event loop is at this moment.",
        "Growing from scrape to scrape: the loop does not come round any more. Take a stack with `py-spy dump`, then "
        "end the worker; its clients resume elsewhere.",
        _one(lambda worker: worker.lag.now_s),
    ),
    Metric(
        "seriatim_event_loop_busy_ratio",
        "gauge",
        (),
        "Of a core, that the event loop's thread used in the last quarter of a second.",
        "Near 1 the worker is full: add workers. From a tenth on, HTTP requests take turns.",
        _one(lambda worker: worker.load.share),
    ),
    Metric(
        "seriatim_http_waiting",
        "gauge",
        (),
        "HTTP requests that wait for their turn, so that the sockets are served first.",
        "Often more than a few: serve HTTP by processes of its own (`--role web`), or add workers.",
        _one(lambda worker: worker.turns.waiting),
    ),
    Metric(
        "seriatim_http_waited_total",
        "counter",
        (),
        "HTTP requests that had to wait for their turn.",
        "As above.",
        _one(lambda worker: worker.turns.waited),
    ),
    Metric(
        "seriatim_http_refused_total",
        "counter",
        (),
        "HTTP requests that got 503, since `HTTP_WAITING` waited already.",
        "More requests than this worker can answer: as above.",
        _one(lambda worker: worker.turns.refused),
    ),
    Metric(
        "seriatim_interpreter_contentions_total",
        "counter",
        (),
        "How often a broadcast was slowed down because other threads wanted the interpreter.",
        "Steady growth: heavy HTTP runs beside the sockets. Serve it with `--role web`.",
        _one(lambda worker: interpreter.contentions),
    ),
    Metric(
        "seriatim_log_records_total",
        "counter",
        ("level", "logger"),
        "Warnings and errors that the platform logged.",
        "Read the log of that time. `error` and `critical` should stand still.",
        _by(lambda worker: counting.log_counts.totals.copy()),
    ),
    # -- connections --------------------------------------------------------------------------------------------------
    Metric(
        "seriatim_connections",
        "gauge",
        ("transport",),
        "Open connections.",
        "Compare workers: a balancer should keep them even. A sudden fall is a network or a worker that died.",
        _by(_open, "websocket"),
    ),
    Metric(
        "seriatim_connections_opened_total",
        "counter",
        ("transport",),
        "Connections that were accepted.",
        "The rate is the churn. High with a steady number open: clients come and go; see the close codes.",
        _by(lambda worker: worker.counts.opened, "websocket"),
    ),
    Metric(
        "seriatim_connections_closed_total",
        "counter",
        ("transport", "by", "code"),
        "Connections that ended, by who ended them (`client`, `server`) and close code; 1006 is an end without a close "
        "frame, 0 any code that no table has.",
        "[The table](errors.md#close-codes) says what each code means. `server` 1006: the client answered no ping.",
        _by(lambda worker: worker.counts.closed),
    ),
    Metric(
        "seriatim_handshakes_refused_total",
        "counter",
        ("status",),
        "WebSocket handshakes refused before the upgrade, by HTTP status.",
        "403: an origin or host that is not allowed, or somebody tries. 503: no room, see the next ones.",
        _by(lambda worker: worker.counts.handshakes_refused, 400, 403, 503),
    ),
    Metric(
        "seriatim_admission_refused_total",
        "counter",
        ("reason",),
        "Connections refused for want of room, by limit.",
        "`worker`, `rate`, `overload`: add workers. `address`, `client`: one of them has too many. `draining`: a "
        "balancer that does not watch `/readyz`.",
        _by(_refused),
    ),
    Metric(
        "seriatim_connections_unauthenticated",
        "gauge",
        (),
        "Connections that have not proved who they are yet.",
        "Near `UNAUTHENTICATED_MAX`: clients without tokens, or somebody occupies sockets.",
        _one(lambda worker: worker.load.admission.unauthenticated),
    ),
    Metric(
        "seriatim_shedding_step",
        "gauge",
        (),
        "Step of the load-shedding ladder: 0 none, 1 refuse new, 2 shed idle, 3 drop signals, 4 conflate.",
        "Above 0 the worker has too much to do. The log says which measurement; add workers.",
        _one(lambda worker: int(worker.load.ladder.step)),
    ),
    Metric(
        "seriatim_shedding_pressure_ratio",
        "gauge",
        (),
        "The measurement closest to its threshold, as a share of it.",
        "At 1 for a second the ladder rises. Use it to add workers before that.",
        _one(lambda worker: worker.load.ladder.pressure),
    ),
    Metric(
        "seriatim_shedding_rises_total",
        "counter",
        ("step",),
        "How often each step of the ladder was reached.",
        "Often: capacity is missing at peaks.",
        _by(_rises),
    ),
    Metric(
        "seriatim_idle_connections_shed_total",
        "counter",
        (),
        "Idle connections that were sent away to save work.",
        "As for the step.",
        _one(lambda worker: worker.load.shed),
    ),
    Metric(
        "seriatim_received_frames_total",
        "counter",
        (),
        "Frames that clients sent.",
        "Acks come once in half a window; a client that sends more than it has to say acks too often.",
        _one(lambda worker: worker.counts.frames_in),
    ),
    Metric(
        "seriatim_received_bytes_total",
        "counter",
        (),
        "Bytes of text of those frames.",
        "Network traffic in, without frame headers and compression.",
        _one(lambda worker: worker.counts.bytes_in),
    ),
    Metric(
        "seriatim_sent_bytes_total",
        "counter",
        (),
        "Bytes written to the sockets of clients; what one connection alone got, at most a second late.",
        "Network traffic out. Flat while messages are published: nobody reads.",
        _one(lambda worker: worker.counts.bytes_out + worker.hub.counts["bytes"]),
    ),
    Metric(
        "seriatim_heartbeats_sent_total",
        "counter",
        (),
        "Heartbeats sent to connections on which nothing else was.",
        "Its ratio to `seriatim_messages_delivered_total` says whether the interval fits: far above 1, raise it.",
        _one(lambda worker: worker.counts.heartbeats),
    ),
    Metric(
        "seriatim_pings_sent_total",
        "counter",
        (),
        "Pings sent to clients that were silent for two heartbeats.",
        "Compare with closes by `server` 1006: those did not answer.",
        _one(lambda worker: worker.counts.pings),
    ),
    Metric(
        "seriatim_errors_total",
        "counter",
        ("interface", "code"),
        "Requests refused, on the WebSocket and on REST, by code.",
        "[The table](errors.md) tells them. `internal` should stand still, `unavailable` is the database.",
        _by(_errors, *product(("websocket", "http"), ERRORS)),
    ),
    # -- publishing ---------------------------------------------------------------------------------------------------
    Metric(
        "seriatim_messages_published_total",
        "counter",
        ("source",),
        "Messages that got a serial: from a `socket`, by a `call` (REST, admin, Python) or from the `outbox`.",
        "The rate at which the logs grow.",
        _by(lambda worker: worker.counts.stored, "socket", "call", "outbox"),
    ),
    Metric(
        "seriatim_published_bytes_total",
        "counter",
        (),
        "Bytes of those messages, as they are stored.",
        "With the retention, it says how large the database becomes.",
        _one(lambda worker: worker.counts.stored_bytes),
    ),
    Metric(
        "seriatim_publish_duplicates_total",
        "counter",
        (),
        "Messages that were known already and answered with their first serial.",
        "Publishers repeat what got no answer; a rise goes with lost connections or `unavailable`.",
        _one(lambda worker: worker.counts.duplicates),
    ),
    Metric(
        "seriatim_publish_conflicts_total",
        "counter",
        (),
        "Duplicates whose data differed from what was stored first.",
        "A fault in a publisher: it uses an id twice.",
        _one(lambda worker: worker.counts.conflicts),
    ),
    Metric(
        "seriatim_publish_commit_seconds",
        "histogram",
        (),
        "Per round: from the publish that had waited longest until the commit.",
        "What publishers wait. High with a low round time: the writer's queue is long. High with a high one: the "
        "database is slow.",
        _histogram(lambda worker: worker.counts.commit_seconds),
        SECONDS,
    ),
    Metric(
        "seriatim_round_seconds",
        "histogram",
        (),
        "How long a round was at the database.",
        "The disk's flush and the network to the database; see also locks (`seriatim_writer_channels_aside`).",
        _histogram(lambda worker: worker.counts.round_seconds),
        SECONDS,
    ),
    Metric(
        "seriatim_round_messages",
        "histogram",
        (),
        "Messages in a round.",
        "Grows with the load. At `ROUND_MAX_MESSAGES` all the time: the database is the limit.",
        _histogram(lambda worker: worker.counts.round_messages),
        MESSAGES,
    ),
    Metric(
        "seriatim_writer_queue_messages",
        "gauge",
        (),
        "Messages that are accepted and not yet committed or refused.",
        "At `WRITER_QUEUE_MESSAGES` publishers hear `unavailable`.",
        _one(lambda worker: worker.writer.queued()[0]),
    ),
    Metric(
        "seriatim_writer_queue_bytes",
        "gauge",
        (),
        "Their bytes.",
        "The same for `WRITER_QUEUE_BYTES`.",
        _one(lambda worker: worker.writer.queued()[1]),
    ),
    Metric(
        "seriatim_writer_channels_aside",
        "gauge",
        (),
        "Channels whose row another transaction holds; their messages wait.",
        "Above 0 for long: find the transaction that holds rows of `realtime_log` (`pg_locks`).",
        _one(lambda worker: worker.writer.aside_count),
    ),
    Metric(
        "seriatim_outbox_messages",
        "gauge",
        ("state",),
        "Messages in the outbox, `waiting` or `refused` by the log; counted every 10 s, at most 10 000. Every worker "
        "sees the same outbox: take the maximum, not the sum.",
        "`waiting` for long: nobody relays; is a worker running? `refused`: read the reason in the table "
        "`realtime_outbox`.",
        _by(lambda worker: {"waiting": worker.backlog.waiting, "refused": worker.backlog.refused}),
    ),
    Metric(
        "seriatim_outbox_oldest_seconds",
        "gauge",
        (),
        "Age of the oldest message that waits in the outbox; 0 when none does.",
        "Above a few seconds: as above.",
        _one(lambda worker: worker.backlog.oldest_s or 0.0),
    ),
    Metric(
        "seriatim_database_errors_total",
        "counter",
        ("part",),
        "Failures at the database, by the part of the platform that met them.",
        "The log says which. `writer`: nothing is stored meanwhile; `reader`: nobody can attach or catch up.",
        _by(lambda worker: counting.database_errors.copy(), "writer", "reader", "outbox", "cursors", "retention"),
    ),
    Metric(
        "seriatim_jwks_fetches_total",
        "counter",
        ("result",),
        "Attempts to fetch the keys of identity providers.",
        "`failed` grows: a provider is away, or answers nonsense; the log says which. Its keys go on, new ones wait.",
        _by(lambda worker: counting.jwks_fetches.copy(), "read", "failed"),
    ),
    Metric(
        "seriatim_jwks_age_seconds",
        "gauge",
        (),
        "Age of the keys of the identity provider that answered longest ago; none without providers.",
        "Above twice `JWKS_MAX_AGE_S`: as above. A key that the provider took back since then is still good here.",
        _one(lambda worker: providers.oldest_s()),
    ),
    Metric(
        "seriatim_log_read_seconds",
        "histogram",
        (),
        "Reads of the log for this worker, from the wish to the answer.",
        "High: the database is slow, or `READER_THREADS` are too few for those who catch up.",
        _histogram(lambda worker: worker.reader.seconds),
        SECONDS,
    ),
    Metric(
        "seriatim_log_reads_waiting",
        "gauge",
        (),
        "Reads that were asked for and are not answered.",
        "As above.",
        _one(lambda worker: worker.reader.waiting_count),
    ),
    Metric(
        "seriatim_retention_deleted_messages_total",
        "counter",
        (),
        "Rows that retention deleted.",
        "Far below the rate of publishing for days: the database grows; see the namespaces' retention.",
        _one(lambda worker: worker.counts.deleted),
    ),
    Metric(
        "seriatim_retention_last_success_timestamp_seconds",
        "gauge",
        (),
        "Unix time at which retention succeeded last in this worker; absent before the first time.",
        "Older than a few `RETENTION_INTERVAL_S`: the log says why.",
        _one(lambda worker: worker.counts.retained_at),
    ),
    # -- delivery -----------------------------------------------------------------------------------------------------
    Metric(
        "seriatim_messages_passed_total",
        "counter",
        (),
        "Messages of channels with subscribers here, each counted once.",
        "The next one divided by it says how many subscribers a message has.",
        _hub("delivered"),
    ),
    Metric(
        "seriatim_messages_delivered_total",
        "counter",
        (),
        "Messages written to subscribers: one that 500 follow counts 500 times.",
        "The work that a worker does.",
        _hub("sent"),
    ),
    Metric(
        "seriatim_ledger_imbalances_total",
        "counter",
        (),
        "Times that the ledger of a channel was found not to balance: positions (position − start − skipped) told of "
        "another number of delivered messages than was counted while they were written.",
        "Never above 0: a message was lost or written twice. "
        "See [the runbook](../how-to/runbook/SeriatimLedgerOff.md).",
        _hub("imbalances"),
    ),
    Metric(
        "seriatim_ledger_difference_messages",
        "gauge",
        (),
        "By how many messages the ledgers of channels that are followed now do not balance, all together.",
        "Never above 0.",
        _one(lambda worker: sum(map(abs, list(worker.hub.unbalanced.values())))),
    ),
    Metric(
        "seriatim_ledgers_balanced_total",
        "counter",
        (),
        "Ledgers of channels that were looked at: some each second, and each that is no longer followed.",
        "It must grow wherever channels are followed, or nobody looks.",
        _hub("balanced"),
    ),
    Metric(
        "seriatim_socket_writes_total",
        "counter",
        (),
        "Writes in which they were.",
        "Messages per write: above 1 they were joined, which saves most of the cost.",
        _hub("payloads"),
    ),
    Metric(
        "seriatim_fanout_seconds",
        "histogram",
        (),
        "Per round of this worker: from its commit until all subscribers here that were level have it.",
        "High: too many subscribers for one worker, or a late event loop.",
        _histogram(lambda worker: worker.counts.fanout_seconds),
        SECONDS,
    ),
    Metric(
        "seriatim_level_sets_late_total",
        "counter",
        (),
        "Writes to sets of subscribers that a turn of the loop had no time for.",
        "Broadcasts larger than a turn. It keeps the loop fair and costs nothing but a little delay.",
        _hub("late"),
    ),
    Metric(
        "seriatim_channels_followed",
        "gauge",
        (),
        "Channels with subscribers on this worker.",
        "The sweep asks for each of them once in `SWEEP_MS`.",
        lambda source: [((), source.census.channels)],
    ),
    Metric(
        "seriatim_attachments",
        "gauge",
        ("state",),
        "Attachments: `level` with their channel, `behind` and reading on, `waiting_ack` for an ack (window full), "
        "`waiting_socket` for the client to read, `joining`, or `ahead` of what this worker has heard.",
        "`waiting_*` cost nothing. Many `behind` for long: reads of the log are slow.",
        lambda source: [((mode,), source.census.modes[mode]) for mode in MODES],
    ),
    Metric(
        "seriatim_furthest_behind_messages",
        "gauge",
        (),
        "How many messages the subscriber furthest behind has before it.",
        "Above a namespace's retention it will be told of a gap.",
        lambda source: [((), source.census.behind_most)],
    ),
    Metric(
        "seriatim_conflated_messages_total",
        "counter",
        (),
        "Messages that a conflating channel left out for subscribers that fell behind.",
        "Meant, where the newest is enough. Much of it: clients are slower than the stream.",
        _hub("conflated"),
    ),
    Metric(
        "seriatim_delta_frames_total",
        "counter",
        ("form",),
        "Frames made for attachments with deltas, once for all of them: as a `delta`, or `whole`.",
        "Nearly all `whole`: those messages do not resemble each other, and cost more bytes than without.",
        _by(lambda worker: {"delta": worker.hub.deltas.made, "whole": worker.hub.deltas.whole}),
    ),
    Metric(
        "seriatim_signals_passed_total",
        "counter",
        (),
        "Signals that were passed on to subscribers here.",
        "",
        _signals("passed"),
    ),
    Metric(
        "seriatim_signals_delivered_total",
        "counter",
        (),
        "Signals written to subscribers: one that 500 get counts 500 times.",
        "More than messages by far: clients signal too often; a namespace limits their rate.",
        _signals("written"),
    ),
    Metric(
        "seriatim_signals_dropped_total",
        "counter",
        ("where",),
        "Signals that were not passed on, under pressure: by this `worker` to its subscribers, or over the `backplane` "
        "to other workers.",
        "They promise nothing else. Steadily: see the shedding step, and the channel layer.",
        _by(
            lambda worker: {
                "worker": worker.signalling.counts["dropped"],
                "backplane": worker.backplane.counts["signals_dropped"],
            }
        ),
    ),
    Metric(
        "seriatim_presence_members",
        "gauge",
        (),
        "Clients that are members of a channel by connections to this worker; one in two channels counts twice.",
        "A client at two workers counts at both.",
        _one(lambda worker: len(worker.presence.membership)),
    ),
    Metric(
        "seriatim_presence_followers",
        "gauge",
        (),
        "Attachments here that are told who is present.",
        "",
        _one(lambda worker: worker.presence.followers),
    ),
    Metric(
        "seriatim_presence_total",
        "counter",
        ("what",),
        "`events` told (once, however many follow), `syncs` sent, rows `written`, channels `read`, and `failures` of "
        "reads and writes.",
        "Many `syncs` without new attaches: clients that do not read. `failures`: the database is away.",
        _by(lambda worker: worker.presence.counts, "events", "syncs", "written", "read", "failures"),
    ),
    Metric(
        "seriatim_gaps_told_total",
        "counter",
        ("reason",),
        "Subscribers that were told `skipped`, by reason.",
        "`retention`: they were away longer than the namespace keeps. `epoch`: the log was made anew.",
        _by(lambda worker: worker.hub.skips, "retention", "epoch", "conflated"),
    ),
    Metric(
        "seriatim_gap_messages_total",
        "counter",
        ("reason",),
        "Serials in those gaps, where they are known.",
        "As above.",
        _by(lambda worker: worker.hub.skipped, "retention"),
    ),
    Metric(
        "seriatim_holes_total",
        "counter",
        (),
        "Holes in what was heard that stayed, so that the log was read.",
        "Lost announcements. Some are normal when Redis restarts.",
        _hub("holes"),
    ),
    Metric(
        "seriatim_healed_messages_total",
        "counter",
        (),
        "Messages in those holes.",
        "As above; every one of them reached its subscribers.",
        _hub("healed"),
    ),
    Metric(
        "seriatim_announcements_duplicate_total",
        "counter",
        (),
        "Announcements of messages that were passed on already.",
        "Dropped. Normal after a hole was read.",
        _hub("duplicates"),
    ),
    Metric(
        "seriatim_announcements_early_total",
        "counter",
        (),
        "Announcements that came before one that belongs in front of them.",
        "Held until the other comes, at most `HOLD_MS`. Normal with several publishing workers.",
        _hub("early"),
    ),
    Metric(
        "seriatim_sweep_seconds",
        "histogram",
        (),
        "How long it took to compare the followed channels with the log.",
        "Above `SWEEP_MS` healing is slower than promised: fewer channels per worker, or a faster database.",
        _histogram(lambda worker: worker.hub.sweep_seconds),
        SECONDS,
    ),
    Metric(
        "seriatim_sweep_channels_total",
        "counter",
        (),
        "Channels that sweeps asked for.",
        "",
        _hub("swept"),
    ),
    Metric(
        "seriatim_sweep_found_total",
        "counter",
        ("what",),
        "Channels that a sweep found further than this worker knew (`behind`), or in another `epoch`.",
        "`behind` includes what was on its way. A high share: announcements do not arrive.",
        _by(lambda worker: {"behind": worker.hub.counts["swept_behind"], "epoch": worker.hub.counts["swept_epochs"]}),
    ),
    Metric(
        "seriatim_logs_fallen_total",
        "counter",
        (),
        "Followed logs whose head was lower than what had been heard of it.",
        "Above 0: an older copy of the database was put in its place. Logs get new epochs, and clients are told; see "
        "[restoring](../how-to/restore.md).",
        _hub("fallen"),
    ),
    Metric(
        "seriatim_block_cache_bytes",
        "gauge",
        (),
        "Blocks of logs kept in memory for those who catch up.",
        "At most `BLOCK_CACHE_BYTES`.",
        _one(lambda worker: worker.hub.cache.bytes),
    ),
    Metric(
        "seriatim_block_cache_hits_total",
        "counter",
        (),
        "Writes to catching-up subscribers from a block in memory.",
        "",
        _hub("cache_hits"),
    ),
    Metric(
        "seriatim_block_cache_misses_total",
        "counter",
        (),
        "Times that one had to wait for a read.",
        "More than a few percent of the hits: raise `BLOCK_CACHE_BYTES`.",
        _hub("cache_misses"),
    ),
    Metric(
        "seriatim_blocks_read_total",
        "counter",
        (),
        "Blocks read from the database; several subscribers may wait for one.",
        "",
        _hub("blocks_read"),
    ),
    # -- between workers ----------------------------------------------------------------------------------------------
    Metric(
        "seriatim_announce_lag_seconds",
        "histogram",
        (),
        "From a commit in another worker until it was heard of here.",
        "What subscribers of other workers wait in addition. High: Redis or the network. Between machines it also "
        "measures how their clocks differ.",
        _histogram(lambda worker: worker.backplane.lag),
        SECONDS,
    ),
    Metric(
        "seriatim_backplane_suspect",
        "gauge",
        ("line",),
        "1 while the worker does not hear its own beacon through this shard of the channel layer.",
        "The log is swept more often meanwhile, and nothing is lost. Look at Redis.",
        _lines(lambda line: int(line.suspect)),
    ),
    Metric(
        "seriatim_backplane_beacon_age_seconds",
        "gauge",
        ("line",),
        "How long ago the worker heard its own beacon there.",
        "About 1 at most.",
        _lines(lambda line: line.silent_s),
    ),
    Metric(
        "seriatim_backplane_announced_total",
        "counter",
        (),
        "Announcements sent to other workers.",
        "",
        _backplane("announced"),
    ),
    Metric(
        "seriatim_backplane_heard_total",
        "counter",
        (),
        "Announcements of other workers that were heard.",
        "",
        _backplane("heard"),
    ),
    Metric(
        "seriatim_backplane_shrunk_total",
        "counter",
        (),
        "Announcements that the full queue reduced to a head; the others read the log.",
        "The channel layer is slower than publishing.",
        _backplane("shrunk"),
    ),
    Metric(
        "seriatim_backplane_signals_sent_total",
        "counter",
        (),
        "Signals sent to other workers.",
        "",
        _backplane("signals_sent"),
    ),
    Metric(
        "seriatim_backplane_signals_heard_total",
        "counter",
        (),
        "Signals of other workers that were heard.",
        "",
        _backplane("signals_heard"),
    ),
    Metric(
        "seriatim_backplane_waiting",
        "gauge",
        (),
        "Announcements that are not sent yet.",
        "As above.",
        _one(lambda worker: worker.backplane.waiting_count),
    ),
    Metric(
        "seriatim_backplane_failures_total",
        "counter",
        (),
        "Calls of the channel layer that failed or took too long.",
        "Look at Redis; the log says what failed.",
        _backplane("failures"),
    ),
    Metric(
        "seriatim_backplane_renewals_total",
        "counter",
        (),
        "How often a silent shard was begun anew.",
        "As above.",
        _backplane("renewals"),
    ),
    # -- applications -------------------------------------------------------------------------------------------------
    Metric(
        "seriatim_signal_receivers_dropped_total",
        "counter",
        (),
        "Django signals of the platform that were dropped because receivers were too slow.",
        "Make the receivers quick, or let them attach with a cursor.",
        _one(lambda worker: signals.dropped()),
    ),
    # -- the metrics themselves ---------------------------------------------------------------------------------------
    Metric(
        "seriatim_metrics_read_seconds",
        "gauge",
        (),
        "How long it took to read all of the above in this worker.",
        "Milliseconds. It grows with subscribers that are not level.",
        lambda source: [((), time.perf_counter() - source.began)],
    ),
)
