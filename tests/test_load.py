"""What a worker takes on: limits as a client meets them, what a worker measures of itself, what it gives up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from django.core import checks
from django.test import override_settings

from realtime import load, worker
from realtime.delivery.shedding import Measurements, Step
from realtime.load import Load, Memory, Place, Refusal, cgroup_share_bytes, rss_bytes
from tests.conftest import MS, aeventually
from tests.conversation import Peer, bearer, connected, stop_worker, token

HIGH = Measurements(lag_s=3600.0)


@pytest_asyncio.fixture
async def one_worker(transactional_db: None) -> AsyncIterator[None]:
    yield
    await stop_worker()


def make(measure: Callable[[], Measurements] = Measurements) -> Load:
    return Load(asyncio.new_event_loop(), measure)


# ---------------------------------------------------------------------- as a client meets them


async def test_a_client_over_its_limit_is_told_and_closed_and_others_are_not(
    one_worker: None, realtime_settings: Callable[..., None]
) -> None:
    realtime_settings(CONNECTIONS_PER_CLIENT_MAX=1)
    async with connected(text=token("ana")) as ana, connected(text=token("bo")) as bo:
        second = Peer(bearer(token("ana")))
        assert await second.connect()
        error = await second.read(type="error")
        assert (error["code"], error["retry_after_ms"] >= 1000) == ("limit_exceeded", True)
        assert (await second.closed())[:2] == (4013, f"retry_after_ms={error['retry_after_ms']}")
        await second.leave()
        running = worker.current()
        assert running is not None
        await aeventually(lambda: running.load.connections == 2)
        assert running.load.admission.refused == {"client": 1}
        for peer in (ana, bo):
            assert (await peer.request("ping"))["type"] == "pong"


async def test_a_renewed_token_is_no_second_connection(
    one_worker: None, realtime_settings: Callable[..., None]
) -> None:
    realtime_settings(CONNECTIONS_PER_CLIENT_MAX=1)
    async with connected(text=token("ana")) as ana:
        assert (await ana.request("auth", token=token("ana")))["type"] == "authenticated"
        running = worker.current()
        assert running is not None
        assert running.load.admission.clients == {"ana": 1}


async def test_a_server_that_knows_nothing_of_places_is_refused_by_the_consumer(
    one_worker: None, realtime_settings: Callable[..., None]
) -> None:
    realtime_settings(CONNECTIONS_MAX=1)
    async with connected(text=token("ana")):
        refused = Peer(bearer(token("bo")))
        refused.communicator.scope["extensions"] = {"websocket.http.response": {}}
        await refused.communicator.send_input({"type": "websocket.connect"})
        start = await refused.communicator.receive_output()
        body = await refused.communicator.receive_output()
        headers = dict(start["headers"])
        assert start["status"] == 503
        assert int(headers[b"retry-after"]) >= 1
        assert b"no room" in body["body"]
        await refused.communicator.wait()
        assert not await Peer(bearer(token("bo"))).connect()
    running = worker.current()
    assert running is not None
    await aeventually(lambda: not running.load.connections)
    async with connected(text=token("bo")):
        pass


async def test_who_does_not_say_who_he_is_counts_until_he_leaves(
    one_worker: None, realtime_settings: Callable[..., None]
) -> None:
    realtime_settings(UNAUTHENTICATED_MAX=1)
    stranger = Peer()
    assert await stranger.connect()
    assert not await Peer(bearer(token())).connect()
    await stranger.send({"type": "auth", "token": token("bo")})
    await stranger.read(type="ready")
    async with connected():
        pass
    await stranger.leave()


async def test_idle_connections_are_shed_the_longest_idle_first_and_active_ones_stay(
    one_worker: None, realtime_settings: Callable[..., None]
) -> None:
    realtime_settings(SHED_IDLE_S=1, SHED_PERCENT=50)
    async with connected(text=token("first")) as first, connected(text=token("busy")) as busy:
        running = worker.current()
        assert running is not None
        running.load.ladder.step = Step.SHED_IDLE
        running.load._measure = lambda: HIGH

        async def keep_busy() -> None:
            while True:
                await busy.request("ping")
                await asyncio.sleep(50 * MS)

        task = asyncio.ensure_future(keep_busy())
        try:
            code, reason, _ = await first.closed()
            assert (code, reason.startswith("retry_after_ms=")) == (4013, True)
            await asyncio.sleep(1500 * MS)
            assert not task.done()
        finally:
            task.cancel()
        assert running.load.shed == 1


# ---------------------------------------------------------------------- the ladder and what hangs on it


def climb(made: Load, to: Step) -> None:
    """The ladder at a step, whatever the time."""
    while made.step < to:
        made.ladder.step = Step(made.step + 1)
    made.admission.overloaded = made.step >= Step.REFUSE_NEW


def test_each_step_switches_one_thing_more() -> None:
    made = make()
    seen = []
    for step in Step:
        climb(made, step)
        refused = isinstance(made.admit("203.0.113.7", []), Refusal)
        seen.append((refused, made.sheds_idle, made.drops_signals, made.conflates))
    assert seen == [tuple(number < count for number in range(4)) for count in range(5)]


async def test_a_loop_that_stays_late_closes_the_door_and_opens_it_again(
    monkeypatch: pytest.MonkeyPatch, realtime_settings: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    realtime_settings(SHED_HOLD_S=1)
    monkeypatch.setattr(load, "MEASURE_EVERY_S", 10 * MS)
    monkeypatch.setattr(load, "RISE_S", 50 * MS)
    now = HIGH
    made = Load(asyncio.get_running_loop(), lambda: now)
    caplog.set_level(logging.INFO, "realtime.load")
    made.start()
    try:
        await aeventually(lambda: made.step is Step.CONFLATE)
        assert isinstance(made.admit("203.0.113.7", []), Refusal)
        assert made.refusing
        now = Measurements()
        await aeventually(lambda: made.step is Step.NORMAL, 20_000 * MS)
    finally:
        made.stop()
    assert isinstance(made.admit("203.0.113.7", []), Place)
    assert [record.getMessage().split()[1] for record in caplog.records if record.levelno == logging.WARNING] == [
        "REFUSE_NEW",
        "SHED_IDLE",
        "DROP_SIGNALS",
        "CONFLATE",
    ]
    assert "lag_s" in caplog.text
    assert made.ladder.rises == {step: 1 for step in Step if step}


async def test_refusals_are_summed_up_in_the_log(
    monkeypatch: pytest.MonkeyPatch, realtime_settings: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    realtime_settings(CONNECTIONS_MAX=1)
    monkeypatch.setattr(load, "MEASURE_EVERY_S", 10 * MS)
    monkeypatch.setattr(load, "TELL_EVERY_S", 50 * MS)
    made = Load(asyncio.get_running_loop(), Measurements)
    for _ in range(4):
        made.admit("203.0.113.7", [])
    made.start()
    try:
        await aeventually(lambda: "worker 3" in caplog.text)
        await asyncio.sleep(200 * MS)
    finally:
        made.stop()
    assert len([record for record in caplog.records if "refused" in record.getMessage()]) == 1


def test_a_full_address_is_told_once_with_the_likeliest_cause(
    realtime_settings: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    realtime_settings(CONNECTIONS_PER_ADDRESS_MAX=1)
    made = make()
    for _ in range(4):
        made.admit("10.0.0.1", ["203.0.113.7"])
    assert caplog.text.count("TRUSTED_PROXIES") == 1


def test_behind_a_trusted_proxy_each_client_counts_for_itself(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(CONNECTIONS_PER_ADDRESS_MAX=1, TRUSTED_PROXIES=["10.0.0.0/8"])
    made = make()
    for client in ("203.0.113.7", "203.0.113.8", "2001:db8::1"):
        assert isinstance(made.admit("10.0.0.1", [client]), Place)
    assert isinstance(made.admit("10.0.0.1", ["2001:db8::2"]), Refusal)


# ---------------------------------------------------------------------- memory


def test_the_memory_of_this_process_is_read() -> None:
    before = rss_bytes()
    kept = bytearray(b"x") * 50_000_000
    assert rss_bytes() - before > 40_000_000
    del kept


def test_memory_that_is_free_again_does_not_count_although_the_process_keeps_it() -> None:
    memory = Memory()
    assert memory.in_use(100, 1000) == 100
    assert memory.in_use(200, 3000) == 200
    # Connections went: their blocks are free, the pages are not.
    assert memory.in_use(200, 1500) == 100
    # Others come: nothing grows until there are as many blocks as before.
    assert memory.in_use(200, 3000) == 200
    assert memory.in_use(220, 3300) == 220
    # Pages were given back: what is left is in use.
    assert memory.in_use(150, 2500) == 150
    assert memory.in_use(150, 1250) == 75


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


UNLIMITED_1 = "9223372036854771712"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "500000\n"}, 500_000),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 0),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": "300000\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
            },
            300_000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/a\n4:memory:/a\n0::/\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "700000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_1,
            },
            700_000,
        ),
        (
            {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_1},
            0,
        ),
        ({}, 0),
    ],
)
def test_the_limit_of_the_control_group_is_found_at_any_level(
    tmp_path: Path, files: dict[str, str], limit: int
) -> None:
    assert cgroup_share_bytes(tree(tmp_path, files)) == limit


def test_workers_share_the_limit(tmp_path: Path, realtime_settings: Callable[..., None]) -> None:
    realtime_settings(WORKERS=4)
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "400000\n"}
    assert cgroup_share_bytes(tree(tmp_path, files)) == 100_000


def test_memory_near_its_limit_is_overload(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(MEMORY_MAX_BYTES=rss_bytes())
    made = make()
    now = time.monotonic()
    measured = Measurements(memory_bytes=rss_bytes())
    steps = [made.ladder.update(measured, now + index / 4) for index in range(10)]
    assert steps[-1] is Step.REFUSE_NEW
    assert made.ladder.cause == "memory_bytes"


def test_proxies_that_are_none_are_refused_at_start() -> None:
    with override_settings(REALTIME={"TRUSTED_PROXIES": ["10.0.0.1/8"]}):
        found: list[Any] = [each for each in checks.run_checks() if each.id == "realtime.E018"]
    assert len(found) == 1
    assert "10.0.0.1/8" in found[0].msg
