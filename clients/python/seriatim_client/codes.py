"""Every error code and close code of the wire, and what a client does about it. Pure.

The server has the same tables in `realtime/protocol/errors.py`; both are tested against `tests/vectors/errors.json`.
Specification: docs/reference/protocol.md#errors-and-close-codes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Fault = Literal["client", "server"]
Reconnect = Literal["no", "backoff", "after_hint", "new_token", "on_demand"]


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One code; `retry` is true where the same request can succeed later without a change."""

    http_status: int
    fault: Fault
    retry: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class CloseRow:
    """One close code of the WebSocket, and what the client does next."""

    reconnect: Reconnect
    meaning: str


ERRORS: Final[dict[str, ErrorRow]] = {
    "bad_frame": ErrorRow(400, "client", False, "not JSON, not an object, a missing or wrong field"),
    "unknown_type": ErrorRow(400, "client", False, "a frame of a type that the server does not know"),
    "bad_channel": ErrorRow(400, "client", False, "not a channel name"),
    "bad_position": ErrorRow(400, "client", False, "not a position"),
    "bad_ack": ErrorRow(400, "client", False, "an ack beyond what was sent"),
    "unauthorized": ErrorRow(401, "client", False, "no token, or a bad, expired or revoked one"),
    "forbidden": ErrorRow(403, "client", False, "not allowed"),
    "not_found": ErrorRow(404, "client", False, "a channel that must be created first, or an unknown namespace"),
    "not_attached": ErrorRow(409, "client", False, "the channel is not attached"),
    "order": ErrorRow(409, "client", True, "a chained publish behind one that failed"),
    "too_large": ErrorRow(413, "client", False, "a message or frame over its limit"),
    "rate_limited": ErrorRow(429, "client", True, "too many requests in a time"),
    "limit_exceeded": ErrorRow(429, "client", False, "too many attachments, members or the like"),
    "unavailable": ErrorRow(503, "server", True, "the database is away or a queue is full; the outcome is unknown"),
    "internal": ErrorRow(500, "server", True, "a fault of the server"),
}

LOCAL_ERRORS: Final[dict[str, str]] = {
    "busy": "another loop has taken over the channel",
    "closed": "the client was closed",
    "detached": "the channel was detached",
    "discarded": "the message was taken back before it was sent",
    "delta": "a difference did not fit what came before; the client resumes from its own position",
    "gap": "serials did not follow each other; the client resumes from its own position",
    "identity": "the connection now belongs to another client id, which must not send this one's messages",
    "load_state": "the loader of the state failed; it is called again",
    "outbox_full": "too much is waiting to be sent",
    "signed_out": "the credentials were refused",
    "stopped": "the server ended the connection for good",
    "token": "no token could be had",
    "unreachable": "the server could not be reached",
}
"""Codes that never travel: this client says them itself."""

CLOSES: Final[dict[int, CloseRow]] = {
    1000: CloseRow("no", "normal"),
    1001: CloseRow("backoff", "page or server going away"),
    1003: CloseRow("no", "binary frame"),
    1007: CloseRow("no", "text that is not UTF-8"),
    1009: CloseRow("no", "frame over max_frame_bytes"),
    1011: CloseRow("backoff", "server fault"),
    1012: CloseRow("after_hint", "worker restarting or draining"),
    1013: CloseRow("after_hint", "overloaded"),
    4400: CloseRow("no", "too many frames that the server could not read"),
    4401: CloseRow("new_token", "token missing, bad, expired or revoked"),
    4403: CloseRow("no", "disconnected by an operator, or client blocked"),
    4408: CloseRow("on_demand", "no auth in time, or idle too long"),
    4410: CloseRow("backoff", "the socket took nothing for too long"),
    4429: CloseRow("after_hint", "over its rate for long"),
}

_HINT = re.compile(r"(?:^|[\s;,])retry_after_ms=(\d{1,9})")


def meant_code(code: int) -> int:
    """The code that a plain ASGI server means: it cannot send 1001–1013 and sends 4000 + the last two digits."""
    return code - 3000 if 4001 <= code <= 4013 else code


def reconnect_after(code: int) -> Reconnect:
    """What to do about a close code. One that is not in the table, also 1005 and 1006, is a line that broke."""
    row = CLOSES.get(meant_code(code))
    return row.reconnect if row else "backoff"


def retry_after_ms(reason: str) -> int | None:
    """The `retry_after_ms=…` of a close reason."""
    found = _HINT.search(reason)
    return int(found[1]) if found else None
