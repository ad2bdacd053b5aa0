"""Messages: what a publisher sends, and the one text in which a stored message travels.

Pure. A message is checked and brought into canonical form once, where it enters; its envelope is encoded once, by the
log, and the same text serves every subscriber, page of history and fallback transport.
Specification: docs/reference/protocol.md#publishing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Protocol

import msgspec

from realtime.protocol.codec import canonical, encode
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import MAX_ID_CHARS, is_message_id

DEFAULT_EVENT: Final = "message"
MAX_EVENT_CHARS: Final = 64
MAX_KEY_CHARS: Final = 128
MAX_MESSAGES: Final = 100
"""Messages of one `publish` frame."""

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Half a character: no JSON text brings one here, a string made in Python can."""


# A Struct and not a dataclass: a frozen dataclass takes four times as long to make, once per message.
class NewMessage(msgspec.Struct, frozen=True, gc=False):
    """A checked message that has no serial yet. `id` None: the door fills it in (`with_id`)."""

    id: str | None
    event: str
    key: str | None
    data: str
    """Canonical JSON text."""

    def with_id(self, message_id: str) -> NewMessage:
        return NewMessage(message_id, self.event, self.key, self.data)


def is_event(value: object) -> bool:
    """Whether this can be an event: 1 to 64 characters, any that UTF-8 can say."""
    return isinstance(value, str) and 0 < len(value) <= MAX_EVENT_CHARS and not _SURROGATE.search(value)


def is_key(value: object) -> bool:
    """Whether this can be a key: 1 to 128 characters, none of them a control character (U+0000–1F, U+7F–9F)."""
    # Control characters are not printable; not everything unprintable is one (U+2028, U+00A0).
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_KEY_CHARS
        and (value.isprintable() or not (_CONTROL.search(value) or _SURROGATE.search(value)))
    )


ID_RULE: Final = f"Use 1 to {MAX_ID_CHARS} visible ASCII characters, a ULID or UUID for example, or leave it out."
EVENT_RULE: Final = f"Use 1 to {MAX_EVENT_CHARS} characters, or leave it out for `{DEFAULT_EVENT}`."
KEY_RULE: Final = f"Use 1 to {MAX_KEY_CHARS} characters without control characters, or leave it out."


def parse_message(obj: object) -> NewMessage:
    """A message from a decoded object of any origin. ProtocolError `bad_frame` says which field is wrong."""
    return _parse(obj, "The message")


def parse_messages(obj: object, most: int) -> tuple[NewMessage, ...]:
    """1 to `most` messages, all or none. ProtocolError `bad_frame` names the index of the first that is wrong."""
    if not isinstance(obj, list):
        raise ProtocolError("bad_frame", "`messages` is not an array.", remedy="Send an array of message objects.")
    if not 0 < len(obj) <= most:
        raise ProtocolError("bad_frame", f"There are {len(obj)} messages.", remedy=f"Send 1 to {most} at once.")
    return tuple([_parse(item, f"Message {index}") for index, item in enumerate(obj)])


def _parse(obj: object, which: str) -> NewMessage:
    if not isinstance(obj, dict):
        raise ProtocolError("bad_frame", f"{which} is not an object.", remedy='Send objects like {"data":…}.')
    message_id, event, key = obj.get("id"), obj.get("event"), obj.get("key")
    if message_id is not None and not is_message_id(message_id):
        raise ProtocolError("bad_frame", f"{which} has a wrong `id`.", remedy=ID_RULE)
    if event is not None and not is_event(event):
        raise ProtocolError("bad_frame", f"{which} has a wrong `event`.", remedy=EVENT_RULE)
    if key is not None and not is_key(key):
        raise ProtocolError("bad_frame", f"{which} has a wrong `key`.", remedy=KEY_RULE)
    try:
        data = canonical(obj.get("data"))
    except ProtocolError as error:
        raise ProtocolError(error.code, f"{which}: {error.message}", remedy=error.remedy) from None
    return NewMessage(message_id, DEFAULT_EVENT if event is None else event, key, data)


class Envelopable(Protocol):
    """What an envelope needs of a message; `NewMessage` is one, a row of the log another."""

    @property
    def id(self) -> str | None: ...
    @property
    def event(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def data(self) -> str: ...


# Clients and events repeat; 4096 short strings are the bound.
@lru_cache(maxsize=4096)
def _quoted(value: str) -> str:
    return encode(value)


def envelope(channel: str, serial: int, time_ms: int, client: str, message: Envelopable) -> str:
    """The `message` frame: type, channel, serial, id, time, client, event, key if there is one, data, in this order.

    `data` stands last so that `data_of` can find it, and so that what is short and always there is in front.
    An empty `client` is the backend's own, `null` on the wire. The channel's alphabet needs no escapes.
    """
    assert message.id is not None, "the door gives every message an id"
    key = "" if message.key is None else f',"key":{encode(message.key)}'
    return (
        f'{{"type":"message","channel":"{channel}","serial":{serial},"id":{encode(message.id)},"time":{time_ms}'
        f',"client":{_quoted(client) if client else "null"},"event":{_quoted(message.event)}{key}'
        f',"data":{message.data}}}'
    )


def signal_frame(channel: str, client: str, event: str, data: str) -> str:
    """The `signal` frame around canonical `data`; an empty `client` is the backend's own, `null` on the wire."""
    return (
        f'{{"type":"signal","channel":"{channel}","client":{_quoted(client) if client else "null"}'
        f',"event":{_quoted(event)},"data":{data}}}'
    )


class _Keyed(msgspec.Struct, gc=False):
    key: str | None = None


_decode_keyed: Final = msgspec.json.Decoder(_Keyed).decode


def key_of(envelope_text: str) -> str | None:
    """The `key` of an envelope."""
    return _decode_keyed(envelope_text).key


_DATA: Final = ',"data":'


def data_of(envelope_text: str) -> str:
    """The canonical text of `data` in an envelope that `envelope` made.

    The first `,"data":` is the field: within a string the quote would be escaped, and behind the end of a string
    stands a comma or a brace.
    """
    return envelope_text[envelope_text.index(_DATA) + len(_DATA) : -1]


def with_data(envelope_text: str, data: str, base: int | None = None) -> str:
    """The envelope with another JSON text as its data; with `base`, it is a difference to the data of that serial."""
    head = envelope_text[: envelope_text.index(_DATA)]
    return f"{head}{_DATA}{data}}}" if base is None else f'{head},"base":{base}{_DATA}{data}}}'
