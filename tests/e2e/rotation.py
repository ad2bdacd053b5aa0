"""Many clients that come, stay and refresh their tokens while keys go round and tokens are revoked.

Whoever has a good token must never be cut or refused; whoever's was taken back must be out in time. Tokens are issued
by the servers themselves, so with the key that is current at that worker, and kept by some for as long as they last.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt

from tests.conftest import aeventually
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Talker, request, talker

PATIENCE_S = 60

PROGRAM = """
import json, sys, time, traceback
import django
django.setup()
from realtime import desk, signing, tokens
from realtime.models import SigningKey
print("ready", flush=True)
for line in sys.stdin:
    answer = {}
    try:
        exec(json.loads(line))
    except Exception:
        answer = {"error": traceback.format_exc()}
    print(json.dumps({**answer, "at": time.time()}), flush=True)
"""


class Operator:
    """A program beside the workers in which an operator acts; it stays, for Django takes seconds to start."""

    def __init__(self, server: ServerProcess) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**server.environment(), "DJANGO_SETTINGS_MODULE": "config.settings"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = asyncio.Lock()

    def start(self) -> None:
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"

    async def act(self, code: str) -> dict[str, Any]:
        """Runs code that may fill `answer`; `at` is the time when it was done."""
        async with self._lock:
            answer: dict[str, Any] = json.loads(await asyncio.to_thread(self._say, code))
        assert "error" not in answer, answer["error"]
        return answer

    def _say(self, code: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()


@dataclass
class Figures:
    """What happened."""

    connected: int = 0
    refreshed: int = 0
    rotations: int = 0
    kids: set[str] = field(default_factory=set)
    """Keys that signed a token somebody came in with."""
    cut: list[str] = field(default_factory=list)
    """Good clients that were cut or refused: must stay empty."""
    stayed: list[str] = field(default_factory=list)
    """Who was to go and was there after the patience of the run."""
    out_s: list[float] = field(default_factory=list)
    """From the moment before somebody's token was taken back until the close."""

    def __str__(self) -> str:
        worst = max(self.out_s, default=0.0)
        return (
            f"{self.connected} connects, {self.refreshed} refreshes, {self.rotations} rotations, {len(self.kids)} keys;"
            f" {len(self.out_s)} put out, the slowest in {worst:.2f} s; cut wrongly {len(self.cut)}"
        )


class Client:
    """One client. It refreshes in place or comes back on another worker, unless it is a sleeper."""

    def __init__(self, run: Run, name: str, key: str, *, sleeper: bool = False, port: int | None = None) -> None:
        self.run, self.name, self.key, self.sleeper, self.port = run, name, key, sleeper, port
        self.socket: Talker | None = None
        self.token = ""
        self.good_kid = ""
        """Of the key that signed the last token that was taken."""
        self.condemned = False
        """Its token was, or is just being, taken back."""
        self.out = asyncio.Event()

    async def fetch(self) -> None:
        port = self.port or self.run.dice.choice(self.run.ports)
        body = {"client": self.name, "cap": {"*": ["subscribe"]}, "ttl_s": 3600}
        status, answer = await request(port, "POST", "/api/v1/tokens", self.key, body)
        if status != 201:
            raise ConnectionError(f"no token: {status} {answer}")
        self.token = answer["token"]

    def came_in(self) -> None:
        self.good_kid = self.kid
        self.run.figures.kids.add(self.kid)

    @property
    def kid(self) -> str:
        return str(jwt.get_unverified_header(self.token)["kid"])

    @property
    def jti(self) -> str:
        return str(jwt.decode(self.token, options={"verify_signature": False})["jti"])

    async def live(self) -> None:
        figures = self.run.figures
        while not self.run.over.is_set():
            try:
                if self.socket is None:
                    await self.fetch()
                    self.socket = await talker(self.run.dice.choice(self.run.ports), self.token)
                    figures.connected += 1
                    self.came_in()
                if await self.stays():
                    await self.fetch()
                    if self.condemned:
                        continue
                    answer = await self.socket.ask({"type": "auth", "ref": 1, "token": self.token}, PATIENCE_S)
                    if answer["type"] != "authenticated":
                        raise ConnectionError(str(answer))
                    figures.refreshed += 1
                    self.came_in()
                elif not self.condemned:
                    await self.socket.close()
                    self.socket = None
            except ConnectionError as error:
                self.socket = None
                if self.condemned:
                    self.out.set()
                    return
                if not self.run.over.is_set():
                    figures.cut.append(f"{self.name}: {error}")
                    return
        if self.socket is not None:
            await self.socket.close()

    async def stays(self) -> bool:
        """Listens for a while. Whether it refreshes in place then; ConnectionError when it was closed."""
        assert self.socket is not None
        until = time.monotonic() + (
            PATIENCE_S if self.sleeper else self.run.dice.uniform(0.5, 1.5) * self.run.refresh_s
        )
        while (left_s := until - time.monotonic()) > 0 and not self.run.over.is_set():
            try:
                if await self.socket.receive(min(left_s, 0.25)) is None:
                    raise ConnectionError(f"closed with {self.socket.close_code} {self.socket.close_reason}")
            except TimeoutError:
                pass
        return not self.run.over.is_set() and not self.sleeper and self.run.dice.random() < 0.7


