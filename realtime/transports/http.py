"""Requests and answers of the raw ASGI shells: what is read of a request, who sends it, and how it is refused.

Refusals are rows of the one table in the shape of the REST interface. Credentials are the bearer token or API key, a
ticket where one may be used (`realtime.transports.tickets`), else this site's session cookie under the rules of origin
and CSRF; nothing long-lived is ever read from an address.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from django.conf import settings as django_settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.middleware.csrf import CsrfViewMiddleware

from realtime import handshake, tokens
from realtime.authorization import ANONYMOUS
from realtime.conf import settings
from realtime.load import Place, Refusal
from realtime.protocol import codec
from realtime.protocol.errors import ProtocolError
from realtime.tokens import Identity
from realtime.worker import Worker

T = TypeVar("T")

Send = Callable[[dict[str, Any]], Any]
Header = tuple[bytes, bytes]

JSON = b"application/json"
NO_STORE: Header = (b"cache-control", b"no-store")
CHALLENGE: Header = (b"www-authenticate", b'Bearer realm="seriatim"')

QUERY_FIELDS_MOST = 1000
"""Parameters of a query that are looked at; the server has bounded its length before."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

ALLOWED_HEADERS = b"authorization, content-type, last-event-id"
PREFLIGHT_S = b"600"


class RequestGone(Exception):
    """The client went away before its request was complete."""


@dataclass(slots=True)
class Request:
    """An HTTP request, read as far as somebody asked."""

    scope: dict[str, Any]
    receive: Callable[[], Any]
    method: str = ""
    name: str = ""
    """Of the channel in the path, decoded."""
    headers: dict[str, str] = field(default_factory=dict)
    """By name in lower case; of several the last."""

    def __post_init__(self) -> None:
        self.method = self.scope["method"]
        self.headers = {name.decode("latin1").lower(): value.decode("latin1") for name, value in self.scope["headers"]}

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def query(self) -> dict[str, list[str]]:
        """The parameters. ProtocolError `too_large` or `bad_frame`."""
        return parse_query(self.scope.get("query_string") or b"")

    async def body(self, most: int) -> bytes:
        """The whole body. ProtocolError `too_large` as soon as it is more than `most` bytes."""
        length = self.headers.get("content-length", "0")
        parts: list[bytes] = []
        size = 0
        while length.isdecimal() and int(length) <= most and size <= most:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise RequestGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if not message.get("more_body"):
                return b"".join(parts)
        raise ProtocolError("too_large", f"The body is longer than {most} bytes.", remedy="Send less in one request.")

    async def gone(self) -> None:
        """Returns when the client has gone away, or the answer is complete."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


def parse_query(raw: bytes) -> dict[str, list[str]]:
    """The parameters of a query. ProtocolError `too_large` or `bad_frame`."""
    if len(raw) > settings.QUERY_MAX_BYTES:
        raise ProtocolError(
            "too_large",
            f"The query has more than {settings.QUERY_MAX_BYTES} bytes.",
            remedy="Send a POST with the list in its body, or use a ticket that holds it.",
        )
    found: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=QUERY_FIELDS_MOST)
    except ValueError:
        raise ProtocolError("bad_frame", "The query cannot be read.", remedy="Correct the address.") from None
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


# ---------------------------------------------------------------- answers


async def respond(
    send: Send, status: int, body: bytes, media_type: bytes = JSON, headers: Iterable[Header] = ()
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", media_type),
                (b"content-length", b"%d" % len(body)),
                NO_STORE,
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def refuse(
    send: Send,
    running: Worker,
    error: ProtocolError,
    headers: Iterable[Header] = (),
    *,
    status: int | None = None,
) -> None:
    """Answers with a row of the table; `status` where HTTP knows a better one (405, 415)."""
    body, more = refusal(running, error)
    await respond(send, status or error.http_status, body, headers=[*headers, *more])


def refusal(running: Worker, error: ProtocolError) -> tuple[bytes, list[Header]]:
    """Body and headers of an answer that refuses, which is counted."""
    running.counts.http_errors.add(error.code)
    more = []
    if error.retry_after_s is not None:
        more.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.http_status == 401:
        more.append(CHALLENGE)
    return codec.encode(error.body()).encode(), more


def no_room(refusal: Refusal) -> ProtocolError:
    return ProtocolError("unavailable", refusal.text.strip(), retry_after_ms=refusal.retry_ms)


# ---------------------------------------------------------------- who asks, and from where


def check_place(request: Request) -> list[Header]:
    """See `check_origin`."""
    return check_origin(request.headers.get("host", ""), request.headers.get("origin"))


def check_origin(host: str, origin: str | None) -> list[Header]:
    """The headers that let another site's page read the answer. ProtocolError `forbidden` for a host that is not this
    site's, or a page of a site that is not on the list."""
    if not handshake.host_allowed(host):
        raise ProtocolError("forbidden", f"The host {host[:100]!r} is not served here.", remedy="Use the site's name.")
    if origin is None or handshake.is_own_origin(origin, host):
        return []
    if origin not in settings.ORIGINS:
        raise ProtocolError(
            "forbidden",
            f"Pages of {origin[:200]!r} may not connect.",
            remedy="Have the origin added to REALTIME_ORIGINS.",
        )
    return [
        (b"access-control-allow-origin", origin.encode("latin1")),
        (b"access-control-expose-headers", b"retry-after"),
        (b"vary", b"origin"),
    ]


