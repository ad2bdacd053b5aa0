"""The addresses of a site. Pure."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit, urlunsplit

_AS_SOCKET = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_AS_HTTP = {"ws": "http", "wss": "https", "http": "http", "https": "https"}


def socket_url(url: str) -> str:
    """Where the WebSocket is: `http` becomes `ws`; an address without a path means the site, whose socket is `/ws`."""
    parts = _split(url)
    path = parts.path if parts.path not in ("", "/") else "/ws"
    return urlunsplit((_AS_SOCKET[parts.scheme], parts.netloc, path, parts.query, ""))


def rest_url(url: str) -> str:
    """Where the HTTP API is: at `/api/v1` of the site, unless the address has a path of its own (but `/ws`)."""
    parts = _split(url)
    path = parts.path.rstrip("/") if parts.path not in ("", "/", "/ws") else "/api/v1"
    return urlunsplit((_AS_HTTP[parts.scheme], parts.netloc, path, "", ""))


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in _AS_SOCKET or not parts.hostname:
        raise ValueError(
            f"{url!r} is not an address. Give a whole one, as http://127.0.0.1:8000 or wss://example.com/ws."
        )
    return parts
