"""JSON in and out: what may come in, and the one text in which data is stored, compared and sent.

Pure. msgspec does the work; this module turns its faults into `bad_frame`, whatever the input, and adds the rules it
does not know: the depth of data and the range of integers. Canonical form: docs/reference/protocol.md#canonical-form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import chain
from typing import Final

import msgspec

from realtime.protocol.errors import ProtocolError

MAX_DEPTH: Final = 64
"""Arrays and objects within each other in `data`; `[]` is 1 deep."""

_LEAST_OUT_OF_RANGE: Final = 2**1024 - 2**970
"""The least integer that rounds to no double. Greater ones would be Infinity in half of the world's JSON readers."""

_MANY_DIGITS: Final = re.compile(r"[0-9]{309}")
"""An integer with fewer digits than this is within a double's range."""

_DIGITS_SAMPLED: Final = re.compile(r"[0-9]{19}")

_BYTE: Final = re.compile(r"\(byte ([0-9]+)\)")
"""Where msgspec stopped, counted in UTF-8."""

JSON_REMEDY: Final = "Send one JSON object as UTF-8 text (RFC 8259): no NaN, no Infinity, no lone surrogates."


def _plain(value: object) -> object:
    """Subclasses of str, int and float, which msgspec leaves to us: Django's SafeString is one."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(type(value).__name__)


_encode: Final = msgspec.json.Encoder(enc_hook=_plain).encode
_decode: Final = msgspec.json.Decoder().decode


def json_fault(text: str, fault: Exception) -> ProtocolError:
    """What msgspec had against `text`, in a sentence about the text. Never quotes more than a few characters of it."""
    said = str(fault)
    if isinstance(fault, RecursionError):
        return ProtocolError("bad_frame", "The JSON is nested too deeply.", remedy=f"Nest at most {MAX_DEPTH} deep.")
    if isinstance(fault, UnicodeError):
        return ProtocolError("bad_frame", "The text is not valid UTF-8.", remedy=JSON_REMEDY)
    if "out of range" in said:
        message = "A number is out of the range of a double."
        return ProtocolError("bad_frame", message, remedy="Send numbers between -1.79e308 and 1.79e308, or strings.")
    if "truncated" in said:
        # msgspec says this also of a lone surrogate: it looks for the second half behind the string.
        what = "it ends too early, or has a lone surrogate" if text else "it is empty"
        return ProtocolError("bad_frame", f"The text is not JSON: {what}.", remedy=JSON_REMEDY)
    reason = said.partition(": ")[2] or said
    at = _BYTE.search(reason)
    if at and text.encode("utf-8", "replace")[int(at[1]) :].startswith((b"NaN", b"Infinity")):
        reason = "NaN and Infinity are no numbers of JSON"
    return ProtocolError("bad_frame", f"The text is not JSON: {reason}.", remedy=JSON_REMEDY)


JSON_FAULTS: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""All that msgspec raises for a text: UnicodeError is a ValueError."""


def decode(text: str | bytes) -> object:
    """The value of a JSON text. ProtocolError `bad_frame` for everything else, whatever its size or depth."""
    try:
        if not isinstance(text, str):
            text = text.decode()
        value: object = _decode(text)
    except JSON_FAULTS as fault:
        raise json_fault(text if isinstance(text, str) else "?", fault) from None
    return value


def encode(value: object) -> str:
    """The canonical, compact text of a frame of our own. What it holds must be JSON: TypeError is a bug of the caller.

    NaN would become `null` here: data of others goes through `canonical` first.
    """
    return _encode(value).decode()


def raw(text: str) -> msgspec.Raw:
    """JSON text that `encode` copies as it is: envelopes into a page of history, data into a signal."""
    return msgspec.Raw(text.encode())


