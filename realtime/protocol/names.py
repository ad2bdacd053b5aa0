"""Names on the wire: channels, clients, cursors, epochs.

Pure. The types are NewTypes so that a checker tells a channel from a client; the values are plain strings.
Specification: docs/reference/protocol.md#names.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NewType

from realtime.protocol.errors import ProtocolError

ChannelName = NewType("ChannelName", str)
ClientId = NewType("ClientId", str)
Epoch = NewType("Epoch", str)
Serial = NewType("Serial", int)

MAX_INTEGER: Final = 2**53 - 1
"""The largest serial, time and numeric ref: the last integer that every JSON reader keeps exact."""

DEFAULT_NAMESPACE: Final = "default"
EVERYBODY: Final = ChannelName("$all")
"""Whoever is connected: no channel that anybody attaches to, and in the log there is none of this name."""

MAX_CHANNEL_CHARS: Final = 200
MAX_CLIENT_CHARS: Final = 128
MAX_CURSOR_CHARS: Final = 64
MAX_ID_CHARS: Final = 64
MAX_NAMESPACE_CHARS: Final = 64

# `[0-9A-Za-z]` and not `\w`: only ASCII. fullmatch and not `$`, which would let a line feed through.
_ALPHABET: Final = re.compile(r"[A-Za-z0-9_.:@=-]+")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CURSOR: Final = re.compile(r"[A-Za-z0-9_.:@=-]{1,64}")
_EPOCH: Final = re.compile(r"[A-Za-z0-9_-]{4,32}")
_PLATFORM: Final = re.compile(r"\$[a-z0-9_-]{1,63}")


def _bad(value: str, message: str) -> ProtocolError:
    return ProtocolError("bad_channel", message, channel=value)


# Cached, because every frame names a channel and most name the same few. Bounded: 8192 names of at most 200
# characters; a refused name raises, and is not kept.
@lru_cache(maxsize=8192)
def parse_channel(value: str) -> ChannelName:
    """The name, unchanged, if a client may use it; else ProtocolError `bad_channel` that says which rule it breaks.

    Names beginning with `$` are the platform's own and never pass; see `is_platform_name`.
    """
    if not value:
        raise _bad(value, "The channel name is empty.")
    if len(value) > MAX_CHANNEL_CHARS:
        raise _bad(value, f"The channel name has {len(value)} characters; {MAX_CHANNEL_CHARS} are the limit.")
    if value[0] == "$":
        raise _bad(value, "Channel names beginning with `$` are the platform's own.")
    if not _ALPHABET.fullmatch(value):
        raise _bad(value, "The channel name has a character that is not allowed.")
    parts = value.split(":")
    if "" in parts:
        raise _bad(value, "The channel name has an empty part before, between or after its colons.")
    if "." in parts or ".." in parts:
        raise _bad(value, "`.` and `..` cannot be a channel name or a part of one.")
    if len(parts) > 1:
        if not _NAMESPACE.fullmatch(parts[0]):
            raise _bad(value, "The namespace before the first colon is not 1 to 64 of A-Z a-z 0-9 _ -.")
        if parts[0] == DEFAULT_NAMESPACE:
            raise _bad(value, "Names in the namespace `default` are written without it.")
    return ChannelName(value)


def is_channel_prefix(value: str) -> bool:
    """Whether a channel's name could begin so; the empty string begins all."""
    return len(value) <= MAX_CHANNEL_CHARS and (not value or _ALPHABET.fullmatch(value) is not None)


def namespace_of(name: ChannelName) -> str:
    """What stands before the first colon; `default` for a name without one; "", which is none, for the platform's."""
    namespace, colon, _ = name.partition(":")
    if colon:
        return namespace
    return DEFAULT_NAMESPACE if name[:1] != "$" else ""


def is_platform_name(value: str) -> bool:
    """Whether this is a channel of the platform itself, like `$control`. No client can name one."""
    return _PLATFORM.fullmatch(value) is not None


def is_visible_ascii(value: str) -> bool:
    """Whether every character is one of 0x21 to 0x7E. True of the empty string: check the length apart.

    Three C loops over the string; a regular expression takes twice the time, and every message id comes by here.
    """
    return value.isascii() and value.isprintable() and " " not in value


def is_client_id(value: object) -> bool:
    """Whether this can be a client: 1 to 128 visible ASCII characters."""
    return isinstance(value, str) and 0 < len(value) <= MAX_CLIENT_CHARS and is_visible_ascii(value)


def is_message_id(value: object) -> bool:
    """Whether this can be the id of a message: 1 to 64 visible ASCII characters."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and is_visible_ascii(value)


def is_namespace(value: object) -> bool:
    """Whether this can be a namespace: 1 to 64 of the letters, digits, `_` and `-`."""
    return isinstance(value, str) and _NAMESPACE.fullmatch(value) is not None


def is_cursor_name(value: object) -> bool:
    """Whether this can name a cursor: 1 to 64 characters of the channel alphabet."""
    return isinstance(value, str) and _CURSOR.fullmatch(value) is not None


def is_epoch(value: object) -> bool:
    """Whether this can be the epoch of a log: 4 to 32 of the letters, digits, `_` and `-`."""
    return isinstance(value, str) and _EPOCH.fullmatch(value) is not None


def is_count(value: object) -> bool:
    """Whether this is an integer from 0 below 2^53; `true` is not a number here, 1.0 is not an integer."""
    return type(value) is int and 0 <= value <= MAX_INTEGER
