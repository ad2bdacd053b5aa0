"""Keeps secrets out of log lines."""

from __future__ import annotations

import logging
import re

_QUERY = re.compile(r"(/[^\s?\"']*)\?[^\s\"']+")


class WithoutQueryStrings(logging.Filter):
    """Cuts the query string off every path in a record: `?access_token=…` must not reach a log file."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        cleaned = _QUERY.sub(r"\1?…", message)
        if cleaned != message:
            record.msg, record.args = cleaned, ()
        return True
