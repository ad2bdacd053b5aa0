"""What every measurement needs: processes on a core of their own, their CPU and memory, medians, and a table.

Shared machines drift, so a figure is only worth the floor measured beside it: `interleaved` runs both in turns, and the
ratio of each turn is taken before the median.
"""

from __future__ import annotations

import os
import platform
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES = {CORES[-1]}
GENERATOR_CORES = set(CORES[:-1]) or set(CORES)
START_S = 60

JWT_SECRET = secrets.token_urlsafe(48)


def pin_generator() -> None:
    """Keeps this process off the server's core."""
    os.sched_setaffinity(0, GENERATOR_CORES)


def describe() -> str:
    """The machine, in a line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return f"{time.strftime('%Y-%m-%d')}, {len(CORES)} cores of {model}, Python {platform.python_version()}"


@dataclass(frozen=True)
class Process:
    """A server process, as the kernel counts it."""

    pid: int
    port: int
    folder: Path

    def cpu_s(self) -> float:
        """User and system seconds of all its threads so far, in ticks of 10 ms."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_bytes(self) -> int:
        """Resident memory without file mappings: SQLite maps its shared memory file."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def environment(folder: Path) -> dict[str, str]:
    """The site in production form, with a database of its own unless DATABASE_URL names one."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "ENV_FILE": os.devnull,
        "STATE_DIR": str(folder),
        "SECRET_KEY": secrets.token_urlsafe(48),
        "REALTIME_JWT_SECRET": JWT_SECRET,
        "ALLOWED_HOSTS": "127.0.0.1,localhost",
        "COLLECTED_STATIC": "0",
        "LOG_LEVEL": "WARNING",
    }


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += family(int(child))
    return found


@contextmanager
def running(module: str, *arguments: str) -> Iterator[Process]:
    """`python -m MODULE --port N ARGUMENTS` on the server's core, from when it listens; ended in the end."""
    with tempfile.TemporaryDirectory(prefix="seriatim-bench-") as name:
        folder = Path(name)

        def command(port: int) -> list[str]:
            return [sys.executable, "-m", module, "--port", str(port), *arguments]

        with serving(command, folder, environment(folder)) as process:
            yield process


@contextmanager
def serving(
    command: Callable[[int], Sequence[str]], folder: Path, environment: Mapping[str, str], log: Path | None = None
) -> Iterator[Process]:
    """A command that serves on a free port and on the server's core, from when it listens; ended in the end.

    What it prints goes to `log`, and is shown when it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ExitStack() as stack:
        output = None if log is None else stack.enter_context(open(log, "wb"))
        child = subprocess.Popen(
            command(port),
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: os.sched_setaffinity(0, SERVER_CORES),
        )
        try:
            _wait(child, port, log)
            yield Process(child.pid, port, folder)
        finally:
            child.terminate()
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(child: subprocess.Popen[bytes], port: int, log: Path | None) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise SystemExit(f"The server ended with status {child.returncode}.{_said(log)}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"The server does not listen after {START_S} s.{_said(log)}")


def _said(log: Path | None) -> str:
    return "" if log is None else f" It said:\n{log.read_text(errors='replace')[-2000:]}"


@dataclass(frozen=True)
class Cost:
    """What some work took: CPU seconds of the server, and wall seconds."""

    cpu_s: float
    wall_s: float


def cost(process: Process, work: Callable[[], object]) -> Cost:
    """The cost of work that a process does for us while `work` runs."""
    cpu, wall = process.cpu_s(), time.perf_counter()
    work()
    return Cost(process.cpu_s() - cpu, time.perf_counter() - wall)


def interleaved(turns: int, works: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each of the works in turn, `turns` times; the first time only warms up."""
    figures: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            figure = work()
            if turn:
                figures[name].append(figure)
    return figures


def spread(figures: Sequence[float], form: str = ",.0f") -> str:
    """The median, and the least and most."""
    return f"{statistics.median(figures):{form}} ({min(figures):{form}}–{max(figures):{form}})"


@dataclass(frozen=True)
class Row:
    """One figure of the table. `ratio`: ours to the floor, as the aim counts it."""

    what: str
    floor: str
    ours: str
    ratio: str
    aim: str


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| what | floor | ours | ratio | aim |", "|---|---|---|---|---|"]
    lines += [f"| {row.what} | {row.floor} | {row.ours} | {row.ratio} | {row.aim} |" for row in rows]
    return "\n".join(lines)
