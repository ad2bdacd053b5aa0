"""Who may do what in a room: the hook of the namespace `chat`, and telling the platform when that changed.

The token endpoint gives everybody the same capability for `chat:*`; this narrows it to the rooms one may see, and looks
at every message before it is stored, whatever it came by: server-only events, the messages of others, files of others,
muted people and wrong shapes are refused here, so that the log holds nothing that a reader would have to distrust.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from django.db.models import OuterRef, Subquery
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from django.utils import timezone

from chat import fold
from chat.models import NAMESPACE, Membership, Mute, Room, Upload
from chat.people import here_of, inbox_of, may_know_of, user_of
from realtime.authorization import Context, Identity, Operation, authorizes, reauthorize
from realtime.log.reads import read_messages, read_states
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import NewMessage

if TYPE_CHECKING:
    from realtime.log.types import LogState
    from realtime.protocol.names import ChannelName

#: What a chatter does.
OPERATIONS: Final[tuple[Operation, ...]] = ("subscribe", "publish", "history", "presence", "signal")

#: A change of rooms, members or mutes is told at once (below), to all who serve clients.
REMEMBER_S: Final = 5.0

SERVER_ONLY: Final = frozenset({"member", "room"})
"""Events that only the server publishes."""

MAY_WHEN_MUTED: Final = frozenset({"delete", "receipt"})

#: Larger than any serial: the log will give a smaller one.
_UNKNOWN_SERIAL: Final = fold.SERIAL_MOST


@dataclass(frozen=True, slots=True)
class _Place:
    """Who publishes, and where."""

    room: Room
    client: str


@authorizes(NAMESPACE, remember_s=REMEMBER_S, sees_messages=True)
def may(identity: Identity, channel: ChannelName, operation: Operation, context: Context) -> bool:
    """Public rooms are open to everybody known, the others to their members. What is no room is closed."""
    if identity.kind == "anonymous" or operation not in OPERATIONS:
        return False
    slug = channel.removeprefix(f"{NAMESPACE}:")
    if slug.startswith("@"):
        return operation in ("subscribe", "history") and channel == inbox_of(identity.client)
    client = cast("str", context.get("client", identity.client))
    user = user_of(client) if client else None
    if slug.startswith("="):
        # Only presence is there, and only those who are told of it.
        return operation in ("subscribe", "presence") and user is not None and may_know_of(user.pk, slug[1:])
    room = _room(slug, None if user is None else user.pk)
    if room is None or (room.is_private and room.role is None):  # type: ignore[attr-defined]  # annotated
        return False
    is_muted = room.is_muted is not None  # type: ignore[attr-defined]  # annotated
    if operation == "publish" and "messages" in context:
        messages = cast("Sequence[NewMessage]", context["messages"])
        return client != "" and _may_publish(_Place(room, client), is_muted, messages)
    return not (is_muted and operation == "signal")


def _room(slug: str, user_pk: object) -> Room | None:
    """The room, with the user's `role` and whether he `is_muted`, by one query."""
    of_user = {"room": OuterRef("pk"), "user": user_pk}
    return (
        Room.objects.filter(slug=slug)
        .annotate(
            role=Subquery(Membership.objects.filter(**of_user).values("role")[:1]),
            is_muted=Subquery(Mute.objects.filter(**of_user, until__gt=timezone.now()).values("pk")[:1]),
        )
        .first()
    )


# ---------------------------------------------------------------- messages


def _may_publish(place: _Place, is_muted: bool, messages: Sequence[NewMessage]) -> bool:
    """Whether all of them may be published; raises `bad_frame` where one is malformed."""
    if any(message.event in SERVER_ONLY for message in messages):
        return False
    parsed = [(message.event, json.loads(message.data)) for message in messages]
    for event, data in parsed:
        _check_shape(event, data, place.client)
    if is_muted and any(event not in MAY_WHEN_MUTED for event, _ in parsed):
        return False
    own = [fold.whole(data["of"]) for event, data in parsed if event in ("edit", "delete")]
    files = [file for event, data in parsed if event == "message" for file in data.get("files") or ()]
    return _are_authors(place, [of for of in own if of is not None]) and _are_uploads(place, files)


