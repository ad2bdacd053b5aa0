"""The one table of errors and close codes, and the exception that carries a row of it.

Everything that refuses a request raises `ProtocolError`; the WebSocket shell renders it by `frame()`, the HTTP
shells by `body()`, so both say the same. The tables are the source of docs/reference/errors.md and of the constants
of the SDKs. Specification: docs/reference/protocol.md#errors-and-close-codes.

`message` says what went wrong on the path that raised the error; `remedy` says what to do about it. The texts of the
table are the defaults for paths that know nothing better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Fault = Literal["client", "server"]
Reconnect = Literal["no", "backoff", "after_hint", "new_token", "on_demand"]
"""What a client does when a connection ends.

`no` stay away until a person or a new version changes something · `backoff` reconnect by the usual backoff ·
`after_hint` wait as long as the server said, without a hint by the usual backoff · `new_token` get a new token first ·
`on_demand` reconnect when there is something to say or to hear.
"""

DEFAULT_RETRY_AFTER_MS: Final = 1_000
"""Told with `rate_limited` and `unavailable` by a path that has no better number: both always carry one."""

MAX_REASON_BYTES: Final = 123
"""RFC 6455 §5.5: a control frame has 125 bytes of payload, and the close code takes two."""


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One code: `retry` is true where sending the same request again, unchanged and later, is right."""

    code: str
    http_status: int
    fault: Fault
    retry: bool
    meaning: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class CloseRow:
    """One close code of the WebSocket, with what the client does next."""

    code: int
    name: str
    meaning: str
    reconnect: Reconnect
    remedy: str


def _errors(*rows: ErrorRow) -> dict[str, ErrorRow]:
    return {row.code: row for row in rows}


ERRORS: Final[dict[str, ErrorRow]] = _errors(
    ErrorRow(
        "bad_frame",
        400,
        "client",
        False,
        "The text is not JSON, not an object, or a field is missing or wrong.",
        "The request is not well formed.",
        "Send one JSON object with the fields of docs/reference/protocol.md.",
    ),
    ErrorRow(
        "unknown_type",
        400,
        "client",
        False,
        "The `type` of the frame is not one that clients send.",
        "The server knows no frame of this type.",
        "Use one of: auth, attach, detach, ack, publish, signal, presence, history, ping.",
    ),
    ErrorRow(
        "bad_channel",
        400,
        "client",
        False,
        "The name of the channel breaks the rules for names.",
        "The channel name is not valid.",
        "Use 1 to 200 of A-Z a-z 0-9 _ - . : @ =, as `name` or `namespace:name`, without empty parts.",
    ),
    ErrorRow(
        "bad_position",
        400,
        "client",
        False,
        "`from` is none of its forms, or does not go with the other fields.",
        "The position to attach from is not valid.",
        'Send one of "head", "start", "latest", {"epoch","serial"}, {"rewind"}, {"since"} or {"cursor"}.',
    ),
    ErrorRow(
        "bad_ack",
        400,
        "client",
        False,
        "An ack beyond what was sent on the attachment.",
        "The ack names a serial that was never sent on this attachment.",
        "Ack only serials that were received since the last `attached` of the channel.",
    ),
    ErrorRow(
        "unauthorized",
        401,
        "client",
        False,
        "The credentials are missing, bad, expired or revoked.",
        "There are no valid credentials.",
        "Get a new token and send it as `Authorization: Bearer`, as a subprotocol entry or in an `auth` frame.",
    ),
    ErrorRow(
        "forbidden",
        403,
        "client",
        False,
        "Not allowed. Also the answer for channels whose existence the client may not learn.",
        "The credentials do not allow this operation on this channel.",
        "Ask for a token whose `cap` allows the operation here, or for a change of the namespace.",
    ),
    ErrorRow(
        "not_found",
        404,
        "client",
        False,
        "The namespace is unknown, or the channel must be created first.",
        "There is no such channel, and it may not be created by using it.",
        "Check the namespace, or create the channel in the admin first.",
    ),
    ErrorRow(
        "not_attached",
        409,
        "client",
        False,
        "The request needs an attachment that this connection does not have.",
        "This connection is not attached to the channel.",
        "Attach to the channel first.",
    ),
    ErrorRow(
        "order",
        409,
        "client",
        True,
        "A chained publish stood behind one that failed.",
        "The publish before this one on this connection and channel failed.",
        "Publish the failed messages again, then this one, both with the same ids and in the same order.",
    ),
    ErrorRow(
        "too_large",
        413,
        "client",
        False,
        "A message or a request is over its limit.",
        "The message is larger than the limit.",
        "Send less: see `max_message_bytes` and `max_frame_bytes` in `ready`.",
    ),
    ErrorRow(
        "rate_limited",
        429,
        "client",
        True,
        "More requests than the rate allows; `retry_after_ms` says when there is room.",
        "There were too many requests.",
        "Wait for `retry_after_ms`, then send the same request again.",
    ),
    ErrorRow(
        "limit_exceeded",
        429,
        "client",
        False,
        "A count is at its limit: attachments, members, cursors and the like.",
        "There are as many as allowed already.",
        "Give one up first, for example by `detach`.",
    ),
    ErrorRow(
        "unavailable",
        503,
        "server",
        True,
        "The database is away or a queue is full. Whether a publish was stored is unknown.",
        "The server cannot do this at the moment, and the outcome is unknown.",
        "Wait for `retry_after_ms`, then send the same request again; messages with the same ids are stored once.",
    ),
    ErrorRow(
        "internal",
        500,
        "server",
        True,
        "A fault in the server. Whether a publish was stored is unknown.",
        "The server failed in an unexpected way.",
        "Try again with the same ids, a few times and with backoff; report it when it stays.",
    ),
)


