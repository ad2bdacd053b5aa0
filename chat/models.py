"""Rooms, who belongs to them, what moderators did, files, and the index of what was said.

What is said lies in the log of the room's channel. The tables from `RoomIndex` on are made from it (chat/index.py) and
can be made again; they serve search, counts and folded pages. Times are Unix milliseconds where they come from the log.
"""

from __future__ import annotations

import secrets
from typing import Final

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

NAMESPACE: Final = "chat"
CLIENT_CHARS: Final = 128
"""Of a client id, as the platform has them."""


class RoomQuerySet(models.QuerySet["Room"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> RoomQuerySet:
        """Public rooms, and the others that the user is a member of; nothing for who is not logged in."""
        if not user.is_authenticated:
            return self.none()
        # Not by a join: rooms would be found once per member.
        mine = Membership.objects.filter(user_id=user.pk).values("room_id")
        return self.filter(Q(kind=Room.Kind.PUBLIC) | Q(pk__in=mine))


class Room(models.Model):
    class Kind(models.TextChoices):
        PUBLIC = "public", "public: everybody who is known"
        PRIVATE = "private", "private: members only"
        DIRECT = "direct", "direct: two people"

    # Part of a channel's name and of an address, and never changed: positions of readers refer to it.
    slug = models.CharField(
        max_length=64,
        unique=True,
        validators=[RegexValidator(r"\A[a-z0-9][a-z0-9-]*\Z", "Lower case letters, digits and hyphens.")],
        help_text="Part of the channel's name; it cannot be changed without losing what was said.",
    )
    name = models.CharField(max_length=80)
    topic = models.CharField(max_length=200, blank=True)
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.PUBLIC)
    pair = models.CharField(
        max_length=64,
        null=True,
        blank=True,
        unique=True,
        editable=False,
        help_text="Of a direct room: the primary keys of its two people, the lower first.",
    )
    created = models.DateTimeField(auto_now_add=True)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, through="Membership", related_name="rooms")

    objects = RoomQuerySet.as_manager()

    class Meta:
        ordering = ["created", "pk"]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=["public", "private", "direct"]), name="chat_room_kind"),
            models.CheckConstraint(
                condition=Q(kind="direct", pair__isnull=False) | (~Q(kind="direct") & Q(pair__isnull=True)),
                name="chat_room_pair",
                violation_error_message="Direct rooms are made by the chat, for two people.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def channel(self) -> str:
        """The name of the channel whose log holds what is said here."""
        return f"{NAMESPACE}:{self.slug}"

    @property
    def is_private(self) -> bool:
        """Whether only members may see it; direct rooms are among them."""
        return self.kind != self.Kind.PUBLIC

    @property
    def is_direct(self) -> bool:
        return self.kind == self.Kind.DIRECT


class Membership(models.Model):
    class Role(models.TextChoices):
        MEMBER = "member", "member"
        MODERATOR = "moderator", "moderator"
        OWNER = "owner", "owner"

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.MEMBER)
    since = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["since", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["room", "user"], name="chat_membership_unique"),
            models.CheckConstraint(condition=Q(role__in=["member", "moderator", "owner"]), name="chat_membership_role"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} in {self.room_id}"


class Mute(models.Model):
    """Who may not write in a room until a time. Apart from membership: leaving and joining again does not end it."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="mutes")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="mutes")
    until = models.DateTimeField()

    class Meta:
        ordering = ["until"]
        constraints = [models.UniqueConstraint(fields=["room", "user"], name="chat_mute_unique")]

    def __str__(self) -> str:
        return f"{self.user_id} in {self.room_id} until {self.until:%Y-%m-%d %H:%M}"


class Quiet(models.Model):
    """Somebody wants to hear of a room only where he is mentioned. His own affair: nobody is told."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="quiet")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="quiet")

    class Meta:
        verbose_name_plural = "quiet"
        constraints = [models.UniqueConstraint(fields=["room", "user"], name="chat_quiet_unique")]

    def __str__(self) -> str:
        return f"{self.room_id} for {self.user_id}"


