"""`seriatim publish`: over HTTP, whose answer says that the messages are stored.

Lines of standard input are sent as they come: each request holds what has come since the last one, up to a thousand,
and the next waits for its answer. So the order is kept, a slow feed is not held back, and a fast one is not sent one by
one.
"""

from __future__ import annotations

import hashlib
import json
import queue
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

from seriatim_client.cli.credentials import rest
from seriatim_client.cli.output import OK, Progress, Usage, compact, write
from seriatim_client.messages import Published
from seriatim_client.names import check_channel, is_message_id
from seriatim_client.rest import Draft

MOST_LINES = 1_000
MOST_BYTES = 1024 * 1024
"""Of the lines in one request; the server takes 4 MiB."""
MOST_WAITING = 4_000
"""Lines read and not sent: the reader waits beyond."""


def parse_data(text: str, style: str) -> Any:
    """`json`: must be JSON; `text`: a string; `auto`: JSON if it is, else a string."""
    if style == "text":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if style == "json":
            raise Usage(f"not JSON: {text[:60]!r}. Use --text for plain text.") from None
        return text


def id_maker(form: str | None) -> Callable[[int, str, Any], str | None]:
    """`--id-from`: ids that are the same when the same input is published again."""
    if form is None:
        return lambda number, text, data: None
    kind, _, rest = form.partition(":")
    if kind == "hash" and not rest:
        return lambda number, text, data: hashlib.sha256(text.encode()).hexdigest()
    if kind == "line" and rest:
        return lambda number, text, data: f"{rest}-{number}"
    if kind == "field" and rest:
        return lambda number, text, data: _field(number, data, rest.split("."))
    raise Usage("--id-from is field:NAME, line:PREFIX or hash")


def _field(number: int, data: Any, path: list[str]) -> str:
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    id = data if isinstance(data, str) else str(data) if type(data) is int else ""
    if not is_message_id(id):
        raise Usage(f"line {number} has no id in {'.'.join(path)}: 1 to 64 visible ASCII characters, or a whole number")
    return id


def run(options: Namespace) -> int:
    check_channel(options.channel)
    make_id = id_maker(options.id_from)
    if options.lines:
        if options.data not in (None, "-") or options.id:
            raise Usage("--lines reads standard input: give neither DATA nor --id")
        return _publish_lines(options, make_id)
    text = sys.stdin.read().rstrip("\r\n") if options.data in (None, "-") else options.data
    data = parse_data(text, options.style)
    with rest(options) as api:
        receipt = api.publish(
            options.channel,
            data,
            event=options.event,
            key=options.key,
            id=options.id or make_id(1, text, data),
            client=_client(options),
        )
    _tell(options, receipt)
    return OK


def _client(options: Namespace) -> str | None:
    """In whose name: an API key may say it, a token is somebody already."""
    client: str | None = options.client if options.api_key else None
    return client


def _tell(options: Namespace, receipt: Published) -> None:
    if options.style_out == "json":
        names = ("id", "channel", "epoch", "serial", "duplicate", "conflict")
        write(compact({"type": "published", **{name: getattr(receipt, name) for name in names}}))
    elif not options.quiet:
        write(f"{receipt.epoch}.{receipt.serial}")


def _publish_lines(options: Namespace, make_id: Callable[[int, str, Any], str | None]) -> int:
    stored = duplicates = 0
    with rest(options) as api, Progress(options.quiet) as progress:
        for batch in _batches():
            drafts = []
            for number, text in batch:
                data = parse_data(text, options.style)
                drafts.append(Draft(data, options.event, options.key, make_id(number, text, data)))
            for receipt in api.publish_many(options.channel, drafts, client=_client(options)):
                stored += 1
                duplicates += receipt.duplicate
                if options.style_out == "json":
                    _tell(options, receipt)
            progress.show(f"{stored} stored, {duplicates} of them before")
    if options.style_out != "json" and not options.quiet:
        write(f"{stored} stored" + (f", {duplicates} of them before" if duplicates else ""))
    return OK


def _batches() -> Iterator[list[tuple[int, str]]]:
    """What has come since the last batch; empty lines are left out. Reads in a thread, since a pipe may be slow."""
    lines: queue.Queue[tuple[int, str] | Exception | None] = queue.Queue(MOST_WAITING)

    def read() -> None:
        try:
            for number, line in enumerate(sys.stdin, 1):
                text = line.rstrip("\r\n")
                if text:
                    lines.put((number, text))
        except (OSError, UnicodeDecodeError) as error:
            lines.put(error)
        else:
            lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    is_over = False
    while not is_over:
        batch: list[tuple[int, str]] = []
        size_bytes = 0
        failure: Exception | None = None
        while not is_over and len(batch) < MOST_LINES and size_bytes < MOST_BYTES:
            try:
                item = lines.get(block=not batch)
            except queue.Empty:
                break
            if isinstance(item, tuple):
                batch.append(item)
                size_bytes += len(item[1])
            else:
                is_over, failure = True, item
        if batch:
            yield batch
        if failure is not None:
            raise Usage(f"standard input cannot be read: {failure}")
