"""HTTP beside the fan-out: REST history and the admin, asked without a pause on the worker that serves the sockets.

    python -m bench.fanout.hammer PORT TOKEN

Kept connections: half of them read the newest 100 messages of the channel, half the admin's list of channels. Says
`ready` when they begin. Ends on SIGTERM with a line of JSON: how many requests were answered, and how long they took.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from urllib.parse import urlencode

from bench import machine

USER = "operator"
PASSWORD = "of a bench that nobody else can reach"
HISTORY = "/api/v1/channels/bench/messages?limit=100"
ADMIN = "/admin/realtime/channel/"
CONNECTIONS = 4
"""Of each kind."""

NICENESS = 10
"""It shares its core with the load generator, which has to be in time."""


def create_operator(environment: dict[str, str]) -> None:
    """The account that the admin is asked with; for a database that was just migrated."""
    subprocess.run(
        [sys.executable, "manage.py", "createsuperuser", "--noinput", "--username", USER, "--email", "bench@localhost"],
        cwd=machine.ROOT,
        env={**environment, "DJANGO_SUPERUSER_PASSWORD": PASSWORD},
        check=True,
        stdout=subprocess.DEVNULL,
    )


@contextmanager
def running(port: int, token: str) -> Iterator[dict[str, Any]]:
    """Hammers while the block runs; what it counted is in the dict afterwards."""
    counted: dict[str, Any] = {}
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.fanout.hammer", str(port), token],
        cwd=machine.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.nice(NICENESS),
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield counted
    finally:
        child.terminate()
        said, _ = child.communicate(timeout=60)
        nothing = {"requests": 0, "p50_ms": None, "trouble": f"the program ended with {child.returncode}"}
        counted.update(json.loads(said) if said else {"history": nothing, "admin": nothing})


class Asker(threading.Thread):
    """One kept connection that asks for one page, again and again."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.path = path
        self.headers: dict[str, str] = {}
        self.took_ms: list[float] = []
        self.trouble = ""

    def get(self, path: str) -> tuple[http.client.HTTPResponse, str]:
        self.connection.request("GET", path, headers=self.headers)
        answer = self.connection.getresponse()
        return answer, answer.read().decode()

    def log_in(self) -> None:
        """As a browser does, by the admin's own form."""
        answer, page = self.get("/admin/login/")
        field = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert field is not None, page[:500]
        cookies = _cookies(answer)
        form = urlencode({"csrfmiddlewaretoken": field[1], "username": USER, "password": PASSWORD, "next": ADMIN})
        self.connection.request(
            "POST",
            "/admin/login/",
            body=form,
            headers={"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookies},
        )
        answer = self.connection.getresponse()
        answer.read()
        if answer.status != 302:
            raise SystemExit(f"The admin's login was answered with {answer.status}.")
        self.headers["Cookie"] = f"{cookies}; {_cookies(answer)}"

    def run(self) -> None:
        try:
            while True:
                start = time.perf_counter()
                answer, text = self.get(self.path)
                if answer.status != 200:
                    raise ConnectionError(f"{answer.status} {text[:200]}")
                self.took_ms.append((time.perf_counter() - start) * 1e3)
        except (OSError, http.client.HTTPException) as error:
            self.trouble = repr(error)


def _counted(askers: list[Asker]) -> dict[str, object]:
    took = sorted(ms for asker in askers for ms in asker.took_ms)
    return {
        "requests": len(took),
        "p50_ms": took[len(took) // 2] if took else None,
        "trouble": "; ".join(asker.trouble for asker in askers if asker.trouble),
    }


def _cookies(answer: http.client.HTTPResponse) -> str:
    return "; ".join(value.split(";")[0] for name, value in answer.getheaders() if name.lower() == "set-cookie")


def main(port: int, token: str) -> None:
    history = [Asker(port, HISTORY) for _ in range(CONNECTIONS)]
    admin = [Asker(port, ADMIN) for _ in range(CONNECTIONS)]

    def stop(number: int, frame: FrameType | None) -> None:
        print(json.dumps({"history": _counted(history), "admin": _counted(admin)}), flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    admin[0].log_in()
    for asker in admin:
        asker.headers = admin[0].headers
    for asker in history:
        asker.headers["Authorization"] = f"Bearer {token}"
    for asker in history + admin:
        asker.start()
    print("ready", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
