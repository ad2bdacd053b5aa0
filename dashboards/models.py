"""Dashboards, their widgets, links that show one to whoever has them, and the votes of the quiz."""

from __future__ import annotations

import secrets
from typing import Final

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from dashboards.kinds import FIELD, KINDS, Invalid, check_options

SPEED: Final = "@speed"
"""In the name of a channel: the viewer chooses what stands there, among the dashboard's speeds."""


class DashboardQuerySet(models.QuerySet["Dashboard"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> DashboardQuerySet:
        """Public ones and one's own; nothing for who is not logged in."""
        if not user.is_authenticated:
            return self.none()
        return self.filter(Q(is_public=True) | Q(owner_id=user.pk))


class Dashboard(models.Model):
    slug = models.CharField(
        max_length=64,
        unique=True,
        validators=[RegexValidator(r"\A[a-z0-9][a-z0-9-]*\Z", "Lower case letters, digits and hyphens.")],
        help_text="Part of the address.",
    )
    name = models.CharField(max_length=80)
    about = models.CharField(max_length=300, blank=True)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="dashboards",
        help_text="Who may change it; empty: operators only.",
    )
    is_public = models.BooleanField("public", default=False, help_text="Whether everybody who logs in sees it.")
    speeds = models.JSONField(
        default=dict, blank=True, help_text=f"Name → label: what may stand for {SPEED} in its channels."
    )
    deltas = models.BooleanField(
        default=False,
        help_text="Whether the page asks for messages as differences, where the channels' namespaces allow it: less to "
        "send where the next message is mostly the last one.",
    )
    created = models.DateTimeField(auto_now_add=True)

    objects = DashboardQuerySet.as_manager()

    class Meta:
        ordering = ["created", "pk"]

    def __str__(self) -> str:
        return self.name

    def may_be_changed_by(self, user: AbstractBaseUser | AnonymousUser) -> bool:
        return bool(user.is_authenticated and (getattr(user, "is_staff", False) or self.owner_id == user.pk))


def validate_field(value: str) -> None:
    if value and not FIELD.fullmatch(value):
        raise ValidationError("Names joined by dots, such as cpu.user.")


class Widget(models.Model):
    dashboard = models.ForeignKey(Dashboard, on_delete=models.CASCADE, related_name="widgets")
    position = models.PositiveSmallIntegerField(default=0)
    kind = models.CharField(max_length=16, choices=[(kind, label) for kind, (label, _) in KINDS.items()])
    title = models.CharField(max_length=80)
    channel = models.CharField(max_length=200)
    field = models.CharField(
        max_length=200, blank=True, validators=[validate_field], help_text="Where in the data the value stands."
    )
    options = models.JSONField(default=dict, blank=True)
    span = models.PositiveSmallIntegerField(
        default=6, validators=[MinValueValidator(2), MaxValueValidator(12)], help_text="Columns, of twelve."
    )

    class Meta:
        ordering = ["position", "pk"]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=list(KINDS)), name="dashboards_widget_kind"),
            models.CheckConstraint(condition=Q(span__gte=2) & Q(span__lte=12), name="dashboards_widget_span"),
        ]

    def __str__(self) -> str:
        return self.title

    def clean(self) -> None:
        try:
            self.options = check_options(self.kind, self.options)
        except Invalid as error:
            raise ValidationError({"options": str(error)}) from None


def new_share_id() -> str:
    return secrets.token_urlsafe(24)


class Share(models.Model):
    """A link to one dashboard. Its id is the secret; deleting the row takes the link back."""

    id = models.CharField(max_length=48, primary_key=True, default=new_share_id, editable=False)
    dashboard = models.ForeignKey(Dashboard, on_delete=models.CASCADE, related_name="shares")
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created"]

    def __str__(self) -> str:
        return f"{self.dashboard_id}, {self.created:%Y-%m-%d}"

    @property
    def client(self) -> str:
        """The client id of all who come by this link: taking it back ends their connections."""
        return f"share-{self.pk[:12]}"


class Vote(models.Model):
    """That somebody has voted in a round; for what stands in the channel, in the same transaction."""

    round = models.PositiveBigIntegerField()
    client = models.CharField(max_length=128)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["round", "client"], name="dashboards_one_vote")]

    def __str__(self) -> str:
        return f"{self.client} in {self.round}"
