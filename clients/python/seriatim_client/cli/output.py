"""Where the command writes: results to standard output, everything for people to standard error.

A pipe gets no progress. Who closes standard output early (`| head`) has seen enough: that ends the command quietly.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from seriatim_client.codes import ERRORS
from seriatim_client.errors import SeriatimError
from seriatim_client.messages import Message

OK: Final = 0
REFUSED: Final = 1
"""The server refused, or the outcome is not what was asked."""
USAGE: Final = 2
UNREACHABLE: Final = 3
"""No server answered, or it could not do it at the moment: the same command may succeed later."""
INTERRUPTED: Final = 130
"""128 + SIGINT."""
BROKEN_PIPE: Final = 141
"""128 + SIGPIPE."""

REFRESH_S: Final = 0.1


class Usage(Exception):
    """The command was not given what it needs; the message says what."""


def write(line: str) -> None:
    """One line of the result, at once: whoever reads a pipe waits for it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """For people."""
    print(text, file=sys.stderr, flush=True)


def fail(error: SeriatimError) -> int:
    """Tells the error and gives the exit status, which follows from the one table of errors."""
    say(f"seriatim: {error}")
    if error.code in ("bad_channel", "bad_position"):
        return USAGE
    row = ERRORS.get(error.code)
    is_away = error.code in ("unreachable", "token") or (row is not None and row.retry)
    return UNREACHABLE if is_away else REFUSED


def close_broken_pipe() -> int:
    """Standard output is gone; without this the interpreter would complain when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def message_fields(message: Message) -> dict[str, Any]:
    """A message as `--json` prints it: the fields of the wire, and the epoch."""
    fields: dict[str, Any] = {
        "type": "message",
        "channel": message.channel,
        "epoch": message.epoch,
        "serial": message.serial,
        "id": message.id,
        "time": message.time,
        "client": message.client,
        "event": message.event,
    }
    if message.key is not None:
        fields["key"] = message.key
    fields["data"] = message.data
    if message.snapshot:
        fields["snapshot"] = True
    return fields


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def message_line(message: Message, style: str) -> str:
    """`style`: `json`, `data`, or `text` with tabs between position, time, client, event and data."""
    if style == "json":
        return compact(message_fields(message))
    if style == "data":
        return message.data if isinstance(message.data, str) else compact(message.data)
    when = datetime.fromtimestamp(message.time / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # Nothing in a line may end it or move the columns.
    event = compact(message.event)[1:-1]
    return "\t".join((str(message.position), when, message.client or "-", event, compact(message.data)))


class Progress:
    """A line on the terminal that changes; nothing where standard error is no terminal.

    Drawn by `rich` where it is installed, else by a carriage return. `beside_output`: the results come meanwhile; on a
    terminal they are the progress.
    """

    def __init__(self, quiet: bool = False, *, beside_output: bool = False) -> None:
        self._is_shown = not quiet and sys.stderr.isatty() and not (beside_output and sys.stdout.isatty())
        self._drawn_at_s = 0.0
        self._width = 0
        self._live: Any = None

    def __enter__(self) -> Self:
        if self._is_shown:
            try:
                from rich.console import Console
                from rich.live import Live
            except ImportError:
                pass
            else:
                # Rich would take standard output, the results, to the console of standard error.
                self._live = Live(
                    console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
                )
                self._live.start()
        return self

    def show(self, text: str, *, now: bool = False) -> None:
        """Draws `text`, at most ten times a second unless `now`."""
        if not self._is_shown or (not now and time.monotonic() - self._drawn_at_s < REFRESH_S):
            return
        self._drawn_at_s = time.monotonic()
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(text), refresh=True)
            return
        self._draw(text)

    @contextmanager
    def above(self) -> Iterator[None]:
        """Lines printed meanwhile stand above the progress."""
        if self._live is not None:
            self._live.stop()
        elif self._width:
            self._draw("")
        try:
            yield
        finally:
            if self._live is not None:
                self._live.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._width:
            self._draw("")

    def _draw(self, text: str) -> None:
        text = text[: max(10, _columns() - 1)]
        sys.stderr.write("\r" + text.ljust(self._width) + ("\r" if not text else ""))
        sys.stderr.flush()
        self._width = len(text)


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80


def parse_cap(text: str | None) -> Mapping[str, list[str]] | None:
    """`--cap`: a JSON object of channel patterns and operations."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Usage(f"--cap is not JSON: {error}") from None
    if not isinstance(value, dict) or not all(isinstance(each, list) for each in value.values()):
        raise Usage('--cap is a JSON object of channel patterns and lists of operations: {"chat:*":["subscribe"]}')
    return value