async def preflight(send: Send, cors: list[Header], methods: Iterable[str]) -> None:
    """Answers a browser that asks whether a page of another site may send a request."""
    headers = [
        (b"access-control-allow-methods", ", ".join(methods).encode()),
        (b"access-control-allow-headers", ALLOWED_HEADERS),
        (b"access-control-max-age", PREFLIGHT_S),
        (b"content-length", b"0"),
        *cors,
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def admit(request: Request, running: Worker, *, returning: bool = False) -> Place:
    """Room for a connection. ProtocolError `unavailable`. `returning`: it comes back again and again by nature, so the
    rate of new connections is not meant for it."""
    peer = request.scope.get("client")
    forwarded = [value.decode("latin1") for name, value in request.scope["headers"] if name == b"x-forwarded-for"]
    return admit_from(running, peer[0] if peer else None, forwarded, returning=returning)


def admit_from(running: Worker, peer: str | None, forwarded: Iterable[str], *, returning: bool = False) -> Place:
    """The same for the address at the other end and the values of X-Forwarded-For."""
    found = running.load.admit(peer, forwarded, returning=returning)
    if isinstance(found, Refusal):
        running.counts.handshakes_refused[503] += 1
        raise no_room(found)
    return found


async def identify(request: Request, running: Worker, *, changes: bool = True) -> Identity:
    """The client behind the request: header, then cookie; `ANONYMOUS` without either. A bad credential is refused,
    never passed over. `changes` False: it only reads, whatever its method."""
    header = request.headers.get("authorization")
    if header is not None:
        return await _from_header(header, running)
    cookie = request.headers.get("cookie", "")
    if tokens.session_key_in(cookie):
        return await _from_cookie(request, cookie, running, changes)
    return ANONYMOUS


def told_to(identity: Identity, refusal: ProtocolError) -> ProtocolError:
    """The refusal; who came without credentials hears that they are missing, not that they do not suffice."""
    if identity.kind == "anonymous" and refusal.code == "forbidden":
        return ProtocolError(
            "unauthorized",
            "The request has no credentials.",
            remedy="Send `Authorization: Bearer <token or API key>`, or a ticket.",
        )
    return refusal


def bearer_of(header: str) -> str:
    """The credential of an Authorization header; nothing where it has none of ours."""
    scheme, _, credential = header.partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""


async def _from_header(header: str, running: Worker) -> Identity:
    credential = bearer_of(header)
    if not credential:
        raise ProtocolError(
            "unauthorized",
            "The Authorization header is not a bearer credential.",
            remedy="Send `Authorization: Bearer <token or API key>`.",
        )
    now_s = time.time()
    if tokens.is_api_key(credential):
        return await ask(running, lambda: tokens.verify_api_key(credential, now_s))
    return await tokens.verify_token_soon(credential, now_s)


async def _from_cookie(request: Request, cookie: str, running: Worker, changes: bool) -> Identity:
    """A cookie proves a browser, not who wrote the request: only this site's own pages may use it."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    own = origin is not None and handshake.is_own_origin(origin, host)
    unsafe = request.method not in SAFE_METHODS
    if not unsafe and not own and (origin is not None or request.headers.get("sec-fetch-site") == "cross-site"):
        return ANONYMOUS
    if unsafe and not own:
        raise ProtocolError(
            "forbidden",
            "With the session cookie, only pages of this site may change anything.",
            remedy="Send the request from a page of this site (its Origin header), or use a token.",
        )
    now_s = time.time()
    identity = await ask(running, lambda: tokens.identity_from_cookies(cookie, now_s))
    if identity is None:
        return ANONYMOUS
    if unsafe and changes:
        await ask(running, lambda: _check_csrf(request.scope))
    return identity


class _Csrf(CsrfViewMiddleware):
    def _reject(self, request: Any, reason: str) -> Any:
        return reason


def _check_csrf(scope: dict[str, Any]) -> None:
    """Django's own check. In a thread: a project may keep the secret in the session."""
    request = ASGIRequest({**scope, "root_path": scope.get("root_path", "")}, io.BytesIO())
    if django_settings.CSRF_USE_SESSIONS:
        key = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
        request.session = import_module(django_settings.SESSION_ENGINE).SessionStore(key)
    check = _Csrf(lambda _: HttpResponse())
    check.process_request(request)
    reason = check.process_view(request, None, (), {})  # type: ignore[arg-type]  # there is no view
    if reason is not None:
        raise ProtocolError(
            "forbidden",
            f"The CSRF check failed: {str(reason).rstrip('.')}.",
            remedy=f"Send the token of the cookie {django_settings.CSRF_COOKIE_NAME} in the header X-CSRFToken.",
        )


async def ask(running: Worker, read: Callable[[], T]) -> T:
    """What `read` returns in a thread of the worker's reader, or the ProtocolError that it raised."""
    answered: asyncio.Future[tuple[T | None, ProtocolError | None] | None]
    answered = asyncio.get_running_loop().create_future()

    def work() -> tuple[T | None, ProtocolError | None]:
        try:
            return read(), None
        except ProtocolError as error:
            return None, error

    def done(found: tuple[T | None, ProtocolError | None] | None) -> None:
        if not answered.done():
            answered.set_result(found)

    running.reader.run(work, done)
    found = await answered
    if found is None:
        raise ProtocolError("unavailable", "The database is away.", retry_after_ms=1000)
    value, error = found
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # None only where `read` may return it
