"""A database that goes back in time under live clients: no serial of before is taken for one of after, all are told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import aeventually
from tests.e2e.back import (
    LIMIT_S,
    Ledger,
    Speaker,
    Standby,
    Watcher,
    copy_disk,
    dump,
    publish_without_worker,
    query,
    restore_clean,
    restore_clean_in_steps,
    restore_rows,
    restore_some_rows,
    turn_disk_back,
)
from tests.e2e.processes import ServerProcess
from tests.servers import Postgres

pytestmark = pytest.mark.e2e

LIVE, QUIET = "live", "quiet"
"""Channels: one that is published to after the restore, one that is not."""


def mids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


class Scene:
    """Workers on one database (`url`, or an SQLite file), watchers of all kinds on each, and a speaker."""

    def __init__(self, url: str = "") -> None:
        self.url = url
        self.ledger = Ledger()
        self.servers: list[ServerProcess] = []
        self.watchers: list[Watcher] = []
        self.speaker = Speaker(self.ledger, "speaker")

    async def begin(self, servers: list[ServerProcess]) -> None:
        self.servers = servers
        for server in self.servers:
            await asyncio.to_thread(server.start)
        await self.speaker.begin(self.servers[0].port)
        await self.speaker.publish(LIVE, *mids("before", 20))
        await self.speaker.publish(QUIET, *mids("quiet", 5))
        for number, server in enumerate(self.servers):
            for style in ("every", "never", "socket", "cursor"):
                for channel in (LIVE, QUIET):
                    watcher = Watcher(self.ledger, f"{style}-{channel}-{number}", style, channel)
                    self.watchers.append(watcher)
                    await watcher.begin(server.port, {"rewind": 3})

    async def grow(self) -> dict[str, str]:
        """Messages that the database will not have again; everybody hears of them, as far as his window lets him.

        Returns the epochs of now.
        """
        await self.speaker.publish(LIVE, *mids("lost", 15))
        await self.speaker.publish(QUIET, *mids("quietlost", 5))
        for watcher in self.watchers:
            await watcher.until("lost14" if watcher.channel == LIVE else "quietlost4")
        return {channel: self.ledger.epochs[channel][0] for channel in (LIVE, QUIET)}

    async def looked(self) -> None:
        """Until each worker has looked at the database again."""
        seen: set[int] = set()
        (begun,) = query(self.url, "SELECT now()")[0]

        def look() -> bool:
            seen.update(
                pid
                for (pid,) in query(
                    self.url,
                    "SELECT client_port FROM pg_stat_activity WHERE query LIKE '%pg_current_wal_flush_lsn%'"
                    f" AND pid <> pg_backend_pid() AND query_start > '{begun}'",
                )
            )
            return len(seen) >= len(self.servers)

        await aeventually(look, LIMIT_S)

    def stored_epochs(self) -> dict[str, str]:
        statement = "SELECT c.name, l.epoch FROM realtime_log l JOIN realtime_channel c ON c.id = l.channel_id"
        if self.url:
            return dict(query(self.url, statement))
        with closing(sqlite3.connect(self.servers[0].folder / "db.sqlite3")) as connection:
            return dict(connection.execute(statement).fetchall())

    async def settle(self, epochs: dict[str, str], last: str) -> None:
        """Everybody is told, and has everything that there is."""
        for watcher in self.watchers:
            await watcher.until_told(epochs[watcher.channel])
        for watcher in self.watchers:
            await watcher.until(last if watcher.channel == LIVE else "quiet4")

    def end(self) -> None:
        for watcher in self.watchers:
            watcher.end()
        self.speaker.end()
        servers, self.servers = self.servers, []
        for server in servers:
            if server.running:
                server.signal(signal.SIGCONT)
            server.close()


@contextlib.asynccontextmanager
async def scene(server: Postgres, name: str, mutant: str | None = None) -> AsyncIterator[Scene]:
    url = server.create_database(name)
    stage = Scene(url)
    try:
        # No layer between them: what one has published, the other finds by its sweep.
        await stage.begin([ServerProcess(database_url=url, mutant=mutant) for _ in range(2)])
        yield stage
    finally:
        stage.end()


Restore = Callable[[Postgres, str, Path], None]
RESTORES: list[Restore] = [restore_clean, restore_clean_in_steps, restore_rows, restore_some_rows]


async def go_back(stage: Scene, server: Postgres, restore: Restore, first: str) -> dict[str, str]:
    """Dump, grow, restore, and publish again, `first` by "worker", "process" or a worker that was "stopped" meanwhile.

    Returns the epochs of before.
    """
    path = await asyncio.to_thread(dump, server, stage.url)
    epochs = await stage.grow()
    if restore is restore_clean_in_steps:
        # For a second a worker may know of no namespace.
        stage.speaker.tries_after |= {"forbidden", "not_found"}
    if first == "stopped":
        stage.servers[0].signal(signal.SIGSTOP)
    await asyncio.to_thread(restore, server, stage.url, path)
    if first == "process":
        await asyncio.to_thread(publish_without_worker, stage.servers[0], stage.ledger, LIVE, *mids("first", 3))
    if first == "stopped":
        stage.servers[0].signal(signal.SIGCONT)
    await stage.speaker.publish(LIVE, *mids("after", 10))
    return epochs


def _combined() -> list[Any]:
    """All ways, with all who may publish first; some of it only with -m slow."""
    quick: dict[str, list[Restore]] = {
        "worker": [restore_rows],
        "process": [],
        "stopped": [],
    }
    return [
        pytest.param(
            restore, first, id=f"{restore.__name__}-{first}", marks=[] if restore in some else pytest.mark.slow
        )
        for first, some in quick.items()
        for restore in RESTORES
    ]


@pytest.mark.parametrize(("restore", "first"), _combined())
async def test_a_dump_restored_under_live_clients(postgres_server: Postgres, restore: Restore, first: str) -> None:
    async with scene(postgres_server, f"back_{restore.__name__}_{first}") as stage:
        epochs = await go_back(stage, postgres_server, restore, first)
        await stage.settle(epochs, "after9")
        assert stage.ledger.faults == []
        check_epochs(stage, epochs, once=restore is not restore_clean_in_steps)
        await check_old_positions(stage, epochs)
        assert stage.ledger.faults == []


@pytest.mark.parametrize(
    "restore",
    [pytest.param(restore_clean, marks=pytest.mark.slow), restore_rows],
    ids=lambda restore: restore.__name__,
)
async def test_a_dump_restored_while_all_workers_publish(postgres_server: Postgres, restore: Restore) -> None:
    async with scene(postgres_server, f"busy_{restore.__name__}") as stage:
        path = await asyncio.to_thread(dump, postgres_server, stage.url)
        epochs = await stage.grow()
        over = asyncio.Event()

        async def publish(server: ServerProcess, name: str) -> None:
            speaker = Speaker(stage.ledger, name)
            await speaker.begin(server.port)
            for number in itertools.count():
                if over.is_set():
                    break
                await speaker.publish(LIVE, f"{name}-{number}")
            speaker.end()

        publishing = [asyncio.ensure_future(publish(server, f"busy{i}")) for i, server in enumerate(stage.servers)]
        await aeventually(lambda: {"busy0-3", "busy1-3"} <= set(stage.ledger.names.values()), LIMIT_S)
        await asyncio.to_thread(restore, postgres_server, stage.url, path)
        await aeventually(lambda: len(stage.ledger.epochs[LIVE]) > 1, LIMIT_S)
        over.set()
        await asyncio.gather(*publishing)
        await stage.speaker.publish(LIVE, "last")
        await stage.settle(epochs, "last")
        assert stage.ledger.faults == []
        check_epochs(stage, epochs, once=True)


def check_epochs(stage: Scene, epochs: dict[str, str], *, once: bool) -> None:
    """Each log has one new epoch, and all who are attached were told so without asking."""
    for channel, heard in stage.ledger.epochs.items():
        assert heard[0] == epochs[channel]
        if once:
            assert len(heard) == 2, (channel, heard)
    stored = stage.stored_epochs()
    for watcher in stage.watchers:
        assert watcher.epoch == stored[watcher.channel]
        if once:
            assert watcher.told == [(watcher.epoch, False)], (watcher.name, watcher.told)
            assert [frame["reason"] for frame in watcher.skipped] == ["epoch"], (watcher.name, watcher.skipped)
        assert (watcher.epoch, False) in watcher.told


async def check_old_positions(stage: Scene, epochs: dict[str, str]) -> None:
    """Whoever comes back with any position of before, at any worker, is told that it means nothing."""
    for number, server in enumerate(stage.servers):
        for channel, epoch in epochs.items():
            known = sorted({serial for name, e, serial in stage.ledger.names if (name, e) == (channel, epoch)})
            for serial in (known[0], known[len(known) // 2], known[-1]):
                back = Watcher(stage.ledger, f"back-{number}-{channel}-{serial}", "socket", channel)
                await back.begin(server.port, {"epoch": epoch, "serial": serial})
                await aeventually(lambda back=back: back.skipped, LIMIT_S)  # type: ignore[misc]
                assert back.epoch != epoch
                assert [frame["reason"] for frame in back.skipped] == ["epoch"]
                back.end()
        again = Watcher(stage.ledger, f"cursor-{LIVE}-{number}", "cursor", LIVE)
        await again.begin(server.port)
        assert again.epoch != epochs[LIVE]
        await asyncio.sleep(0)
        again.end()


# -- servers ----------------------------------------------------------------------------------------------------------


async def test_nothing_changes_when_the_server_stops_or_crashes(own_postgres_server: Postgres) -> None:
    async with scene(own_postgres_server, "restarted") as stage:
        for turn, end in enumerate((own_postgres_server.stop, own_postgres_server.kill)):
            await asyncio.to_thread(end)
            await asyncio.to_thread(own_postgres_server.start)
            await stage.speaker.publish(LIVE, *mids(f"again{turn}-", 3))
        for watcher in stage.watchers:
            if watcher.channel == LIVE:
                await watcher.until("again1-2")
            assert (watcher.told, watcher.skipped) == ([], [])
        assert all(len(epochs) == 1 for epochs in stage.ledger.epochs.values())
        assert stage.ledger.faults == []


@pytest.mark.slow
async def test_a_replica_that_takes_over_without_the_last_commits(own_postgres_server: Postgres) -> None:
    async with scene(own_postgres_server, "promoted") as stage:
        with Standby(own_postgres_server) as standby:
            at_standby = stage.url.replace(str(own_postgres_server.port), str(standby.port))
            await aeventually(
                lambda: query(at_standby, "SELECT count(*) FROM realtime_message") == [(25,)], LIMIT_S, every_s=0.1
            )
            await asyncio.to_thread(standby.stop)
            epochs = await stage.grow()
            await asyncio.to_thread(own_postgres_server.kill)
            standby.port = own_postgres_server.port
            await asyncio.to_thread(standby.start)
            # Workers find it before it takes over, and can write nothing.
            publishing = asyncio.ensure_future(stage.speaker.publish(LIVE, *mids("after", 10)))
            await aeventually(lambda: stage.speaker.refusals, LIMIT_S)
            assert query(stage.url, "SELECT pg_promote()") == [(True,)]
            await publishing
            await stage.settle(epochs, "after9")
            assert stage.ledger.faults == []
            check_epochs(stage, epochs, once=True)
            await check_old_positions(stage, epochs)
            stage.end()


async def turn_back(stage: Scene, server: Postgres, folder: Path, *, looked: bool = True) -> dict[str, str]:
    """Copy the disk, grow, put the copy in its place when workers have `looked`, and publish again.

    Returns the epochs of before.
    """
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(copy_disk, server, folder / "disk")
    await asyncio.to_thread(server.start)
    epochs = await stage.grow()
    if looked:
        await stage.looked()
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(turn_disk_back, server, folder / "disk")
    await asyncio.to_thread(server.start)
    await stage.speaker.publish(LIVE, *mids("after", 10))
    return epochs


async def test_a_disk_that_was_turned_back_under_running_workers(own_postgres_server: Postgres, tmp_path: Path) -> None:
    """Nothing in the database tells of it, so that whoever remembers nothing cannot know. Workers do."""
    async with scene(own_postgres_server, "disk") as stage:
        epochs = await turn_back(stage, own_postgres_server, tmp_path)
        await stage.settle(epochs, "after9")
        assert stage.ledger.faults == []
        check_epochs(stage, epochs, once=True)
        await check_old_positions(stage, epochs)


# -- mutants: each must be caught -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "restore",
    [
        pytest.param(restore, id=restore.__name__, marks=[] if restore is restore_rows else pytest.mark.slow)
        for restore in RESTORES
    ],
)
async def test_a_restore_that_nobody_notices_is_noticed_here(postgres_server: Postgres, restore: Restore) -> None:
    async with scene(postgres_server, f"mutant_{restore.__name__}", "restores-unnoticed") as stage:
        epochs = await go_back(stage, postgres_server, restore, "worker")
        # The publisher alone has heard two messages at one position.
        assert [
            fault for fault in stage.ledger.faults if fault.startswith(f"speaker: {LIVE} {epochs[LIVE]}.21 is after0")
        ]


@pytest.mark.slow
async def test_a_restore_that_is_not_told_is_noticed_here(postgres_server: Postgres) -> None:
    async with scene(postgres_server, "mutant_untold", "restores-untold") as stage:
        epochs = await go_back(stage, postgres_server, restore_clean, "worker")
        live = [watcher for watcher in stage.watchers if watcher.channel == LIVE]
        for watcher in live:
            await watcher.until_told(epochs[LIVE])
        assert stage.ledger.faults == []
        assert {watcher.epoch for watcher in stage.watchers if watcher not in live} == {epochs[QUIET]}


@pytest.mark.slow
async def test_a_disk_that_nobody_remembers_is_noticed_here(own_postgres_server: Postgres, tmp_path: Path) -> None:
    async with scene(own_postgres_server, "forgotten", "disks-forgotten") as stage:
        epochs = await turn_back(stage, own_postgres_server, tmp_path, looked=False)
        assert f"speaker: {LIVE} {epochs[LIVE]}.21 is after0, and was lost0" in stage.ledger.faults


# -- SQLite -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def scene_on_file(mutant: str | None = None) -> AsyncIterator[Scene]:
    stage = Scene()
    try:
        await stage.begin([ServerProcess(mutant=mutant)])
        yield stage
    finally:
        stage.end()


def without_journal(file: Path) -> None:
    """What a killed worker leaves beside the file belongs to that file: SQLite would apply it to any other."""
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def copied(file: Path, copy: Path) -> None:
    """cp copy db.sqlite3"""
    without_journal(file)
    shutil.copyfile(copy, file)


def moved(file: Path, copy: Path) -> None:
    """mv copy db.sqlite3"""
    without_journal(file)
    shutil.copyfile(copy, f"{file}.moved")
    Path(f"{file}.moved").replace(file)


def restored(file: Path, copy: Path) -> None:
    """sqlite3 db.sqlite3 '.restore copy'"""
    with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(file, timeout=30)) as target:
        source.backup(target)


def copied_with_its_mark(file: Path, copy: Path) -> None:
    """The folder, as its backup has it."""
    copied(file, copy)
    mark = Path(f"{file}-highwater")
    mark.unlink()
    shutil.copy2(f"{copy}-highwater", mark)


def copied_without_its_mark(file: Path, copy: Path) -> None:
    """The file alone, on another machine."""
    copied(file, copy)
    Path(f"{file}-highwater").unlink()


Put = Callable[[Path, Path], None]


async def go_back_on_file(
    stage: Scene, put: Put, folder: Path, end: Callable[[ServerProcess], None] | None = None
) -> dict[str, str]:
    """Copy, grow, put the copy in its place, and publish again. With `end` the worker is down meanwhile.

    Returns the epochs of before.
    """
    (server,) = stage.servers
    file, copy = server.folder / "db.sqlite3", folder / "copy.sqlite3"
    restored(copy, file)
    if put is copied_with_its_mark:
        shutil.copy2(f"{file}-highwater", f"{copy}-highwater")
    epochs = await stage.grow()
    if end is not None:
        await asyncio.to_thread(end, server)
    await asyncio.to_thread(put, file, copy)
    if end is not None:
        await asyncio.to_thread(server.start)
        await stage.speaker.begin(server.port)
        for watcher in stage.watchers:
            await watcher.resume(server.port)
    await stage.speaker.publish(LIVE, *mids("after", 10))
    return epochs


def _ways_to_put() -> list[Any]:
    """Each with a worker that stopped and one that was killed; some of it only with -m slow."""
    quick = {(copied, "killed"), (copied_with_its_mark, "stopped")}
    return [
        pytest.param(put, end, id=f"{put.__name__}-{name}", marks=[] if (put, name) in quick else pytest.mark.slow)
        for put in (copied, moved, restored, copied_with_its_mark, copied_without_its_mark)
        for name, end in (("stopped", ServerProcess.stop), ("killed", ServerProcess.kill9))
    ]


@pytest.mark.parametrize(("put", "end"), _ways_to_put())
async def test_an_older_file_in_place_of_a_worker_s_that_is_down(
    put: Put, end: Callable[[ServerProcess], None], tmp_path: Path
) -> None:
    async with scene_on_file() as stage:
        epochs = await go_back_on_file(stage, put, tmp_path, end)
        await stage.settle(epochs, "after9")
        assert stage.ledger.faults == []
        assert all(len(heard) == 2 for heard in stage.ledger.epochs.values()), stage.ledger.epochs
        for watcher in stage.watchers:
            assert [frame["reason"] for frame in watcher.skipped] == ["epoch"]
        await check_old_positions(stage, epochs)
        assert stage.ledger.faults == []


@pytest.mark.parametrize("put", [moved, pytest.param(restored, marks=pytest.mark.slow)], ids=lambda put: put.__name__)
async def test_an_older_file_in_place_of_a_running_worker_s(put: Put, tmp_path: Path) -> None:
    async with scene_on_file() as stage:
        epochs = await go_back_on_file(stage, put, tmp_path)
        await stage.settle(epochs, "after9")
        assert stage.ledger.faults == []
        check_epochs(stage, epochs, once=True)
        await check_old_positions(stage, epochs)
        assert stage.ledger.faults == []


async def test_nothing_changes_when_a_worker_stops_or_is_killed() -> None:
    async with scene_on_file() as stage:
        (server,) = stage.servers
        for turn, end in enumerate((server.stop, server.kill9)):
            await asyncio.to_thread(end)
            await asyncio.to_thread(server.start)
            await stage.speaker.begin(server.port)
            for watcher in stage.watchers:
                await watcher.resume(server.port)
            await stage.speaker.publish(LIVE, *mids(f"again{turn}-", 3))
        for watcher in stage.watchers:
            if watcher.channel == LIVE:
                await watcher.until("again1-2")
            assert (watcher.told, watcher.skipped) == ([], [])
        assert all(len(epochs) == 1 for epochs in stage.ledger.epochs.values())
        assert stage.ledger.faults == []


@pytest.mark.parametrize("put", [copied, pytest.param(restored, marks=pytest.mark.slow)], ids=lambda put: put.__name__)
async def test_an_older_file_that_nobody_notices_is_noticed_here(put: Put, tmp_path: Path) -> None:
    async with scene_on_file("restores-unnoticed") as stage:
        epochs = await go_back_on_file(stage, put, tmp_path, ServerProcess.stop)
        assert f"speaker: {LIVE} {epochs[LIVE]}.21 is after0, and was lost0" in stage.ledger.faults