class Run:
    """Clients at several servers, and an operator."""

    def __init__(self, ports: Sequence[int], operator: Operator, *, seed: int, refresh_s: float) -> None:
        self.ports, self.operator, self.refresh_s = ports, operator, refresh_s
        self.dice = random.Random(seed)
        self.figures = Figures()
        self.over = asyncio.Event()
        self.clients: list[Client] = []
        self.current = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._number = 0

    async def api_key(self, name: str) -> str:
        answer = await self.operator.act(
            f"answer['key'] = tokens.create_api_key('{name}-{time.time_ns()}', {{'*': ['*']}})[1]"
        )
        return str(answer["key"])

    async def enter(self, count: int, key: str, *, sleeper: bool = False) -> list[Client]:
        """So many more clients, when all of them are in."""
        new = []
        for _ in range(count):
            self._number += 1
            new.append(Client(self, f"c{self._number}-{time.time_ns()}", key, sleeper=sleeper))
        self.clients += new
        self._tasks += [asyncio.create_task(each.live()) for each in new]
        await aeventually(lambda: all(each.socket is not None for each in new) or self.figures.cut, PATIENCE_S)
        return new

    async def put_out(self, clients: Sequence[Client], code: str) -> None:
        """The operator runs `code`, which takes back what these rest on."""
        for each in clients:
            each.condemned = True
        began = time.time()
        await self.operator.act(code)
        for each in clients:
            try:
                await asyncio.wait_for(each.out.wait(), PATIENCE_S)
                self.figures.out_s.append(time.time() - began)
            except TimeoutError:
                self.figures.stayed.append(each.name)

    async def rotate(self, algorithm: str, key: str, *, hurry: bool = False) -> str:
        """A new key signs, at all workers when this returns. Returns the one before, which is retiring.

        An operator has to wait until all workers know the key, which takes seconds; in a `hurry` its row lies about its
        age, which harms nobody while there are no clients.
        """
        before = self.current
        made = await self.operator.act(f"answer['kid'] = desk.generate_key({algorithm!r}, actor='run').kid")
        self.current = kid = str(made["kid"])
        if hurry:
            await self.operator.act(f"SigningKey.objects.filter(kid={kid!r}).update(created='2020-01-01T00:00:00Z')")
        code = (
            f"try:\n    desk.make_key_current({kid!r}, actor='run')\n    answer['done'] = True\n"
            "except signing.TooEarly:\n    pass"
        )

        async def made_current() -> bool:
            return "done" in await self.operator.act(code)

        async def used() -> bool:
            found = [Client(self, "probe", key, port=port) for port in self.ports]
            for each in found:
                await each.fetch()
            return {each.kid for each in found} == {kid}

        await aeventually(made_current, PATIENCE_S)
        await aeventually(used, PATIENCE_S)
        self.figures.rotations += 1
        return before

    async def refreshed(self) -> None:
        """Nobody but sleepers, and who is to go, rests on another key than the current one."""
        stale = [each for each in self.clients if not each.sleeper and not each.condemned]
        await aeventually(lambda: all(each.good_kid == self.current for each in stale) or self.figures.cut, PATIENCE_S)

    async def end(self) -> None:
        self.over.set()
        await asyncio.gather(*self._tasks)