def canonical(data: object) -> str:
    """The canonical text of `data`, or `bad_frame`: for values of any origin.

    Refuses what JSON cannot say (NaN, Infinity, lone surrogates, other types than those of JSON, names that are not
    strings), integers out of a double's range, and more than 64 levels. Tuples count as arrays.
    """
    check_data(data)
    try:
        return _encode(data).decode()
    except UnicodeEncodeError:
        message = "A string in `data` holds a lone surrogate."
        raise ProtocolError("bad_frame", message, remedy="Send whole characters only.") from None


def canonical_of_decoded(data: object) -> str:
    """The same for what `decode` gave, where only depth and integers can still be wrong."""
    text = _encode(data).decode()
    check_decoded(data, text)
    return text


def check_decoded(data: object, text: str) -> None:
    """ProtocolError `bad_frame` if `data`, decoded from `text` or from a part of it, is too deep or out of range.

    The walk over `data` is left out when the text shows that it cannot find anything. Brackets within strings count
    here too: that costs a walk now and then, never a wrong answer.
    """
    size = len(text)
    if size <= MAX_DEPTH:
        return
    if text.count("[") + text.count("{") <= MAX_DEPTH and (size < 309 or not _has_many_digits(text)):
        return
    level = [data]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                below.extend(value.values())  # type: ignore[attr-defined]  # `kind` narrows it, faster than isinstance
            elif kind is list:
                below.extend(value)  # type: ignore[arg-type]
            elif kind is int and abs(value) >= _LEAST_OUT_OF_RANGE:  # type: ignore[arg-type]
                raise _out_of_range()
        if not below:
            return
        level = below
    for value in level:
        if isinstance(value, dict | list):
            raise _too_deep()
        if type(value) is int and abs(value) >= _LEAST_OUT_OF_RANGE:
            raise _out_of_range()


def _has_many_digits(text: str) -> bool:
    """Whether there are 309 digits in a row. Every sixteenth character tells in most cases: 30 µs instead of 450 in
    64 KiB, measured, since such a row shows in 19 of them at least."""
    return _DIGITS_SAMPLED.search(text[::16]) is not None and _MANY_DIGITS.search(text) is not None


def check_data(data: object) -> None:
    """ProtocolError `bad_frame` unless `data` is JSON within our limits. Strings are left to the encoder.

    Goes level by level instead of recursing, and looks at a container once per level: neither depth nor a value that
    contains itself can hurt.
    """
    level: Iterable[object] = (data,)
    for _ in range(MAX_DEPTH + 1):
        nested: dict[int, list[object] | tuple[object, ...] | dict[object, object]] = {}
        for value in level:
            if value is None or isinstance(value, str | bool):
                continue
            if isinstance(value, list | tuple):
                nested[id(value)] = value
            elif isinstance(value, dict):
                if not all(isinstance(name, str) for name in value):
                    message = "An object in `data` has a name that is not a string."
                    raise ProtocolError("bad_frame", message, remedy="Use strings as the names of an object.")
                nested[id(value)] = value
            elif isinstance(value, int):
                if abs(value) >= _LEAST_OUT_OF_RANGE:
                    raise _out_of_range()
            elif isinstance(value, float):
                if not math.isfinite(value):
                    raise _out_of_range()
            else:
                message = f"`data` holds a {type(value).__name__}, which JSON cannot express."
                raise ProtocolError(
                    "bad_frame", message, remedy="Turn it into strings, numbers, lists and dicts first."
                )
        if not nested:
            return
        level = chain.from_iterable(c.values() if isinstance(c, dict) else c for c in nested.values())
    raise _too_deep()


def _too_deep() -> ProtocolError:
    message = f"`data` is nested more than {MAX_DEPTH} deep."
    return ProtocolError("bad_frame", message, remedy=f"Nest arrays and objects at most {MAX_DEPTH} deep.")


def _out_of_range() -> ProtocolError:
    message = "A number in `data` is NaN, infinite, or out of the range of a double."
    return ProtocolError("bad_frame", message, remedy="Send finite numbers up to 1.79e308, or strings.")
