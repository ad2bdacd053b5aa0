"""Rooms, members, mutes, files and the audit trail in the operator's desk. What is said is in the log's own pages.

What is changed here goes the same road as from the chat's own page (`chat.rooms.Desk`): the row, the audit trail with
the operator's name, the room's event, the inboxes, and the word to all workers, in the one transaction that Django
opens for a form.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from django import forms
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Model, QuerySet
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline

from chat.models import AuditEntry, Membership, Mute, Room, Upload
from chat.rooms import MEMBERS_MOST, MUTE_MINUTES_MOST, RESERVED, Desk


class _PeopleFormSet(BaseInlineFormSet):  # type: ignore[type-arg]  # of both models
    """Rows about people of a room. Whose row it is stays: another person is another row."""

    def clean(self) -> None:
        super().clean()
        for form in self.initial_forms:
            if "user" in form.changed_data:
                form.add_error("user", "Delete this row and add one for the other person.")

    @property
    def kept(self) -> list[dict[str, Any]]:
        """What stands in the rows that will be there."""
        filled = [form for form in self.forms if form.is_valid() and form.cleaned_data.get("user")]
        return [form.cleaned_data for form in filled if not self._should_delete_form(form)]  # type: ignore[attr-defined]  # Django's


class MembershipFormSet(_PeopleFormSet):
    def clean(self) -> None:
        super().clean()
        roles = [each["role"] for each in self.kept]
        room = cast("Room", self.instance)
        had_owner = room._state.adding or room.memberships.filter(role=Membership.Role.OWNER).exists()
        if roles and had_owner and Membership.Role.OWNER not in roles:
            raise forms.ValidationError("A room needs an owner. Make somebody else an owner first.")
        if len(roles) > MEMBERS_MOST:
            raise forms.ValidationError(f"A room has at most {MEMBERS_MOST} members.")


class MuteFormSet(_PeopleFormSet):
    def clean(self) -> None:
        super().clean()
        now = timezone.now()
        for form in self.forms:
            until = form.cleaned_data.get("until") if form.is_valid() and "until" in form.changed_data else None
            if until is not None and not now < until <= now + timedelta(minutes=MUTE_MINUTES_MOST):
                form.add_error("until", f"A time from now on, at most {MUTE_MINUTES_MOST // 1440} days away.")


class MembershipInline(TabularInline):  # type: ignore[misc]  # unfold has no types
    model = Membership
    formset = MembershipFormSet
    extra = 0
    autocomplete_fields = ["user"]


class MuteInline(TabularInline):  # type: ignore[misc]  # as above
    model = Mute
    formset = MuteFormSet
    extra = 0
    autocomplete_fields = ["user"]


class RoomForm(forms.ModelForm):  # type: ignore[type-arg]  # of Room
    def clean_slug(self) -> str:
        slug: str = self.cleaned_data["slug"]
        if slug in RESERVED:
            raise forms.ValidationError("The chat itself has an address of this name.")
        return slug


@admin.register(Room)
class RoomAdmin(ModelAdmin):  # type: ignore[misc]  # as above
    form = RoomForm
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

    def get_inlines(self, request: HttpRequest, obj: Room | None) -> list[type[TabularInline]]:
        return [] if obj is not None and obj.is_direct else [MembershipInline, MuteInline]

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Room | None:
        room = cast("Room | None", super().get_object(request, object_id, from_field))
        if room is not None and request.method == "POST":
            # What is judged is what is changed: others wait until the form's transaction is over.
            _desk(request, room).lock()
        return room

    def save_model(self, request: HttpRequest, obj: Room, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if change:
            _desk(request, obj).changed(form.changed_data)
        else:
            _desk(request, obj).created()

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        rows = formset.save(commit=False)
        desk = _desk(request, form.instance)
        for row in formset.deleted_objects:
            desk.unmute(row) if isinstance(row, Mute) else desk.expel(row.user)
        for row in rows:
            if isinstance(row, Mute):
                desk.mute(row.user, row.until)
            elif row.pk is None:
                desk.admit(row.user, row.role)
            else:
                desk.give_role(row, row.role)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Trail and files go with their room, though nobody takes them away one by one."""
        found, counts, forbidden, protected = super().get_deleted_objects(objs, request)
        kept = {str(model._meta.verbose_name) for model in (AuditEntry, Upload)}
        return found, counts, {name for name in forbidden if str(name) not in kept}, protected

    def delete_model(self, request: HttpRequest, obj: Room) -> None:
        _desk(request, obj).close()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Room]) -> None:
        with transaction.atomic():
            for room in queryset:
                _desk(request, room).close()


def _desk(request: HttpRequest, room: Room) -> Desk:
    return Desk(cast("User", request.user), room)


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
