"""Dashboards on the operator's desk."""

from __future__ import annotations

from django.contrib import admin
from unfold.admin import ModelAdmin, TabularInline

from dashboards.models import Dashboard, Widget


class WidgetInline(TabularInline):  # type: ignore[misc]  # unfold has no types
    model = Widget
    extra = 0


@admin.register(Dashboard)
class DashboardAdmin(ModelAdmin):  # type: ignore[misc]  # as above
    list_display = ["name", "slug", "owner", "is_public", "deltas", "created"]
    list_select_related = ["owner"]
    list_filter = ["is_public", "deltas"]
    search_fields = ["name", "slug"]
    raw_id_fields = ["owner"]
    inlines = [WidgetInline]
