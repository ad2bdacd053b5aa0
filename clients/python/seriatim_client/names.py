"""The names of the wire (docs/reference/protocol.md#names). Pure.

Checked here too, because a server that gets too many frames with bad ones closes the connection of all the others.
"""

from __future__ import annotations

import re
from typing import Final

from seriatim_client.errors import SeriatimError

_CHANNEL: Final = re.compile(r"[A-Za-z0-9_\-.:@=]{1,200}")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EPOCH: Final = re.compile(r"[A-Za-z0-9_-]{4,32}")
_CURSOR: Final = re.compile(r"[A-Za-z0-9_\-.:@=]{1,64}")
_CLIENT_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_MESSAGE_ID: Final = re.compile(r"[\x21-\x7e]{1,64}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def namespace_of(name: object) -> str | None:
    """The namespace of a channel name, or None when it is not one."""
    if not isinstance(name, str) or not _CHANNEL.fullmatch(name):
        return None
    parts = name.split(":")
    if any(part in ("", ".", "..") for part in parts):
        return None
    if len(parts) == 1:
        return "default"
    return parts[0] if _NAMESPACE.fullmatch(parts[0]) and parts[0] != "default" else None


def check_channel(name: object) -> str:
    """`name`, which is a channel's, or `bad_channel`."""
    if isinstance(name, str) and namespace_of(name) is not None:
        return name
    raise SeriatimError(
        "bad_channel",
        f"{name!r} is not a channel name.",
        remedy="Use namespace:name, up to 200 of A–Z a–z 0–9 _ - . : @ =.",
    )


def is_epoch(value: object) -> bool:
    return isinstance(value, str) and _EPOCH.fullmatch(value) is not None


def is_cursor_name(value: object) -> bool:
    return isinstance(value, str) and _CURSOR.fullmatch(value) is not None


def is_client_id(value: object) -> bool:
    return isinstance(value, str) and _CLIENT_ID.fullmatch(value) is not None


def is_message_id(value: object) -> bool:
    return isinstance(value, str) and _MESSAGE_ID.fullmatch(value) is not None


def is_event(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 64


def is_key(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 128 and not _CONTROL.search(value)
