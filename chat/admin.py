"""Rooms and members in the operator's desk."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from chat.models import Membership, Room


class MembershipInline(TabularInline):  # type: ignore[misc]  # unfold has no types
    model = Membership
    extra = 0
    autocomplete_fields = ["user"]


@admin.register(Room)
class RoomAdmin(ModelAdmin):  # type: ignore[misc]  # as above
    list_display = ["name", "slug", "kind", "topic", "created"]
    list_filter = ["kind"]
    search_fields = ["name", "slug", "topic"]
    inlines = [MembershipInline]

    def get_readonly_fields(self, request: HttpRequest, obj: Room | None = None) -> list[str]:
        # The slug names the channel: another slug would be another, empty log.
        return ["created"] if obj is None else ["slug", "created"]
