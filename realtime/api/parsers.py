"""Bodies, parameters and names of requests, read as strictly as frames of the WebSocket.

JSON goes through `realtime.protocol.codec`, so that a body with NaN, a lone surrogate or a duplicate name is treated as
on the wire. DRF's own parser is not used for it: it is more lenient, and takes a chunked body for an empty one.
"""

from __future__ import annotations

import re
from typing import IO, Any

from django.http import HttpRequest, QueryDict
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.parsers import BaseParser

from realtime.conf import settings
from realtime.protocol import codec
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import MAX_INTEGER

_INTEGER = re.compile(r"[0-9]{1,16}")


class StrictJSONParser(BaseParser):
    """JSON as on the wire. For DRF's machinery (`request.data`, schema); views use `read_object`."""

    media_type = "application/json"

    def parse(self, stream: IO[Any], media_type: str | None = None, parser_context: Any = None) -> Any:
        return codec.decode(_read(stream))


def read_object(request: HttpRequest) -> dict[str, object]:
    """The JSON object in the body. Raises 415, `too_large` before reading what is too much, or `bad_frame`."""
    content_type = request.META.get("CONTENT_TYPE", "")
    length = request.META.get("CONTENT_LENGTH") or "0"
    # Who sends neither a type nor a body forgot the body.
    if content_type != "application/json" and (content_type or length != "0"):
        _check_media_type(content_type, request)
    if request.META.get("HTTP_CONTENT_ENCODING", "identity") != "identity":
        raise UnsupportedMediaType(request.META["HTTP_CONTENT_ENCODING"])
    if length.isdecimal() and int(length) > settings.ROUND_MAX_BYTES:
        raise _too_large()
    value = codec.decode(_read(request))
    if not isinstance(value, dict):
        raise ProtocolError("bad_frame", "The body is no JSON object.", remedy="Send one JSON object.")
    return value


def _check_media_type(content_type: str, request: HttpRequest) -> None:
    charset = (request.content_params or {}).get("charset", "utf-8")
    if request.content_type != "application/json" or charset.lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType(content_type)


def _read(stream: Any) -> bytes:
    # A request is one transaction, so what a transaction may hold bounds it.
    most = settings.ROUND_MAX_BYTES
    body: bytes = stream.read(most + 1)
    if len(body) > most:
        raise _too_large()
    return body


def _too_large() -> ProtocolError:
    return ProtocolError(
        "too_large",
        f"The body is longer than {settings.ROUND_MAX_BYTES} bytes.",
        remedy="Send fewer messages in one request.",
    )


def integer(query: QueryDict, name: str, *, least: int = 0, most: int = MAX_INTEGER) -> int | None:
    """A parameter of the query as an integer; None when absent, `bad_frame` for anything else."""
    text = query.get(name)
    if text is None:
        return None
    if not _INTEGER.fullmatch(text) or not least <= int(text) <= most:
        raise ProtocolError(
            "bad_frame", f"The parameter {name} is no integer from {least} to {most}.", remedy="Correct the parameter."
        )
    return int(text)


def choice(query: QueryDict, name: str, choices: tuple[str, ...]) -> str | None:
    """A parameter that is one of a few words; None when absent."""
    text = query.get(name)
    if text is not None and text not in choices:
        raise ProtocolError(
            "bad_frame", f"The parameter {name} is none of {', '.join(choices)}.", remedy="Correct the parameter."
        )
    return text
