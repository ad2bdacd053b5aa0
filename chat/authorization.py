"""Who may do what in a room: the hook of the namespace `chat`, and telling the platform when that changed.

The token endpoint gives everybody the same capability for `chat:*`; this narrows it to the rooms one may see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from chat.models import NAMESPACE, Membership, Room
from chat.people import is_client
from realtime.authorization import Context, Identity, Operation, authorizes, reauthorize
from realtime.tokens import client_id_of

if TYPE_CHECKING:
    from realtime.protocol.names import ChannelName

#: What a chatter does. Presence and signals come with the features that need them.
OPERATIONS: Final[tuple[Operation, ...]] = ("subscribe", "publish", "history")

#: Every message asks. A change of rooms or members is told at once (below), to all who serve clients.
REMEMBER_S: Final = 5.0


@authorizes(NAMESPACE, remember_s=REMEMBER_S)
def may(identity: Identity, channel: ChannelName, operation: Operation, context: Context) -> bool:
    """Public rooms are open to everybody known, private ones to their members. What is no room is closed."""
    if identity.kind == "anonymous" or operation not in OPERATIONS:
        return False
    room = Room.objects.filter(slug=channel.removeprefix(f"{NAMESPACE}:")).first()
    if room is None:
        return False
    return not room.is_private or any(
        client_id_of(user) == identity.client for user in room.members.filter(is_client(identity.client))
    )


@receiver([post_save, post_delete], sender=Room)
def _room_changed(instance: Room, **_: object) -> None:
    reauthorize(channel=instance.channel)  # type: ignore[arg-type]  # the property gives a channel's name


@receiver([post_save, post_delete], sender=Membership)
def _membership_changed(instance: Membership, **_: object) -> None:
    reauthorize(channel=instance.room.channel)  # type: ignore[arg-type]  # as above
