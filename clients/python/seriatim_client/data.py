"""Data of messages as JSON text, checked as the server would. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

from seriatim_client.errors import SeriatimError
from seriatim_client.names import is_event, is_key, is_message_id

MOST_DEEP: Final = 64
"""How deep data may be nested."""


def to_json(value: Any) -> str:
    """Compact JSON text of `value`; `bad_frame` for what the server would refuse."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError:
        raise _bad("data", "text without lone surrogates") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise SeriatimError(
            "bad_frame", f"The data cannot be written as JSON: {error}.", remedy="Give what JSON can hold."
        ) from None
    # Counting is cheap and almost always enough; walking is not.
    if text.count("[") + text.count("{") > MOST_DEEP and _depth(value) > MOST_DEEP:
        raise _bad("data", f"nested at most {MOST_DEEP} deep")
    return text


def message_json(id: str, event: str, key: str | None, data: str) -> str:
    """One message of a `publish` frame or request, `data` being JSON text. `bad_frame` when a name is none."""
    if not is_message_id(id):
        raise _bad("id", "1 to 64 visible ASCII characters")
    if not is_event(event):
        raise _bad("event", "1 to 64 characters")
    if key is not None and not is_key(key):
        raise _bad("key", "1 to 128 characters without control characters")
    rest = "" if key is None else f',"key":{_text("key", key)}'
    return f'{{"id":{_text("id", id)},"event":{_text("event", event)}{rest},"data":{data}}}'


def byte_count(text: str) -> int:
    """How many bytes `text` is in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _text(field: str, value: str) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad(field, "text without lone surrogates") from None
    return text


def _bad(field: str, wanted: str) -> SeriatimError:
    return SeriatimError("bad_frame", f"`{field}` of the message is not {wanted}.", remedy=f"Give {wanted}.")


def _depth(value: Any) -> int:
    """How deep arrays and objects are nested; not recursive, since the data may be deeper than the stack."""
    deepest = 0
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, dict):
            children = list(part.values())
        elif isinstance(part, (list, tuple)):
            children = list(part)
        else:
            continue
        deepest = max(deepest, depth)
        waiting.extend((child, depth + 1) for child in children)
    return deepest
