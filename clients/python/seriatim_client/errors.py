"""The one exception of this package. It carries facts; `message` says what went wrong, `remedy` what to do."""

from __future__ import annotations

from seriatim_client.codes import ERRORS, LOCAL_ERRORS


class SeriatimError(Exception):
    """A refusal by the server (`ERRORS`), or something this client says itself (`LOCAL_ERRORS`)."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        remedy: str = "",
        channel: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        if message is None:
            message = ERRORS[code].meaning if code in ERRORS else LOCAL_ERRORS.get(code, code)
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.channel = channel
        self.retry_after_ms = retry_after_ms

    @property
    def retry(self) -> bool:
        """Whether the same request can succeed later without a change."""
        row = ERRORS.get(self.code)
        return (row is not None and row.retry) or self.retry_after_ms is not None

    def __str__(self) -> str:
        where = f" ({self.channel})" if self.channel else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.code}{where}: {self.message}{remedy}"
