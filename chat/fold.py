"""What a room's log comes to: messages with their edits, deletions, reactions and replies, and who has seen what.

Pure; the page folds the same way, and tests/vectors/chat_fold.json binds both. Every message has a state *through* some
serial; what the log says about it behind that serial is applied on top in the order of the log, whatever the order in
which it was learnt. So pages of history may be folded in any order and cut anywhere, and states that somebody else has
folded (`seed`) may be mixed with the log itself. What is not valid is ignored: the authorisation hook refuses it where
it enters, this is the second line. Explained in docs/explanation/chat.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

TEXT_CHARS: Final = 4000
MENTIONS_MOST: Final = 50
FILES_MOST: Final = 10
CLIENT_CHARS: Final = 128
FILE_CHARS: Final = 200
"""Of a file's id, name and type each."""
EMOJI_CHARS: Final = 16
EMOJI_MOST: Final = 20
"""Different emoji on one message at a time."""
REPLIERS_MOST: Final = 5
"""Clients named beside the count of replies: the first ones."""
SERIAL_MOST: Final = 2**53 - 1

MEMBER_ACTIONS: Final = frozenset({"joined", "left", "invited", "removed", "muted", "unmuted", "role"})

#: JSON objects: an envelope of the log, a folded message, a notice.
Object = dict[str, Any]


@dataclass(slots=True)
class _Entry:
    """What is known about one message. `state` None: only events about it were met so far."""

    state: Object | None = None
    through: int = 0
    events: dict[int, Object] = field(default_factory=dict)


class Fold:
    """The folded state of one room's log, as far as it was given. One epoch only: serials of another are other ones."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._notices: dict[int, Object] = {}
        self._receipts: dict[str, int] = {}

    def add(self, envelope: Mapping[str, Any]) -> None:
        """One message of the log, as its `message` frame has it. Once or more often, in any order."""
        match envelope.get("event"):
            case "message":
                state = begin(envelope)
                if state is not None:
                    self.seed(state, state["serial"])
                    if state["thread"] is not None:
                        self._happened(state["thread"], envelope)
            case "edit" | "delete" | "react":
                of = target(envelope)
                if of is not None:
                    self._happened(of, envelope)
            case "receipt":
                seen = receipt(envelope)
                if seen is not None:
                    self.saw(*seen)
            case "member" | "room":
                noted = notice(envelope)
                if noted is not None:
                    self._notices[noted["serial"]] = noted

    def seed(self, state: Mapping[str, Any], through: int) -> None:
        """A message as somebody folded it from everything up to the serial `through`."""
        entry = self._entries.setdefault(state["serial"], _Entry())
        if entry.state is None or through > entry.through:
            entry.state, entry.through = dict(state), through
            entry.events = {serial: event for serial, event in entry.events.items() if serial > through}

    def saw(self, client: str, through: int) -> None:
        """`client` has seen everything up to `through`."""
        self._receipts[client] = max(through, self._receipts.get(client, 0))

    def _happened(self, of: int, envelope: Mapping[str, Any]) -> None:
        entry = self._entries.setdefault(of, _Entry())
        serial = envelope["serial"]
        if serial > entry.through:
            entry.events[serial] = dict(envelope)

    def messages(self) -> list[Object]:
        """All messages whose beginning is known, by serial."""
        found = []
        for _, entry in sorted(self._entries.items()):
            if entry.state is not None:
                state = copy.deepcopy(entry.state)
                for _, event in sorted(entry.events.items()):
                    apply(state, event)
                found.append(state)
        return found

    def notices(self) -> list[Object]:
        """What happened to the room and its members, by serial: {serial, time, event, data}."""
        return [noted for _, noted in sorted(self._notices.items())]

    def receipts(self) -> dict[str, int]:
        """Through which serial each client has seen the room."""
        return dict(self._receipts)


# ---------------------------------------------------------------- one message


def begin(envelope: Mapping[str, Any]) -> Object | None:
    """The state of a message through its own serial; None where it is not a valid one."""
    data, serial = envelope.get("data"), envelope["serial"]
    if not isinstance(data, dict) or not isinstance(envelope.get("client"), str):
        return None
    files, named, thread = _files(data.get("files")), mentions(data.get("mentions")), data.get("thread")
    if files is None or named is None or not is_text(data.get("text"), may_be_empty=bool(files)):
        return None
    if thread is not None:
        thread = whole(thread)
        if thread is None or not 1 <= thread < serial:
            return None
    return {
        "serial": serial,
        "id": envelope["id"],
        "client": envelope["client"],
        "time": envelope["time"],
        "text": data["text"],
        "edited": None,
        "deleted": None,
        "reactions": [],
        "thread": thread,
        "also": thread is not None and data.get("also") is True,
        "replies": {"count": 0, "last": None, "clients": []},
        "mentions": named,
        "files": files,
    }


def apply(state: Object, envelope: Mapping[str, Any]) -> None:
    """Changes the state of a message by one event about it, the next in the log. Invalid events change nothing."""
    data, client = envelope.get("data"), envelope.get("client")
    if not isinstance(data, dict):
        return
    match envelope.get("event"):
        case "message":
            replies = state["replies"]
            replies["count"] += 1
            replies["last"] = envelope["time"]
            if client not in replies["clients"] and len(replies["clients"]) < REPLIERS_MOST:
                replies["clients"].append(client)
        case "edit":
            named = mentions(data.get("mentions"))
            if (
                client is not None
                and client == state["client"]
                and state["deleted"] is None
                and named is not None
                and is_text(data.get("text"), may_be_empty=bool(state["files"]))
            ):
                state.update(text=data["text"], mentions=named, edited=envelope["time"])
        case "delete":
            if state["deleted"] is None:
                if client is None:
                    by = data.get("by") if is_client(data.get("by")) else None
                else:
                    by = "author" if client == state["client"] else None
                if by is not None:
                    state.update(deleted=by, text="", edited=None, reactions=[], mentions=[], files=[])
        case "react":
            if isinstance(client, str) and state["deleted"] is None:
                _react(state, client, data.get("emoji"), data.get("on"))


def _react(state: Object, client: str, emoji: object, on: object) -> None:
    if not is_emoji(emoji) or not isinstance(on, bool):
        return
    reactions: list[Object] = state["reactions"]
    known = next((each for each in reactions if each["emoji"] == emoji), None)
    if on:
        if known is None:
            if len(reactions) < EMOJI_MOST:
                reactions.append({"emoji": emoji, "clients": [client]})
        elif client not in known["clients"]:
            known["clients"].append(client)
    elif known is not None and client in known["clients"]:
        known["clients"].remove(client)
        if not known["clients"]:
            reactions.remove(known)


# ---------------------------------------------------------------- shapes


def target(envelope: Mapping[str, Any]) -> int | None:
    """The serial that an edit, deletion or reaction is about: one before its own."""
    data = envelope.get("data")
    of = whole(data.get("of")) if isinstance(data, dict) else None
    return of if of is not None and 1 <= of < envelope["serial"] else None


def receipt(envelope: Mapping[str, Any]) -> tuple[str, int] | None:
    """Who has seen the room through which serial, which is before the receipt's own."""
    data, client = envelope.get("data"), envelope.get("client")
    if not isinstance(data, dict) or not isinstance(client, str):
        return None
    through = whole(data.get("through"))
    return (client, through) if through is not None and 1 <= through < envelope["serial"] else None