def _closes(*rows: CloseRow) -> dict[int, CloseRow]:
    return {row.code: row for row in rows}


CLOSES: Final[dict[int, CloseRow]] = _closes(
    CloseRow(1000, "normal", "The connection was ended on purpose.", "no", "Nothing: it was asked for."),
    CloseRow(
        1001,
        "going_away",
        "The page or the server goes away.",
        "backoff",
        "Reconnect by backoff and resume.",
    ),
    CloseRow(
        1003,
        "binary",
        "A binary frame came; the subprotocol speaks text.",
        "no",
        "Fix the client: send text frames.",
    ),
    CloseRow(
        1007,
        "not_utf8",
        "A text frame was not UTF-8.",
        "no",
        "Fix the client: encode text as UTF-8, without lone surrogates.",
    ),
    CloseRow(
        1009,
        "frame_too_large",
        "A frame was over `max_frame_bytes`.",
        "no",
        "Fix the client: split batches, keep frames within `max_frame_bytes` of `ready`.",
    ),
    CloseRow(1011, "server_fault", "The server failed.", "backoff", "Reconnect by backoff and resume."),
    CloseRow(
        1012,
        "restarting",
        "The worker restarts or drains.",
        "after_hint",
        "Reconnect after `after_ms` of the `reconnect` frame and resume.",
    ),
    CloseRow(
        1013,
        "overloaded",
        "The server is overloaded; the reason is `retry_after_ms=…`.",
        "after_hint",
        "Reconnect after the time in the reason.",
    ),
    CloseRow(
        4400,
        "too_many_bad_frames",
        "The eleventh `bad_frame` or `unknown_type` within a minute.",
        "no",
        "Fix the client: the `error` frames before say what is wrong.",
    ),
    CloseRow(
        4401,
        "unauthorized",
        "The token is missing, bad, expired or revoked; an `error` frame before says which.",
        "new_token",
        "Get a new token, then reconnect.",
    ),
    CloseRow(
        4403,
        "disconnected",
        "An operator ended the connection, or the client is blocked.",
        "no",
        "Stop; ask the operator.",
    ),
    CloseRow(
        4408,
        "idle",
        "No `auth` frame came in time, or the connection was idle too long.",
        "on_demand",
        "Reconnect when there is something to say.",
    ),
    CloseRow(
        4410,
        "slow",
        "The socket took nothing for twice `heartbeat_ms` while something waited.",
        "backoff",
        "Reconnect by backoff and resume: nothing is lost.",
    ),
    CloseRow(
        4429,
        "over_rate",
        "The client stayed over its rate for long, though it was told.",
        "after_hint",
        "Send less, and reconnect after the time in the reason (`retry_after_ms=…`).",
    ),
)


def plain_close_code(code: int) -> int:
    """The code in place of `code` on a server that cannot send 1001 to 1013: 4000 + the last two digits."""
    return 4000 + code % 100 if 1001 <= code <= 1013 else code


def reconnect_class(code: int) -> Reconnect:
    """What a client does after a connection ended with `code`; also for codes that this version does not know.

    1005 and 1006 (no code, connection cut) and unknown codes mean `backoff`: a client that stops for a code it does
    not understand would never come back after an upgrade of the server.
    """
    row = CLOSES.get(code) or CLOSES.get(code - 3000 if 4001 <= code <= 4013 else 0)
    return row.reconnect if row else "backoff"


def close_reason(text: str) -> str:
    """`text`, cut to what a close frame can carry without cutting a character in two."""
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= MAX_REASON_BYTES else raw[:MAX_REASON_BYTES].decode("utf-8", "ignore")


class ProtocolError(Exception):
    """A refused request: one row of `ERRORS`, with what the path that raised it knows.

    Facts are attributes, sentences are made from them. `rate_limited` and `unavailable` always have
    `retry_after_ms`. A `channel` longer than a name can be is left out: an error must not echo a megabyte.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        remedy: str | None = None,
        channel: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        row = ERRORS[code]
        self.code = code
        self.http_status = row.http_status
        self.message = row.message if message is None else message
        self.remedy = row.remedy if remedy is None else remedy
        self.channel = channel if channel is not None and len(channel) <= 200 else None
        if retry_after_ms is None and code in ("rate_limited", "unavailable"):
            retry_after_ms = DEFAULT_RETRY_AFTER_MS
        self.retry_after_ms = retry_after_ms
        super().__init__(code, self.message)

    def __str__(self) -> str:
        where = f" ({self.channel})" if self.channel is not None else ""
        return f"{self.code}{where}: {self.message} {self.remedy}"

    @property
    def retry_after_s(self) -> int | None:
        """The `Retry-After` header: whole seconds, rounded up."""
        return None if self.retry_after_ms is None else -(-self.retry_after_ms // 1000)

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"code": self.code, "message": self.message, "remedy": self.remedy}
        if self.channel is not None:
            facts["channel"] = self.channel
        if self.retry_after_ms is not None:
            facts["retry_after_ms"] = self.retry_after_ms
        return facts

    def frame(self, ref: str | int | None = None) -> dict[str, object]:
        """The `error` frame that answers the request `ref`; a key that has no value is not there."""
        if ref is None:
            return {"type": "error", **self._facts()}
        return {"type": "error", "ref": ref, **self._facts()}

    def body(self) -> dict[str, object]:
        """The body of an HTTP answer with `http_status`."""
        return {"error": self._facts()}
