"""The workers behind one address tell each other what they are asked: whichever is scraped answers for all.

Their supervisor gives them a folder that is theirs alone. Each listens there on a socket named after itself, in a
thread of its own, and answers what is asked: its numbers, or what another module offers (`offer`). So nothing is
written while nobody asks, no number is older than the question, a worker that died leaves no numbers behind, and one
whose event loop hangs still says so. docs/decisions/0009-workers-tell-each-other-their-metrics.md.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from realtime.conf import settings
from realtime.metrics.reading import Buckets, Reading, read
from realtime.worker import Worker

logger = logging.getLogger(__name__)

PATIENCE_S = 2.0
"""How long the answers of all workers may take together; Prometheus waits ten seconds by default."""

ANSWER_MOST_BYTES = 4 << 20

QUESTION_MOST_BYTES = 256 << 10

METRICS = b"metrics"

Question = dict[str, Any]

_offers: dict[str, Callable[[Worker, Question], object]] = {}


def offer(name: str, answer: Callable[[Worker, Question], object]) -> None:
    """Have every worker answer the question `name`, in a thread, with what JSON can say."""
    _offers[name] = answer


SUFFIX = ".sock"


class _Answer(msgspec.Struct):
    worker: str
    series: dict[str, list[tuple[tuple[str, ...], float | Buckets]]]


class Answerer:
    """One worker's socket. `answer(question)` is called in its thread, once for each who connects."""

    def __init__(self, folder: Path, name: str, answer: Callable[[bytes], bytes]) -> None:
        self._path = folder / f"{name}{SUFFIX}"
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Under another name first: while workers are replaced, the one before still answers under this one.
        temporary = folder / f"{name}.{os.getpid()}"
        try:
            self._socket.bind(str(temporary))
            self._socket.listen(8)
            temporary.rename(self._path)
        except OSError:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._work, name="seriatim-metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread. The name stays: whoever connects is refused, as with a worker that died."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already
        self._socket.close()
        self._thread.join(PATIENCE_S)

    def _work(self) -> None:
        while True:
            try:
                asking, _ = self._socket.accept()
            except OSError:
                return
            with asking:
                try:
                    asking.settimeout(PATIENCE_S)
                    asking.sendall(self._answer(_question_of(asking)))
                except OSError as error:
                    logger.debug("A sibling did not take the answer: %s", error)
                except Exception:
                    logger.exception("The metrics of this worker could not be told.")


_folder: Path | None = None
_answerer: Answerer | None = None


def answer_siblings(folder: str, worker: Worker) -> None:
    """Tells the other workers of this folder, from now on, whatever they ask; and they may be asked."""
    global _folder, _answerer
    try:
        _answerer = Answerer(Path(folder), worker.name, lambda question: _answered(worker, question))
    except OSError as error:
        logger.warning("Metrics of this worker can be read only from itself: %s", error)
        return
    _folder = Path(folder)
    _answerer.start()


def _question_of(asking: socket.socket) -> bytes:
    parts: list[bytes] = []
    while part := asking.recv(65_536):
        parts.append(part)
        if sum(map(len, parts)) > QUESTION_MOST_BYTES:
            raise OSError("a question without end")
    return b"".join(parts)


def _answered(worker: Worker, question: bytes) -> bytes:
    if question == METRICS:
        return encoded(read(worker))
    asked = msgspec.json.decode(question, type=Question)
    return msgspec.json.encode(_offers[asked["ask"]](worker, asked))


def ask_all(worker: Worker, question: Question) -> tuple[dict[str, Any], list[str]]:
    """The answers of all workers behind this one's address to a question that is offered, this one's own first, and the
    names of those that did not answer in time. For threads."""
    found: dict[str, Any] = {worker.name: _offers[question["ask"]](worker, question)}
    if _folder is None:
        return found, []
    missing = []
    for name, answer in ask(_folder, _others(_folder, worker), msgspec.json.encode(question)).items():
        try:
            found[name] = msgspec.json.decode(answer)
        except msgspec.DecodeError:
            missing.append(name)
    return found, missing


def _others(folder: Path, worker: Worker) -> list[str]:
    names = {f"w{number}" for number in range(1, settings.WORKERS + 1)}
    names |= {path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}")}
    return sorted(names - {worker.name})


def encoded(reading: Reading) -> bytes:
    return msgspec.json.encode(_Answer(reading.worker, reading.series))


def readings(worker: Worker) -> tuple[list[Reading], list[str]]:
    """Those of all workers behind this one's address, and the names of the workers that did not answer in time."""
    found = [read(worker)]
    if _folder is None:
        return found, []
    answers = ask(_folder, _others(_folder, worker))
    missing = []
    for name, answer in answers.items():
        try:
            told = msgspec.json.decode(answer, type=_Answer)
            found.append(Reading(name, told.series))
        except msgspec.DecodeError:
            missing.append(name)
    return found, missing


def ask(
    folder: Path, names: Iterable[str], question: bytes = METRICS, patience_s: float = PATIENCE_S
) -> Mapping[str, bytes]:
    """The answer of each worker; empty where there was none. All are asked before the first is waited for."""
    deadline = time.monotonic() + patience_s
    asked = {name: _asked(folder / f"{name}{SUFFIX}", question) for name in names}
    return {name: b"" if asking is None else _answer_of(asking, deadline) for name, asking in asked.items()}


def _asked(path: Path, question: bytes) -> socket.socket | None:
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    asking.setblocking(False)
    try:
        asking.connect(str(path))
        # The kernel's buffer takes it whole; one that does not is nobody who will answer in time.
        if asking.send(question) < len(question):
            raise OSError("the question was not taken")
        asking.shutdown(socket.SHUT_WR)
    except OSError:
        asking.close()
        return None
    return asking


def _answer_of(asking: socket.socket, deadline: float) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    with asking:
        try:
            while size_bytes <= ANSWER_MOST_BYTES:
                asking.settimeout(max(0.001, deadline - time.monotonic()))
                part = asking.recv(65_536)
                if not part:
                    return b"".join(parts)
                parts.append(part)
                size_bytes += len(part)
        except OSError:
            pass  # dead, stopped, or slower than all may be together
    return b""
