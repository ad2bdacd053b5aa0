"""Where an attach begins: the forms of `from`.

Pure. Specification: docs/reference/protocol.md#positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import Epoch, Serial, is_count, is_cursor_name, is_epoch


@dataclass(frozen=True, slots=True)
class Resume:
    """After `serial` of the log `epoch`. (None, 0) is the position in a channel that was never published to."""

    epoch: Epoch | None
    serial: Serial


@dataclass(frozen=True, slots=True)
class Rewind:
    """The last `count` messages that are retained."""

    count: int


@dataclass(frozen=True, slots=True)
class Since:
    """From the first message whose time is not before `time_ms`."""

    time_ms: int


@dataclass(frozen=True, slots=True)
class Start:
    """All that is retained."""


@dataclass(frozen=True, slots=True)
class Head:
    """Only what is new."""


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest message of each key, then what is new."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position that the server stored for (client, name, channel)."""

    name: str


_BEFORE_NOW: Final = (Start, Rewind, Since, Latest)

From = Resume | Rewind | Since | Start | Head | Latest | Cursor

_WORDS: Final[dict[str, From]] = {"start": Start(), "head": Head(), "latest": Latest()}
_FORM_OF: Final = {"epoch": "resume", "serial": "resume", "rewind": "rewind", "since": "since", "cursor": "cursor"}


def _bad(message: str, remedy: str | None = None) -> ProtocolError:
    return ProtocolError("bad_position", message, remedy=remedy)


def parse_from(value: object) -> From:
    """The position that `from` means. ProtocolError `bad_position` for everything that is not exactly one form.

    Give it the value of a `from` that is there: an absent one is `Head()`. `null` is not absent: a client that lost
    its position must not get the head without a word. Fields of `from` that no form knows are ignored.
    """
    if isinstance(value, str):
        word = _WORDS.get(value)
        if word is None:
            raise _bad("`from` is a word that means no position.", 'The words are "head", "start" and "latest".')
        return word
    if not isinstance(value, dict):
        raise _bad("`from` is neither a word nor an object.")
    forms = {_FORM_OF[name] for name in value if name in _FORM_OF}
    if len(forms) != 1:
        raise _bad("`from` has two forms at once." if forms else "`from` has none of its forms.")
    match forms.pop():
        case "rewind":
            if not is_count(value["rewind"]):
                raise _bad("`rewind` is not a count.", "Send an integer from 0 below 2^53.")
            return Rewind(value["rewind"])
        case "since":
            if not is_count(value["since"]):
                raise _bad("`since` is not a time.", "Send Unix milliseconds as an integer from 0 below 2^53.")
            return Since(value["since"])
        case "cursor":
            if not is_cursor_name(value["cursor"]):
                raise _bad("The name of the cursor is not valid.", "Use 1 to 64 of A-Z a-z 0-9 _ - . : @ =.")
            return Cursor(value["cursor"])
    return _parse_resume(value)


def _parse_resume(value: dict[object, object]) -> Resume:
    both = 'Send both, as the frames before gave them: {"epoch":…,"serial":…}.'
    if "epoch" not in value or "serial" not in value:
        raise _bad("A position needs `epoch` and `serial`.", both)
    epoch, serial = value["epoch"], value["serial"]
    if type(serial) is not int or not is_count(serial):
        raise _bad("`serial` is not a serial.", "Send an integer from 0 below 2^53.")
    if epoch is None:
        if serial != 0:
            raise _bad("A position in a log without an epoch can only be 0.", both)
        return Resume(None, Serial(0))
    if not isinstance(epoch, str) or not is_epoch(epoch):
        raise _bad("`epoch` is not an epoch.", "Send the epoch of `attached`: 4 to 32 of A-Z a-z 0-9 _ -, or null.")
    return Resume(Epoch(epoch), Serial(serial))


def needs_history(frm: From) -> bool:
    """Whether the operation `history` is needed beside `subscribe`."""
    return isinstance(frm, _BEFORE_NOW)
