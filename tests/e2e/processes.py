"""Server processes that a test may kill, and a TCP proxy that hurts the connections to them."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import shutil
import signal
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tests.e2e.wire import linger_reset
from tests.servers import Site

_ROOT = Path(__file__).resolve().parents[2]
_CHUNK = 65_536


@functools.cache
def _migrated() -> Path:
    """An empty SQLite database with all tables, made once per process: migrating takes seconds."""
    folder = Path(tempfile.mkdtemp(prefix="seriatim-migrated-"))
    source = Site()
    try:
        source.manage("migrate", "--verbosity", "0")
        # All of it is in the file: the process that migrated closed it, so no write-ahead log stays behind.
        shutil.copy(source.folder / "db.sqlite3", folder / "db.sqlite3")
    finally:
        source.close()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / "db.sqlite3"


class WorkerProcess(NamedTuple):
    """A child of the supervisor."""

    name: str
    """As in `ready`: w1, w2, … While one is replaced there are two of a name."""
    pid: int

    def signal(self, number: signal.Signals) -> bool:
        """False when it is gone."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


class ServerProcess(Site):
    """`manage.py serve` on a free port with a database of its own, or with the one at `database_url`.

    `start` returns when /readyz says so. After `kill9`, `start` goes on with the same port and database. With several
    `workers` the process is their supervisor, and the variables must lead to a PostgreSQL and a Redis. With `mutant`
    the server runs with that fault built in (`tests.e2e.mutant_serve`).
    """

    def __init__(
        self, *, database_url: str | None = None, workers: int = 1, mutant: str | None = None, **variables: str
    ) -> None:
        if database_url is not None:
            variables["DATABASE_URL"] = database_url
        super().__init__(**variables)
        self._database_url = database_url
        self.count = workers
        self.mutant = mutant

    def prepare(self) -> None:
        if self._database_url is None:
            shutil.copy(_migrated(), self.folder / "db.sqlite3")
        else:
            super().prepare()

    def command(self) -> list[str]:
        command = super().command()
        if self.mutant is not None:
            command = [sys.executable, "-m", "tests.e2e.mutant_serve", self.mutant, "--port", str(self.port)]
        return command if self.count == 1 else [*command, "--workers", str(self.count)]

    def environment(self) -> dict[str, str]:
        mutant = {} if self.mutant is None else {"MUTANT": self.mutant}
        return {**super().environment(), **mutant, "PYTHONPATH": str(_ROOT)}

    def answers(self) -> bool:
        if self.count > 1 and len(self.workers()) < self.count:
            return False
        try:
            with closing(urllib.request.urlopen(f"{self.url}/readyz", timeout=5)) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill9(self) -> None:
        """As a crash: the process is gone before this returns."""
        self.kill()

    def restart(self) -> None:
        """Stop in order and start again on the same port and database."""
        self.stop()
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[WorkerProcess]:
        """The supervisor's children, as far as they have come to be workers; none while there is no supervisor."""
        process = self._process
        children = "" if process is None else _read_proc(f"{process.pid}/task/{process.pid}/children")
        found: list[WorkerProcess] = []
        for pid in children.split():
            arguments = _read_proc(f"{pid}/cmdline").split("\0")
            if "--number" in arguments:  # else it has only been forked, or is dead
                found.append(WorkerProcess(f"w{arguments[arguments.index('--number') + 1]}", int(pid)))
        return found

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


def _read_proc(name: str) -> str:
    """A file of /proc; "" when its process has ended."""
    try:
        return Path("/proc", name).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Flow:
    """One direction of a connection. Every fault may be set at any time and holds for what comes after."""

    def __init__(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._link = link
        self._reader = reader
        self._writer = writer
        self.delay_s = 0.0
        self.rate_bytes_s: float | None = None
        self.cut_after: int | None = None
        """Bytes that still pass; then the whole link is reset."""
        self.on_cut: Callable[[], None] = lambda: None
        """Called when the cut fell inside of what was sent at once."""
        self.passed = 0
        self._voice = asyncio.Event()
        self._voice.set()

    def silence(self) -> None:
        """Nothing passes any more; the connection stays."""
        self._voice.clear()

    def speak(self) -> None:
        self._voice.set()

    @property
    def hurt(self) -> bool:
        return bool(self.delay_s) or self.rate_bytes_s is not None or not self._voice.is_set()

    async def run(self) -> None:
        while True:
            data = await self._reader.read(_CHUNK if self.rate_bytes_s is None else 2048)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._voice.wait()
            if not data:
                self._link.close()
                return
            if self.rate_bytes_s is not None:
                await asyncio.sleep(len(data) / self.rate_bytes_s)
            if self.cut_after is not None:
                cut = self.cut_after
                self._writer.write(data[:cut])
                self.cut_after = cut - len(data)
                if self.cut_after < 0:
                    self.on_cut()
                    # Give the bytes in front of the cut time to arrive: a reset overtakes them.
                    await asyncio.sleep(0.005)
                    self._link.reset()
                    return
            else:
                self._writer.write(data)
            self.passed += len(data)
            await self._writer.drain()


class Link:
    """One connection through the proxy: `up` is from the client to the server, `down` back."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._writers = (client[1], server[1])
        self.client_port: int = client[1].get_extra_info("peername")[1]
        self.up = Flow(self, client[0], server[1])
        self.down = Flow(self, server[0], client[1])
        self.over = False

    async def run(self) -> None:
        flows = [asyncio.ensure_future(flow.run()) for flow in (self.up, self.down)]
        try:
            done, _ = await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.exception()
        finally:
            for each in flows:
                each.cancel()
            await asyncio.gather(*flows, return_exceptions=True)
            self.close()

    def close(self) -> None:
        """Ends both sides; what was passed on still arrives."""
        if not self.over:
            self.over = True
            for writer in self._writers:
                writer.close()

    def reset(self) -> None:
        """Ends both sides at once, by a TCP reset: what is on its way is lost."""
        if not self.over:
            self.over = True
            for writer in self._writers:
                linger_reset(writer.transport)
                writer.transport.abort()

    @property
    def hurt(self) -> bool:
        """Whether it is silenced, slowed or delayed now."""
        return self.up.hurt or self.down.hurt

    def heal(self) -> None:
        """Takes every fault away."""
        for flow in (self.up, self.down):
            flow.delay_s, flow.rate_bytes_s, flow.cut_after = 0.0, None, None
            flow.speak()


class Proxy:
    """Listens on `port` and connects each client to the server's port, whether that server runs now or not."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.links: dict[int, Link] = {}
        """By the client's own port."""
        self.refused = 0
        """Connections that found no server."""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for link in list(self.links.values()):
            link.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def heal(self) -> None:
        for link in list(self.links.values()):
            link.heal()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy ends; asyncio.Server would report it as an error of ours
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            self.refused += 1
            linger_reset(writer.transport)
            writer.transport.abort()
            return
        raw: socket.socket = writer.get_extra_info("socket")
        if raw.fileno() < 0:
            server[1].transport.abort()
            return  # the client has gone in the meantime
        # Small buffers, so that what a client does not read is felt by the server soon.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHUNK)
        server[1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
        link = Link(self, (reader, writer), server)
        self.links[link.client_port] = link
        try:
            await link.run()
        finally:
            if self.links.get(link.client_port) is link:
                del self.links[link.client_port]
