"""The echo as a process, for the suite and for the tests."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from tests.servers import Server

_ROOT = Path(__file__).resolve().parents[2]


class Echo(Server):
    """`tests.conformance.echo` on a free port; over TLS with a key and certificate."""

    name = "echo"

    def __init__(self, pem: Path | None = None) -> None:
        super().__init__()
        self._pem = pem

    def command(self) -> list[str]:
        tls = ["--tls", str(self._pem)] if self._pem is not None else []
        return [sys.executable, "-m", "tests.conformance.echo", "--port", str(self.port), *tls]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(_ROOT)}

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
