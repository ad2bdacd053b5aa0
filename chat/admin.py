"""Rooms, members, mutes, files and the audit trail in the operator's desk. What is said is in the log's own pages."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from chat.models import AuditEntry, Membership, Mute, Room, Upload


class MembershipInline(TabularInline):  # type: ignore[misc]  # unfold has no types
    model = Membership
    extra = 0
    autocomplete_fields = ["user"]


class MuteInline(TabularInline):  # type: ignore[misc]  # as above
    model = Mute
    extra = 0
    autocomplete_fields = ["user"]


@admin.register(Room)
class RoomAdmin(ModelAdmin):  # type: ignore[misc]  # as above
    list_display = ["name", "slug", "kind", "topic", "created"]
    list_filter = ["kind"]
    search_fields = ["name", "slug", "topic"]
    inlines = [MembershipInline, MuteInline]

    def get_readonly_fields(self, request: HttpRequest, obj: Room | None = None) -> list[str]:
        # The slug names the channel: another slug would be another, empty log.
        if obj is None:
            return ["created"]
        # A direct room stays the one of its two people.
        return ["slug", "created", "kind"] if obj.is_direct else ["slug", "created"]


class _ReadOnly(ModelAdmin):  # type: ignore[misc]  # as above
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(AuditEntry)
class AuditEntryAdmin(_ReadOnly):
    list_display = ["time", "room", "by", "action", "about", "detail"]
    list_filter = ["action"]
    list_select_related = ["room"]
    search_fields = ["by", "about", "room__slug"]

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # A trail from which entries can be taken is none. Those of a room go with the room.
        return obj is None or not isinstance(obj, AuditEntry)


@admin.register(Upload)
class UploadAdmin(_ReadOnly):
    list_display = ["name", "type", "size", "client", "room", "serial", "created"]
    list_filter = ["type"]
    list_select_related = ["room"]
    search_fields = ["name", "client", "room__slug"]
    exclude = ["file"]

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Files go with their messages.
        return False
