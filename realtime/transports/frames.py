"""`POST /frames`: frames of a client in one request, in order, and their answers in the same order.

The frames go through a connection's session one by one, as they would on a socket; each carries a ref of ours, by which
its answer finds its place. Posts of one client that name an upstream and a number are handled in the order of their
numbers, whichever worker gets them (`realtime.upstreams`).
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import msgspec

from realtime import upstreams
from realtime.conf import settings
from realtime.connection import Connection
from realtime.links import TEXTS
from realtime.protocol.codec import encode
from realtime.protocol.errors import ERRORS, ProtocolError
from realtime.protocol.frames import MAX_REF_CHARS
from realtime.protocol.names import MAX_INTEGER, ClientId, is_client_id
from realtime.tokens import Identity
from realtime.transports import attaching, http
from realtime.transports.http import Request, Send
from realtime.transports.links import HttpLink, close_frame
from realtime.worker import Worker

FRAMES_MOST = 1000
"""Frames in one post."""

NDJSON = "application/x-ndjson"

NOT_HERE = frozenset({"auth", "attach", "detach", "ack"})
"""Types that need a connection which stays."""

LOOK_S = 0.05
"""How often it is looked whether the post before was handled on another worker, and whether a hook has decided."""

ORDER_WAIT_S = 5.0
"""How long a post waits for those before it: longer than one that was lost takes to be sent again."""

REMEMBERED_MOST = 10_000
"""Upstreams whose number a worker remembers; of the others it asks the database."""

_UPSTREAM = re.compile(r"[A-Za-z0-9_-]{8,64}")
_SEQ = re.compile(r"[1-9][0-9]{0,14}")


class _Head(msgspec.Struct):
    """What is looked at of a frame before the session sees it."""

    type: object = None
    ref: object = msgspec.UNSET


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


async def serve_frames(request: Request, send: Send, running: Worker, cors: list[http.Header]) -> None:
    query = request.query()
    identity = _acting(await http.identify(request, running), query)
    ordered = _order_of(query)
    reader = attaching.checked_reader(query["reader"][-1]) if "reader" in query else None
    lines = request.media_type == NDJSON
    if not lines and request.media_type not in ("application/json", ""):
        error = ProtocolError(
            "bad_frame", "The body is neither JSON nor NDJSON by its Content-Type.", remedy=f"Send {NDJSON} or JSON."
        )
        await http.refuse(send, running, error, cors, status=415)
        return
    texts = _split(await request.body(settings.ROUND_MAX_BYTES), lines)
    place = http.admit(request, running, returning=True)
    try:
        if ordered is None:
            answers, _ = await _handle(running, identity, texts, place, reader)
        else:
            answers = await _handle_in_order(running, identity, texts, place, reader, *ordered)
    finally:
        place.leave()
    if lines:
        await http.respond(send, 200, "".join([f"{each}\n" for each in answers]).encode(), NDJSON.encode(), cors)
    else:
        await http.respond(send, 200, f"[{','.join(answers)}]".encode(), headers=cors)


# ---------------------------------------------------------------------- what is asked


def _acting(identity: Identity, query: Mapping[str, Sequence[str]]) -> Identity:
    """Who publishes: the client of the credentials; an API key may name another."""
    if "client" not in query or identity.kind != "key":
        return identity
    client = query["client"][-1]
    if not is_client_id(client):
        raise ProtocolError("bad_frame", "`client` is no client id.", remedy="Send 1 to 128 visible ASCII characters.")
    return dataclasses.replace(identity, client=ClientId(client))


def _order_of(query: Mapping[str, Sequence[str]]) -> tuple[str, int] | None:
    """The upstream and the number, where the post has them."""
    if "upstream" not in query and "seq" not in query:
        return None
    name, seq = query.get("upstream", [""])[-1], query.get("seq", [""])[-1]
    if not _UPSTREAM.fullmatch(name) or not _SEQ.fullmatch(seq):
        raise ProtocolError(
            "bad_frame",
            "`upstream` or `seq` is wrong, or missing beside the other.",
            remedy="Send `upstream` as 8 to 64 of A-Z a-z 0-9 _ -, and `seq` as 1, 2, 3, ….",
        )
    return name, int(seq)


def _split(body: bytes, lines: bool) -> list[str]:
    """The texts of the frames. ProtocolError for a body that has none, too many, or one that is too large."""
    try:
        if lines:
            texts = [line for line in body.decode().split("\n") if line.strip()]
        elif body.lstrip()[:1] == b"[":
            texts = [bytes(each).decode() for each in _decode_array(body)]
        else:
            texts = [body.decode()] if body.strip() else []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProtocolError("bad_frame", "The body cannot be read.", remedy="Send JSON, or a frame a line.") from None
    if not 0 < len(texts) <= FRAMES_MOST:
        raise ProtocolError("bad_frame", f"There are {len(texts)} frames.", remedy=f"Send 1 to {FRAMES_MOST} at once.")
    if any(len(text) > settings.MAX_FRAME_BYTES for text in texts):
        raise ProtocolError("too_large", f"A frame has more than {settings.MAX_FRAME_BYTES} bytes.")
    return texts


# ---------------------------------------------------------------------- order


_reached: OrderedDict[tuple[str, str], int] = OrderedDict()
"""The posts that this worker knows to be handled; the database may know of more."""
_handling: set[tuple[str, str, int]] = set()


async def _handle_in_order(
    running: Worker, identity: Identity, texts: list[str], place: Any, reader: str | None, name: str, seq: int
) -> list[str]:
    key, post = (identity.client, name), (identity.client, name, seq)
    deadline = time.monotonic() + ORDER_WAIT_S
    while _reached.get(key, 0) < seq - 1 or post in _handling:
        if post not in _handling:
            _remember(key, await http.ask(running, lambda: upstreams.reached(*key)))
            if _reached[key] >= seq - 1:
                break
        if time.monotonic() > deadline:
            raise ProtocolError(
                "order",
                f"Post {seq} of this upstream came, and post {seq - 1} did not.",
                remedy="Send the missing posts again, then this one; or begin another upstream.",
                retry_after_ms=1000,
            )
        await asyncio.sleep(LOOK_S)
    _handling.add(post)
    try:
        known = await http.ask(running, lambda: upstreams.reached(*key)) if seq > _reached.get(key, 0) else seq
        answers, whole = await _handle(
            running, identity, texts, place, reader, post=f"{name}/{seq}", replay=known >= seq
        )
        if known < seq:
            if not whole:
                # It will come again, and what is behind it must not overtake what it still has to publish.
                return answers
            await http.ask(running, lambda: upstreams.advance(*key, seq, time.time()))
        _remember(key, seq)
        return answers
    finally:
        _handling.discard(post)


def _remember(key: tuple[str, str], seq: int) -> None:
    _reached[key] = max(seq, _reached.pop(key, 0))
    if len(_reached) > REMEMBERED_MOST:
        _reached.popitem(last=False)


# ---------------------------------------------------------------------- answers


class AnswersLink(HttpLink):
    """Puts each answer at the place of its frame."""

    def __init__(self) -> None:
        super().__init__(TEXTS, 0)
        self.answers: dict[int, dict[str, object]] = {}
        self.progress = asyncio.Event()
        self._mark = secrets.token_hex(4)
        self._refs: dict[str, tuple[int, object]] = {}
        """By our ref the place of a frame and the client's own ref."""
        self._unmarked: deque[int] = deque()
        """Places of frames that cannot have a ref of ours. They are refused, in order."""

    def mark(self, place: int, text: str) -> str:
        """The text of a frame with our ref behind its own: of two names the last counts."""
        try:
            head = _decode_head(text)
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            head = None
        body = text.rstrip()
        if head is None or not (head.ref is msgspec.UNSET or head.ref is None or is_ref(head.ref)):
            self._unmarked.append(place)
            return text
        ref = f"{self._mark}.{place}"
        self._refs[ref] = (place, head.ref)
        return f'{body[:-1]}{"" if body[:-1].rstrip() == "{" else ","}"ref":"{ref}"}}'

    def send(self, frame: dict[str, object]) -> None:
        found = self._refs.get(cast("str", frame.get("ref")))
        if found is not None:
            place, ref = found
            answer = {name: value for name, value in frame.items() if name != "ref"}
            if ref is not msgspec.UNSET and ref is not None:
                answer = {"type": answer.pop("type"), "ref": ref, **answer}
            self.answers[place] = answer
        elif frame["type"] == "error" and self._unmarked:
            self.answers[self._unmarked.popleft()] = frame
        self.progress.set()

    def _put(self, payload: Any) -> None:
        """Nothing is attached."""

    def close(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = (code, reason)
            self.ended.set()
            self.progress.set()

    def abort(self) -> None:
        self.close(1006, "")

    @property
    def waiting_bytes(self) -> int:
        return 0


def is_ref(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_REF_CHARS
    return type(value) is int and abs(value) <= MAX_INTEGER


def _id_in(post: str, publish: int, index: int) -> str:
    """Of a message without an id in a numbered post: the same whenever the post comes again."""
    digest = hashlib.sha256(f"{post}/{publish}/{index}".encode()).digest()
    return base64.urlsafe_b64encode(digest[:15]).decode()


async def _handle(
    running: Worker,
    identity: Identity,
    texts: list[str],
    place: Any,
    reader: str | None,
    *,
    post: str | None = None,
    replay: bool = False,
) -> tuple[list[str], bool]:
    """The answers to frames, as texts; and whether nothing of them is left to be sent again. `post`: its upstream and
    number, where it has them."""
    link = AnswersLink()
    connection = Connection(running, link, "frames", place)
    connection.reader = reader
    if post is not None:
        connection.name_message = partial(_id_in, post)
    publishes: list[int] = []
    try:
        connection.open_as(identity)
        for index, text in enumerate(texts):
            kind = _type_of(text)
            if kind == "publish":
                publishes.append(index)
            if kind in NOT_HERE:
                link.answers[index] = _not_here(kind, text)
            elif not (replay and kind == "signal"):
                connection.receive_text(link.mark(index, text))
                while connection.session.full and link.closed is None:
                    await _progress(link)
        while connection.busy and link.closed is None:
            await _progress(link)
    finally:
        connection.gone()
    answers = [encode(link.answers[index]) for index in sorted(link.answers)]
    if link.closed is not None:
        answers.append(encode(close_frame(*link.closed)))
    return answers, not any(_is_for_later(link.answers.get(index)) for index in publishes)


def _is_for_later(answer: dict[str, object] | None) -> bool:
    """Whether the frame that was answered so is to be sent again as it is."""
    if answer is None:
        return True
    code = str(answer.get("code"))
    # `order` stands behind another one that failed, and that one decides.
    return answer["type"] == "error" and code != "order" and ERRORS[code].retry


async def _progress(link: AnswersLink) -> None:
    link.progress.clear()
    try:
        async with asyncio.timeout(LOOK_S):
            await link.progress.wait()
    except TimeoutError:
        pass


def _type_of(text: str) -> str | None:
    try:
        kind = _decode_head(text).type
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return None
    return kind if isinstance(kind, str) else None


def _not_here(kind: str, text: str) -> dict[str, object]:
    ref = _decode_head(text).ref
    error = ProtocolError(
        "bad_frame",
        f"A post has no `{kind}`: nothing stays of it that could be attached or signed in.",
        remedy="Follow channels by a stream, by events or by polls; they take positions instead of acks.",
    )
    return error.frame(cast("str | int", ref) if is_ref(ref) else None)
