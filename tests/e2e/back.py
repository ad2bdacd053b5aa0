"""Databases that go back in time under live clients: watchers that write down what every position named, and restores.

`Ledger` is the judge: whoever hears of a message, its publisher or a subscriber, enters what (channel, epoch, serial)
named for him, and no entry may ever change.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import psycopg

from tests.conftest import aeventually
from tests.e2e.wire import RawSocket, Talker, connect, talker, token
from tests.servers import Postgres, ServerError, Site

LIMIT_S = 30.0
"""Of every wait: the machine may be slow, a promise is not measured here."""

TABLES = ("channel", "log", "message", "latest", "cursor", "outbox", "incarnation")
"""Those of the log and what belongs to it, in the order in which they are restored."""


class Ledger:
    """What each position named, for everybody who ever heard of it."""

    def __init__(self) -> None:
        self.names: dict[tuple[str, str, int], str] = {}
        self.faults: list[str] = []
        self.epochs: dict[str, list[str]] = defaultdict(list)
        """Of each channel, in the order in which they were heard of."""

    def enter(self, who: str, channel: str, epoch: str, serial: int, mid: str) -> None:
        if epoch not in self.epochs[channel]:
            self.epochs[channel].append(epoch)
        first = self.names.setdefault((channel, epoch, serial), mid)
        if first != mid:
            self.faults.append(f"{who}: {channel} {epoch}.{serial} is {mid}, and was {first}")


class Watcher:
    """A subscriber on one socket that acknowledges in its own way and checks what it is told, frame by frame.

    `style`: "every" acks each message, "never" none (it stays behind a full window), "socket" has a window of 0,
    "cursor" attaches by a cursor and acks.
    """

    def __init__(self, ledger: Ledger, name: str, style: str, channel: str) -> None:
        self.ledger = ledger
        self.name = name
        self.style = style
        self.channel = channel
        self.socket: RawSocket | None = None
        self.epoch: str | None = None
        self.position = -1
        self.explained = True
        self.got: dict[str, list[str]] = defaultdict(list)
        """Ids of messages by epoch, in order."""
        self.told: list[tuple[str | None, bool]] = []
        """Unasked `attached` frames: epoch and `resumed`."""
        self.skipped: list[dict[str, Any]] = []
        self.positions: set[tuple[str, int]] = set()
        """Everything this client might resume from."""
        self._asked = False

    @property
    def window(self) -> int:
        return {"never": 4, "socket": 0}.get(self.style, 64)

    async def begin(self, port: int, position: Any = "head") -> None:
        socket = self.socket = RawSocket()
        socket.on_text = self._on_text
        await connect(port, token(self.name), into=socket)
        await self.attach({"cursor": self.name} if self.style == "cursor" else position)

    async def attach(self, position: Any) -> None:
        assert self.socket is not None
        self._asked = True
        frame = {"type": "attach", "ref": 1, "channel": self.channel, "from": position, "window": self.window}
        self.socket.send(frame)
        await aeventually(lambda: not self._asked, LIMIT_S, what=f"{self.name} is attached")

    async def resume(self, port: int) -> None:
        """Come back with the position of now, on a new connection."""
        assert self.epoch is not None
        self.end()
        await self.begin(port, {"epoch": self.epoch, "serial": self.position})

    def end(self) -> None:
        if self.socket is not None:
            self.socket.abort()
            self.socket = None

    def _fault(self, text: str) -> None:
        self.ledger.faults.append(f"{self.name} ({self.style}): {text}")

    def _on_text(self, text: bytes) -> None:
        frame = json.loads(text)
        match frame["type"]:
            case "attached":
                if frame.get("ref") is None:
                    self.told.append((frame["epoch"], frame["resumed"]))
                elif not self._asked:
                    self._fault(f"an answer to nothing: {frame}")
                self._asked = False
                self.epoch, self.position, self.explained = frame["epoch"], frame["serial"], frame["resumed"]
            case "skipped":
                self.skipped.append(frame)
                self.explained = True
                if frame["to"] is not None:
                    self.position = frame["to"]
            case "message":
                self._on_message(frame)
            case "detached" | "error":
                self._fault(f"was told {frame}")

    def _on_message(self, frame: dict[str, Any]) -> None:
        serial, epoch = frame["serial"], self.epoch
        if not self.explained:
            self._fault(f"{serial} came before it was told why the position moved")
        if epoch is None:
            self._fault(f"{serial} came without an epoch")
            return
        if serial != self.position + 1:
            self._fault(f"{epoch}.{serial} came after {self.position}")
        self.position = serial
        self.ledger.enter(self.name, self.channel, epoch, serial, frame["id"])
        self.positions.add((epoch, serial))
        self.got[epoch].append(frame["id"])
        if self.style in ("every", "cursor") and self.socket is not None:
            self.socket.send({"type": "ack", "serials": {self.channel: serial}})

    async def until(self, mid: str) -> None:
        """Until the message has come in the epoch that this watcher is in now; behind one that never acks, until its
        window is full or it has come."""

        def arrived() -> bool:
            got = self.got[self.epoch or ""]
            return mid in got or (self.style == "never" and len(got) >= self.window)

        await aeventually(arrived, LIMIT_S, what=f"{self.name} ({self.style}) has {mid}")

    async def until_told(self, before: str) -> None:
        """Until it knows that the epoch `before` is over."""
        await aeventually(
            lambda: self.epoch not in (before, None) and self.explained,
            LIMIT_S,
            what=f"{self.name} ({self.style}) is told",
        )


class Speaker:
    """A publisher over a WebSocket that repeats what was not answered with `published`, under the same id."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger = ledger
        self.name = name
        self.socket: Talker | None = None
        self.ref = 0
        self.refusals = 0
        """Answers after which it tried again."""
        self.tries_after = {"unavailable"}

    async def begin(self, port: int) -> None:
        self.socket = await talker(port, token(self.name))

    def end(self) -> None:
        if self.socket is not None:
            self.socket.abort()

    async def publish(self, channel: str, *mids: str) -> None:
        for mid in mids:
            await self._publish(channel, mid)

    async def _publish(self, channel: str, mid: str) -> None:
        assert self.socket is not None
        for _ in range(60):
            self.ref += 1
            frame = {"type": "publish", "ref": self.ref, "channel": channel, "messages": [{"id": mid, "data": mid}]}
            answer = await self.socket.ask(frame, LIMIT_S)
            if answer["type"] == "published":
                self.ledger.enter(self.name, channel, answer["epoch"], answer["serials"][0], mid)
                return
            if answer["code"] not in self.tries_after:
                raise AssertionError(answer)
            self.refusals += 1
            await asyncio.sleep(0.5)
        raise AssertionError(f"{mid} could not be published")


