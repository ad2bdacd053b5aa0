"""Rooms and who belongs to them. What is said lies in the log of the room's channel, not here."""

from __future__ import annotations

from typing import Final

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

NAMESPACE: Final = "chat"


class RoomQuerySet(models.QuerySet["Room"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> RoomQuerySet:
        """Public rooms, and the private ones that the user is a member of; nothing for who is not logged in."""
        if not user.is_authenticated:
            return self.none()
        return self.filter(Q(kind=Room.Kind.PUBLIC) | Q(memberships__user_id=user.pk)).distinct()


class Room(models.Model):
    class Kind(models.TextChoices):
        PUBLIC = "public", "public: everybody who is known"
        PRIVATE = "private", "private: members only"

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
    created = models.DateTimeField(auto_now_add=True)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, through="Membership", related_name="rooms")

    objects = RoomQuerySet.as_manager()

    class Meta:
        ordering = ["created", "pk"]
        constraints = [models.CheckConstraint(condition=Q(kind__in=["public", "private"]), name="chat_room_kind")]

    def __str__(self) -> str:
        return self.name

    @property
    def channel(self) -> str:
        """The name of the channel whose log holds what is said here."""
        return f"{NAMESPACE}:{self.slug}"

    @property
    def is_private(self) -> bool:
        return self.kind == self.Kind.PRIVATE


class Membership(models.Model):
    class Role(models.TextChoices):
        MEMBER = "member", "member"
        MODERATOR = "moderator", "moderator"

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.MEMBER)
    since = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["since", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["room", "user"], name="chat_membership_unique"),
            models.CheckConstraint(condition=Q(role__in=["member", "moderator"]), name="chat_membership_role"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} in {self.room_id}"