class AuditEntry(models.Model):
    """What somebody did to a room, its members or another's message. Written with the change itself, never changed."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="audit")
    time = models.DateTimeField(default=timezone.now)
    by = models.CharField(max_length=CLIENT_CHARS)
    action = models.CharField(max_length=32)
    about = models.CharField(max_length=CLIENT_CHARS, blank=True, help_text="A client id, or #serial of a message.")
    detail = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-pk"]
        verbose_name_plural = "audit entries"
        indexes = [models.Index(fields=["room", "-id"], name="chat_audit_room")]

    def __str__(self) -> str:
        return f"{self.by}: {self.action} {self.about}"


def new_file_id() -> str:
    """Not to be guessed, though membership is asked all the same."""
    return secrets.token_urlsafe(16)


class Upload(models.Model):
    """A file for one room. Belongs to the message that names it; without one it is forgotten after a day."""

    id = models.CharField(primary_key=True, max_length=32, default=new_file_id)
    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="uploads")
    client = models.CharField(max_length=CLIENT_CHARS)
    name = models.CharField(max_length=120)
    type = models.CharField(max_length=64)
    size = models.PositiveIntegerField(help_text="Bytes.")
    width = models.PositiveIntegerField(null=True)
    height = models.PositiveIntegerField(null=True)
    file = models.FileField(upload_to="chat/%Y/%m", max_length=200)
    created = models.DateTimeField(auto_now_add=True)
    serial = models.BigIntegerField(null=True, help_text="Of the message that names it.")

    class Meta:
        ordering = ["-created"]
        indexes = [
            models.Index(fields=["client", "created"], name="chat_upload_client"),
            models.Index(fields=["room", "serial"], name="chat_upload_message"),
        ]

    def __str__(self) -> str:
        return self.name


class LastSeen(models.Model):
    """When somebody was last known to have the chat open: by what his pages say (docs/reference/chat.md#last-seen), or
    by an event in a room. To the minute."""

    client = models.CharField(max_length=CLIENT_CHARS, primary_key=True)
    time = models.BigIntegerField(help_text="Unix milliseconds.")

    class Meta:
        verbose_name_plural = "last seen"

    def __str__(self) -> str:
        return self.client


# ---------------------------------------------------------------- the index


class RoomIndex(models.Model):
    """How far the log of a room has been folded: its lock and its position."""

    room = models.OneToOneField(Room, on_delete=models.CASCADE, primary_key=True, related_name="index")
    epoch = models.CharField(max_length=32, blank=True)
    through = models.BigIntegerField(default=0)
    oldest = models.BigIntegerField(default=1)
    last_time = models.BigIntegerField(default=0, help_text="Of the newest message; 0: none.")

    class Meta:
        verbose_name_plural = "room indexes"

    def __str__(self) -> str:
        return f"{self.room_id} through {self.through}"


class IndexedMessage(models.Model):
    """A message as it is after everything that the log says about it, through the position of the room's index."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="messages", db_index=False)
    serial = models.BigIntegerField()
    client = models.CharField(max_length=CLIENT_CHARS)
    time = models.BigIntegerField()
    thread = models.BigIntegerField(null=True)
    deleted = models.BooleanField(default=False)
    searched = models.TextField(help_text="The text, case folded.")
    state = models.JSONField(help_text="The folded message.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["room", "serial"], name="chat_message_unique")]
        indexes = [
            models.Index(fields=["room", "thread", "serial"], name="chat_message_thread"),
            models.Index(fields=["room", "time"], name="chat_message_time"),
        ]

    def __str__(self) -> str:
        return f"{self.room_id}#{self.serial}"


class Mention(models.Model):
    """A message names somebody."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="mentions", db_index=False)
    serial = models.BigIntegerField()
    client = models.CharField(max_length=CLIENT_CHARS)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["room", "client", "serial"], name="chat_mention_unique"),
        ]
        indexes = [models.Index(fields=["room", "serial"], name="chat_mention_message")]

    def __str__(self) -> str:
        return f"{self.client} in {self.room_id}#{self.serial}"


class Notice(models.Model):
    """A `member` or `room` event, as the page shows it."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="notices", db_index=False)
    serial = models.BigIntegerField()
    state = models.JSONField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["room", "serial"], name="chat_notice_unique")]

    def __str__(self) -> str:
        return f"{self.room_id}#{self.serial}"


class Seen(models.Model):
    """Through which serial somebody has seen a room: the highest of his receipts."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="seen", db_index=False)
    client = models.CharField(max_length=CLIENT_CHARS)
    through = models.BigIntegerField()

    class Meta:
        verbose_name_plural = "seen"
        constraints = [models.UniqueConstraint(fields=["room", "client"], name="chat_seen_unique")]

    def __str__(self) -> str:
        return f"{self.client} in {self.room_id} through {self.through}"