def publish_without_worker(site: Site, ledger: Ledger, channel: str, *mids: str) -> None:
    """By a process of its own, which knows nothing of before."""
    code = (
        "import json\nfrom realtime.publishing import publish\n"
        f"for mid in {list(mids)!r}:\n"
        f"    receipt = publish({channel!r}, mid, id=mid)\n"
        "    print('receipt', json.dumps([receipt.epoch, receipt.serial, mid]))\n"
    )
    receipts = [line for line in site.manage("shell", "-c", code).splitlines() if line.startswith("receipt ")]
    assert len(receipts) == len(mids)
    for line in receipts:
        epoch, serial, mid = json.loads(line.removeprefix("receipt "))
        ledger.enter("a process", channel, epoch, serial, mid)


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


def dump(server: Postgres, url: str) -> Path:
    """In a folder that the server's user may write."""
    path = server.folder / f"{url.rpartition('/')[2]}.dump"
    server.run_tool("pg_dump", "--format=custom", f"--file={path}", url)
    return path


def restore_clean(server: Postgres, url: str, path: Path) -> None:
    """Everything is dropped and made again, at once."""
    _repeat(server, "pg_restore", "--clean", "--if-exists", "--single-transaction", f"--dbname={url}", str(path))


def restore_clean_in_steps(server: Postgres, url: str, path: Path) -> None:
    """The same in one transaction for each step, so that others see tables that are missing, or empty."""
    _repeat(server, "pg_restore", "--clean", "--if-exists", "--exit-on-error", f"--dbname={url}", str(path))


def restore_rows(server: Postgres, url: str, path: Path) -> None:
    """The tables stay, and keep their OIDs; their rows are those of the dump."""
    _restore_rows(server, url, path, TABLES)


def restore_some_rows(server: Postgres, url: str, path: Path) -> None:
    """The same for the tables of messages alone: what says which database this is stays as it is."""
    _restore_rows(server, url, path, ("log", "message", "latest"))


def _restore_rows(server: Postgres, url: str, path: Path, tables: tuple[str, ...]) -> None:
    script = ["BEGIN;", f"TRUNCATE {', '.join(f'realtime_{table}' for table in tables)} CASCADE;"]
    for table in tables:
        script.append(server.run_tool("pg_restore", "--data-only", f"--table=realtime_{table}", "--file=-", str(path)))
        script.append("RESET search_path;")
    _repeat(server, "psql", "--set=ON_ERROR_STOP=1", "--quiet", url, given="\n".join([*script, "COMMIT;"]))


def _repeat(server: Postgres, tool: str, *arguments: str, given: str | None = None) -> None:
    """A restore under running workers may be the one that PostgreSQL ends in a deadlock."""
    for attempt in range(5):
        try:
            server.run_tool(tool, *arguments, given=given)
            return
        except ServerError as error:
            if "deadlock" not in str(error) or attempt == 4:
                raise


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement).fetchall()


class Standby(Postgres):
    """A replica of `primary`, as far as it has come when it is stopped; it may take over its port."""

    name = "standby"

    def __init__(self, primary: Postgres) -> None:
        super().__init__()
        self._primary = primary

    def prepare(self) -> None:
        self.adopt()
        self.run_tool(
            *("pg_basebackup", "--host=127.0.0.1", f"--port={self._primary.port}", "--username=postgres"),
            *(f"--pgdata={self.folder / 'data'}", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
        )


def copy_disk(server: Postgres, target: Path) -> None:
    """The whole data directory of a server that is stopped."""
    subprocess.run(["cp", "-a", str(server.folder / "data"), str(target)], check=True)


def turn_disk_back(server: Postgres, source: Path) -> None:
    shutil.rmtree(server.folder / "data")
    subprocess.run(["cp", "-a", str(source), str(server.folder / "data")], check=True)