def _check_shape(event: str, data: Any, client: str) -> None:
    envelope = {"serial": _UNKNOWN_SERIAL, "id": "", "time": 0, "client": client, "event": event, "data": data}
    match event:
        case "message":
            if fold.begin(envelope) is None:
                limits = f"`text` of 1 to {fold.TEXT_CHARS} characters (none only beside `files`)"
                raise _malformed(event, f"{limits}, `thread` as a serial, lists of `mentions` and `files`")
        case "edit" | "delete" | "react":
            if fold.target(envelope) is None:
                raise _malformed(event, "`of`, the serial of a message")
            if event == "edit" and (
                not fold.is_text(data.get("text"), may_be_empty=True) or fold.mentions(data.get("mentions")) is None
            ):
                raise _malformed(event, f"`text` of at most {fold.TEXT_CHARS} characters and a list of `mentions`")
            if event == "react" and not (
                fold.is_emoji(data.get("emoji")) and data["emoji"].strip() and isinstance(data.get("on"), bool)
            ):
                raise _malformed(event, f"`emoji` of 1 to {fold.EMOJI_CHARS} characters and `on`, true or false")
        case "receipt":
            if fold.receipt(envelope) is None:
                raise _malformed(event, "`through`, a serial")
        case _:
            raise ProtocolError(
                "bad_frame",
                f"Rooms know no event {event!r}.",
                remedy="Publish message, edit, delete, react or receipt.",
            )


def _malformed(event: str, wanted: str) -> ProtocolError:
    return ProtocolError("bad_frame", f"The data of this {event} is not well formed.", remedy=f"Send {wanted}.")


def _are_authors(place: _Place, serials: Sequence[int]) -> bool:
    """Whether all of these are messages of the client. From the log, which the index may not have reached."""
    if not serials:
        return True
    channel = cast("ChannelName", place.room.channel)
    state = read_states([channel])[channel]
    return all(_is_author(state, serial, place.client) for serial in set(serials))


def _is_author(state: LogState, serial: int, client: str) -> bool:
    if state.channel_id is None or not state.oldest <= serial <= state.head:
        return False
    rows = read_messages(state.channel_id, serial - 1, serial, max_messages=1, max_bytes=1)
    envelope = json.loads(rows[0][1]) if rows else {}
    return envelope.get("event") == "message" and envelope.get("client") == client


def _are_uploads(place: _Place, files: Sequence[dict[str, Any]]) -> bool:
    """Whether all of these files are the client's, for this room, and what the server found them to be."""
    if not files:
        return True
    known = {
        upload.id: file_of(upload)
        for upload in Upload.objects.filter(
            id__in=[file["id"] for file in files], room_id=place.room.pk, client=place.client
        )
    }
    return all(
        known.get(file["id"]) == {name: value for name, value in file.items() if value is not None} for file in files
    )


def file_of(upload: Upload) -> dict[str, Any]:
    """A file as messages name it."""
    file = {"id": upload.id, "name": upload.name, "type": upload.type, "size": upload.size}
    if upload.width is not None and upload.height is not None:
        file |= {"width": upload.width, "height": upload.height}
    return file


# ---------------------------------------------------------------- changes


@receiver([post_save, post_delete], sender=Room)
def _room_changed(instance: Room, **_: object) -> None:
    reauthorize(channel=instance.channel)  # type: ignore[arg-type]  # the property gives a channel's name
    for pk in instance.pair.split(":") if instance.pair else ():
        reauthorize(channel=here_of(pk))  # type: ignore[arg-type]  # as above


@receiver([post_save, post_delete], sender=Membership)
@receiver([post_save, post_delete], sender=Mute)
def _rights_changed(instance: Membership | Mute, **_: object) -> None:
    reauthorize(channel=instance.room.channel)  # type: ignore[arg-type]  # as above
