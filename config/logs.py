"""How log lines look: plain text, or one JSON object a line for those who search them. Neither holds a secret."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Final

FIELDS: Final = ("worker", "connection", "client", "channel", "serial", "transport", "code")
"""What a record may say beside its message, by `extra`; docs/how-to/monitor.md describes them."""

_QUERY = re.compile(r"(/[^\s?\"']*)\?[^\s\"']+")
_SECRETS = (
    # A JWT: header, payload, signature.
    re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"),
    # An API key, but for the part that only names it (`realtime.tokens.create_api_key`).
    re.compile(r"(?<=\bser_[a-z0-9]{12}_)[\w-]+"),
    # Whatever was sent as a credential, in whatever form.
    re.compile(r"(?<=\bBearer )[^\s\"']+", re.IGNORECASE),
    # Passwords in addresses of databases and of Redis.
    re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"),
)


def clean(text: str) -> str:
    """Cuts the query string off every path, as in `?access_token=…`, and credentials out of everything."""
    text = _QUERY.sub(r"\1?…", text)
    for pattern in _SECRETS:
        text = pattern.sub("…", text)
    return text


class WithoutTrace(logging.Filter):
    """For what any stranger can cause with one request: a line each, and no trace of where Django noticed it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        return True


class PlainLines(logging.Formatter):
    """Text: time, level, logger, message, and the trace."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, those of `FIELDS` that are known, and the trace."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": clean(record.getMessage()),
        }
        for name in FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                line[name] = value if isinstance(value, int) else clean(str(value))
        if record.exc_info:
            line["exception"] = clean(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = clean(self.formatStack(record.stack_info))
        return json.dumps(line, ensure_ascii=False)