def notice(envelope: Mapping[str, Any]) -> Object | None:
    """A `member` or `room` event as it is shown. Only the server publishes them: without a client."""
    data = envelope.get("data")
    if not isinstance(data, dict) or envelope.get("client") is not None:
        return None
    if envelope["event"] == "member":
        if data.get("action") not in MEMBER_ACTIONS or not is_client(data.get("client")):
            return None
    elif not is_client(data.get("by")):
        return None
    return {"serial": envelope["serial"], "time": envelope["time"], "event": envelope["event"], "data": dict(data)}


def whole(value: object) -> int | None:
    """A whole number as JSON says it: 2.0 is one too, since JavaScript cannot tell them apart."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > SERIAL_MOST:
        return None
    return value


def is_text(value: object, *, may_be_empty: bool) -> bool:
    """1 to 4000 characters (code points)."""
    return isinstance(value, str) and (0 if may_be_empty else 1) <= len(value) <= TEXT_CHARS


def is_client(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= CLIENT_CHARS


def is_emoji(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= EMOJI_CHARS


def mentions(value: object) -> list[str] | None:
    """Client ids; none where there is no such field, None where it is wrong."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MENTIONS_MOST or not all(is_client(each) for each in value):
        return None
    return list(value)


def _files(value: object) -> list[Object] | None:
    """Files with their known fields; none where there is no such field, None where it is wrong."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > FILES_MOST:
        return None
    files = [_file(each) for each in value]
    return None if None in files else [each for each in files if each is not None]


def _file(value: object) -> Object | None:
    if not isinstance(value, dict):
        return None
    file: Object = {}
    for name in ("id", "name", "type"):
        text = value.get(name)
        if not isinstance(text, str) or not 0 < len(text) <= FILE_CHARS:
            return None
        file[name] = text
    for name in ("size", "width", "height"):
        if value.get(name) is None and name != "size":
            continue
        number = whole(value.get(name))
        if number is None or number < 0:
            return None
        file[name] = number
    return file


def fold(envelopes: Iterable[Mapping[str, Any]]) -> Fold:
    """A fold of these messages."""
    folded = Fold()
    for envelope in envelopes:
        folded.add(envelope)
    return folded
