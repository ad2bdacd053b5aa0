"""Several workers on one listening socket: starts them, watches them, replaces them, ends them.

The parent binds the socket and accepts nothing; each worker is a process of its own (`manage.py serve --fd`) that takes
connections from it, so a worker that dies takes none of the queued ones along. One that dies is started again, with
backoff when it dies young. SIGTERM and SIGINT drain all; SIGHUP replaces one after the other: the next one goes only
when its replacement serves. No event loop, no Django models here: whatever happens to the site, this must go on.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

YOUNG_S = 10.0
"""A worker that ends sooner than this is not started again at once."""

BACKOFF_FIRST_S = 0.5
BACKOFF_LAST_S = 30.0

CRASH_LOOP = 5
"""Young deaths in a row after which it is called a crash loop, loudly. Starting goes on: the cause may pass."""

START_TIMEOUT_S = 60.0
"""How long a replacement may take until it serves; then the replacing stops and the old workers stay."""

KILL_AFTER_S = 5.0
"""How much longer than its drain a worker may take before it is killed."""


def bind(host: str, port: int, backlog: int) -> socket.socket:
    """The listening socket that all workers share. `::` takes IPv4, too, where the system has it so."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(backlog)
    listening.set_inheritable(True)
    return listening


@dataclass(slots=True, eq=False)
class _Slot:
    """One place for a worker: who holds it, and how its tenants fared."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    ready: int | None = None
    """Reading end of the pipe on which the worker says that it serves."""
    serving: bool = False
    young_deaths: int = 0
    start_at: float = 0.0
    leaving: list[tuple[subprocess.Popen[bytes], float]] = field(default_factory=list)
    """Former tenants that drain, and when to kill them."""

    @property
    def is_starting(self) -> bool:
        return self.ready is not None


class Supervisor:
    """Keeps `count` workers running. `run` returns the exit status."""

    def __init__(
        self,
        count: int,
        command: Callable[[int, int, int], Sequence[str]],
        listening: socket.socket,
        *,
        drain_s: float,
        say: Callable[[str], object] = print,
    ) -> None:
        """`command(number, listening_fd, ready_fd)` is the command line of a worker."""
        self._slots = [_Slot(number) for number in range(1, count + 1)]
        self._command = command
        self._listening = listening
        self._drain_s = drain_s
        self._say = say
        self._stopping = False
        self._replacing: list[_Slot] = []
        """Slots whose worker is still to be replaced; the first is being replaced when `_next` runs."""
        self._next: tuple[subprocess.Popen[bytes], int, float] | None = None
        """The replacement that starts: process, ready pipe, deadline."""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Blocks until a signal ends it and every worker is gone."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_replace)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            now = time.monotonic()
            self._mind(now)
            if self._stopping and not any(slot.process or slot.leaving for slot in self._slots):
                return 0
            self._sleep(now)

    # ------------------------------------------------------------------ signals

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _on_replace(self, *_: object) -> None:
        if not self._stopping and not self._replacing:
            self._replacing = list(self._slots)

    def _sleep(self, now: float) -> None:
        """Until a signal comes, a worker says that it serves, or something is due."""
        reading = [self._wake_read, *[slot.ready for slot in self._slots if slot.ready is not None]]
        if self._next is not None and self._next[1] >= 0:
            reading.append(self._next[1])
        due = [slot.start_at for slot in self._slots if slot.process is None and not self._is_being_replaced(slot)]
        due += [kill_at for slot in self._slots for _, kill_at in slot.leaving]
        if self._next is not None:
            due.append(self._next[2])
        elif self._replacing and self._replacing[0].is_starting:
            due.append(self._replacing[0].started_at + START_TIMEOUT_S)
        timeout = max(0.0, min(due) - now) if due else None
        readable, _, _ = select.select(reading, [], [], timeout)
        if self._wake_read in readable:
            os.read(self._wake_read, 512)

    # ------------------------------------------------------------------ minding

    def _mind(self, now: float) -> None:
        for slot in self._slots:
            self._mind_leaving(slot, now)
            if slot.process is not None:
                self._mind_process(slot, now)
            is_wanted = not self._stopping and not self._is_being_replaced(slot)
            if slot.process is None and is_wanted and now >= slot.start_at:
                slot.process, slot.ready = self._start(slot)
                slot.started_at, slot.serving = now, False
            if slot.process is not None and self._stopping:
                self._send_away(slot, now)
        if self._stopping:
            # The workers stop listening, too: clients are refused at once, where they would wait for nobody.
            self._listening.close()
            self._abandon_replacement(now)
        elif self._replacing:
            self._mind_replacement(now)

    def _is_being_replaced(self, slot: _Slot) -> bool:
        """Whether a replacement starts in it already: if its worker dies meanwhile, nobody else has to."""
        return self._next is not None and self._replacing[0] is slot

    def _mind_process(self, slot: _Slot, now: float) -> None:
        process = slot.process
        assert process is not None
        if slot.ready is not None:
            said = _said(slot.ready)
            if said is not None:
                slot.serving = said
                _close(slot)
        status = process.poll()
        if status is None:
            if slot.serving and now - slot.started_at > YOUNG_S:
                slot.young_deaths = 0
            return
        slot.process = None
        _close(slot)
        if self._stopping:
            return
        young = now - slot.started_at < YOUNG_S
        slot.young_deaths = slot.young_deaths + 1 if young else 0
        wait_s = min(BACKOFF_FIRST_S * 2 ** (slot.young_deaths - 1), BACKOFF_LAST_S) if young else 0.0
        slot.start_at = now + wait_s
        self._say(f"Worker {slot.number} (process {process.pid}) ended with {_status(status)}; starting it again.")
        if slot.young_deaths >= CRASH_LOOP:
            self._say(
                f"Worker {slot.number} has ended {slot.young_deaths} times within {YOUNG_S:.0f} s of its start. "
                f"Next try in {wait_s:.0f} s. Its log above says why."
            )

    def _mind_leaving(self, slot: _Slot, now: float) -> None:
        for entry in list(slot.leaving):
            process, kill_at = entry
            if process.poll() is not None:
                slot.leaving.remove(entry)
            elif now >= kill_at:
                self._say(f"Process {process.pid} did not end within its drain time; killing it.")
                process.kill()
                slot.leaving[slot.leaving.index(entry)] = (process, now + KILL_AFTER_S)

    def _send_away(self, slot: _Slot, now: float) -> None:
        process = slot.process
        assert process is not None
        process.terminate()
        slot.leaving.append((process, now + self._drain_s + KILL_AFTER_S))
        slot.process = None
        _close(slot)

    def _mind_replacement(self, now: float) -> None:
        """One step of SIGHUP: start the next replacement, or see to the one that starts.

        Two start at a time in one place only where the first takes longer than `START_TIMEOUT_S`: the one that is ready
        last answers under its name (`realtime.metrics.siblings`).
        """
        slot = self._replacing[0]
        if self._next is None:
            if slot.is_starting and now < slot.started_at + START_TIMEOUT_S:
                return
            process, ready = self._start(slot)
            self._next = (process, ready, now + START_TIMEOUT_S)
            return
        process, ready, deadline = self._next
        said = _said(ready)
        if said:
            os.close(ready)
            if slot.process is not None:
                self._send_away(slot, now)
            slot.process, slot.started_at, slot.serving, slot.young_deaths = process, now, True, 0
            self._next = None
            del self._replacing[0]
            self._say(f"Worker {slot.number} is replaced by process {process.pid}.")
            if self._replacing:
                self._mind_replacement(now)
        elif said is False or process.poll() is not None or now >= deadline:
            os.close(ready)
            if process.poll() is None:
                process.kill()
            self._next = None
            self._replacing.clear()
            self._say(f"The replacement of worker {slot.number} does not serve; the workers that run stay.")

    def _abandon_replacement(self, now: float) -> None:
        self._replacing.clear()
        if self._next is not None:
            process, ready, _ = self._next
            os.close(ready)
            process.terminate()
            self._slots[0].leaving.append((process, now + KILL_AFTER_S))
            self._next = None

    def _start(self, slot: _Slot) -> tuple[subprocess.Popen[bytes], int]:
        ready_read, ready_write = os.pipe()
        listening = self._listening.fileno()
        process = subprocess.Popen(
            list(self._command(slot.number, listening, ready_write)), pass_fds=(listening, ready_write)
        )
        os.close(ready_write)
        os.set_blocking(ready_read, False)
        return process, ready_read


def _said(pipe: int) -> bool | None:
    """True when the worker has written that it serves, False when it never will, None when it has not yet."""
    try:
        return os.read(pipe, 16) != b""
    except BlockingIOError:
        return None


def _close(slot: _Slot) -> None:
    """Lets go of the pipe on which the slot's worker would say that it serves."""
    if slot.ready is not None:
        os.close(slot.ready)
        slot.ready = None


def _status(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"


def manage_command(arguments: Sequence[str]) -> list[str]:
    """The command line that runs this program's manage.py (or django-admin) with other arguments."""
    return [sys.executable, *([sys.argv[0]] if sys.argv[0] else ["-m", "django"]), *arguments]
