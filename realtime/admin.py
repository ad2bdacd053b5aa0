"""The operator's desk: namespaces and API keys to edit; channels and logs to look at.

Rows of the log are only read here: a form that saved a stale `Log` would rewind a head and give serials twice. What
changes anything calls the same functions as the API.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, ClassVar

from django import forms
from django.apps import apps
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html

from realtime import tokens
from realtime.delivery.capability import OPERATIONS, Capability
from realtime.log import reads
from realtime.models import ApiKey, Channel, Log, Namespace
from realtime.namespaces import rules_named
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName, is_client_id, namespace_of, parse_channel

if apps.is_installed("unfold"):
    from unfold.admin import ModelAdmin
    from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget as CheckboxSelectMultiple
else:
    # A project without the theme has the same desk in Django's own.
    from django.contrib.admin import ModelAdmin
    from django.forms import CheckboxSelectMultiple

HISTORY_PAGE = 50
SHOWN_CHARS = 2000
COUNT_MOST = 10_000


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # not generic at run time
    """Counts no further than `COUNT_MOST`: an exact count of millions of rows costs seconds on PostgreSQL."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by().values("pk")[:COUNT_MOST].count())


class ReadOnly:
    """A model that the desk only shows."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def _moment(time_ms: int | None) -> str:
    if not time_ms:
        return "–"
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")[:-6]


# ---------------------------------------------------------------- namespaces


class OperationsField(forms.MultipleChoiceField):
    """A list of operations, as boxes to tick instead of JSON to type."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            choices=[(each, each) for each in sorted(OPERATIONS)],
            required=False,
            widget=CheckboxSelectMultiple,
            **kwargs,
        )


class NamespaceForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    known_ops = OperationsField(
        label="Operations of known clients", help_text="Granted to tokens without cap and to logged-in users."
    )
    anonymous_ops = OperationsField(
        label="Operations of anonymous clients", help_text="Granted to clients without any credentials."
    )

    class Meta:
        model = Namespace
        fields = "__all__"  # noqa: DJ007  (an operator edits all of it, and new rules must not be forgotten here)


@admin.register(Namespace)
class NamespaceAdmin(ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """The rules of channels. A change holds at once here, and in every worker as soon as it hears of it."""

    form = NamespaceForm
    list_display = ("name", "create", "retention", "window_default", "window_max", "overflow", "presence", "anonymous")
    list_filter = ("create", "overflow", "presence")
    search_fields = ("name",)
    fieldsets = (
        (None, {"fields": ("name", "create")}),
        (
            "Access",
            {
                "fields": ("known_ops", "anonymous_ops"),
                "description": "Rules narrow what a token's capability allows; they never widen it.",
            },
        ),
        (
            "Retention",
            {
                "fields": ("retention_messages", "retention_age_s", "message_ttl_s", "key_limit"),
                "description": "What is kept of each channel. Whichever limit is reached first takes the oldest.",
            },
        ),
        (
            "Delivery",
            {
                "fields": ("window_default", "window_max", "ack_ms", "overflow", "delta", "presence"),
                "description": "How subscribers are paced, and what they may ask for.",
            },
        ),
        (
            "Publishing",
            {
                "fields": ("max_message_bytes", "publish_rate", "publish_burst"),
                "description": "Limits of one client in one channel's namespace.",
            },
        ),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """Fields that a later version adds appear under “More”, rather than not at all."""
        placed = {name for _, group in self.fieldsets for name in group["fields"]}
        more = tuple(
            field.name
            for field in Namespace._meta.get_fields()
            if getattr(field, "editable", False) and field.name not in placed
        )
        return (*self.fieldsets, ("More", {"fields": more})) if more else self.fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        # The name is the primary key: saving another one would make a copy.
        return ("name",) if obj is not None else ()

    @admin.display(description="Retention")
    def retention(self, obj: Namespace) -> str:
        kept = [f"{obj.retention_messages} messages"] if obj.retention_messages else []
        kept += [f"{obj.retention_age_s} s"] if obj.retention_age_s else []
        return ", ".join(kept) or "everything"

    @admin.display(description="Anonymous")
    def anonymous(self, obj: Namespace) -> str:
        return ", ".join(obj.anonymous_ops) or "–"


# ---------------------------------------------------------------- API keys


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    class Meta:
        model = ApiKey
        fields = ("name", "capability", "expires")

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if not is_client_id(name):
            raise ValidationError("Use visible ASCII characters only: the name is the client id of what is published.")
        return name

    def clean_capability(self) -> object:
        capability = self.cleaned_data["capability"]
        try:
            Capability.parse(capability)
        except ValueError as error:
            raise ValidationError(str(error)) from None
        return capability


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """Credentials of backends. The text of a key is shown once, on the page that follows its creation."""

    form = ApiKeyForm
    list_display = ("name", "key_id", "state", "created", "last_used", "expires")
    list_filter = ("revoked",)
    search_fields = ("name", "key_id")
    actions = ("revoke",)

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("name", "capability", "expires")
        return ("name", "key_id", "capability", "expires", "revoked", "created", "last_used")

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        # Another name would be another publisher: ids of messages are known per channel and client.
        return () if obj is None else ("name", "key_id", "revoked", "created", "last_used")

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"capability": dict(tokens.DEFAULT_KEY_CAPABILITY), **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        created, text = tokens.create_api_key(obj.name, obj.capability, obj.expires)
        obj.__dict__.update(created.__dict__)
        # For response_add of this very request; the text is stored nowhere, in no session and no cookie.
        request.created_api_key = text  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": f"API key {obj.name}",
            "opts": self.opts,
            "key": request.created_api_key,  # type: ignore[attr-defined]  # set in save_model
            "list_url": reverse(f"{self.admin_site.name}:realtime_apikey_changelist"),
        }
        response = TemplateResponse(request, "realtime/admin/api_key_created.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response

    @admin.display(description="State")
    def state(self, obj: ApiKey) -> str:
        if obj.revoked:
            return "revoked"
        return "expired" if obj.expires and obj.expires <= datetime.now(UTC) else "valid"

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        rows = list(queryset.filter(revoked=False))
        for row in rows:
            tokens.revoke_api_key(row)
        self.message_user(request, f"{len(rows)} keys were revoked; no request with them is served any more.")


# ---------------------------------------------------------------- channels


class ChannelForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    class Meta:
        model = Channel
        fields = ("name",)

    def clean_name(self) -> str:
        try:
            name = parse_channel(self.cleaned_data["name"])
        except ProtocolError as error:
            raise ValidationError(error.message) from None
        if rules_named(namespace_of(name)) is None:
            raise ValidationError(f"There is no namespace {namespace_of(name)}. Create it first.")
        return name


class NamespaceFilter(admin.RelatedFieldListFilter):
    """Without the choice of none: channels without a namespace are not shown."""

    include_empty_choice = False


@admin.register(Channel)
class ChannelAdmin(ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """Channels by prefix. Adding one is for namespaces whose channels only an operator creates; nothing is edited."""

    form = ChannelForm
    list_display = ("name", "namespace_id", "head", "oldest", "last_time", "messages")
    list_filter = (("namespace", NamespaceFilter),)
    list_select_related = ("log",)
    search_fields = ("name",)
    search_help_text = "The beginning of a name"
    show_full_result_count = False
    paginator = BoundedPaginator
    ordering = ("name",)

    _LOG_FIELDS: ClassVar = ("namespace_id", "epoch", "head", "oldest", "last_time", "created", "messages")

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("name",) if obj is None else ("name", *self._LOG_FIELDS)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # A channel that comes again under its old name would begin at serial 1, before what subscribers have seen.
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Channel]:
        """Without the platform's own channels: what is said there concerns no operator."""
        return super().get_queryset(request).filter(namespace__isnull=False).select_related("log")  # type: ignore[no-any-return]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Channel], search_term: str
    ) -> tuple[QuerySet[Channel], bool]:
        """By prefix only, which an index serves on both databases; “contains” would read the whole table."""
        prefix = search_term.strip()
        if not prefix:
            return queryset, False
        if connections[queryset.db].vendor == "sqlite":
            # LIKE ignores case on SQLite and with it the index. All of the alphabet is below U+007F.
            return queryset.filter(name__gte=prefix, name__lt=f"{prefix}\x7f"), False
        return queryset.filter(name__startswith=prefix), False

    def save_model(self, request: HttpRequest, obj: Channel, form: Any, change: bool) -> None:
        obj.namespace_id = namespace_of(ChannelName(obj.name))
        super().save_model(request, obj, form, change)

    @admin.display(description="Namespace", ordering="namespace_id")
    def namespace_id(self, obj: Channel) -> str:
        return obj.namespace_id or ""

    @admin.display(description="Epoch")
    def epoch(self, obj: Channel) -> str:
        return _log_of(obj, "epoch", "–")

    @admin.display(description="Head")
    def head(self, obj: Channel) -> str:
        return _log_of(obj, "head", "0")

    @admin.display(description="Oldest")
    def oldest(self, obj: Channel) -> str:
        return _log_of(obj, "oldest", "–")

    @admin.display(description="Newest message (UTC)")
    def last_time(self, obj: Channel) -> str:
        log = getattr(obj, "log", None)
        return _moment(log.last_time if log is not None else None)

    @admin.display(description="Messages")
    def messages(self, obj: Channel) -> str:
        address = reverse(f"{self.admin_site.name}:realtime_channel_messages", args=[obj.pk])
        return format_html('<a href="{}">Read</a>', address)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.messages_view)
        return [path("<int:pk>/messages/", view, name="realtime_channel_messages"), *super().get_urls()]

    def messages_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The log of a channel, newest first, a page at a time. `Message` has a composite key, so no ModelAdmin."""
        channel = self.get_queryset(request).filter(pk=pk).first()
        if channel is None:
            raise Http404
        if not self.has_view_permission(request, channel):
            raise PermissionDenied
        before_text = request.GET.get("before", "")
        before = int(before_text) if before_text.isascii() and before_text.isdigit() and len(before_text) < 17 else None
        page = reads.read_page(
            ChannelName(channel.name), after=None, before=before, since=None, order="desc", limit=HISTORY_PAGE
        )
        rows = [_shown(json.loads(envelope)) for envelope in page.messages]
        context = {
            **self.admin_site.each_context(request),
            "title": f"Messages of {channel.name}",
            "opts": self.opts,
            "page": page,
            "rows": rows,
            "next_before": rows[-1]["serial"] if page.more and rows else None,
            "first_page": before is None,
        }
        return TemplateResponse(request, "realtime/admin/messages.html", context)


def _log_of(channel: Channel, field: str, otherwise: str) -> str:
    log = getattr(channel, "log", None)
    return otherwise if log is None else str(getattr(log, field))


def _shown(message: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(message["data"], ensure_ascii=False)
    return {
        **message,
        "when": _moment(message["time"]),
        "data": data if len(data) <= SHOWN_CHARS else f"{data[:SHOWN_CHARS]}…",
    }


@admin.register(Log)
class LogAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """The numbers of every log."""

    list_display = ("channel", "epoch", "oldest", "head", "newest")
    list_select_related = ("channel",)
    search_fields = ("=channel__name",)
    search_help_text = "A whole name"
    show_full_result_count = False
    paginator = BoundedPaginator
    ordering = ("-pk",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Log]:
        return super().get_queryset(request).filter(channel__namespace__isnull=False)  # type: ignore[no-any-return]

    @admin.display(description="Newest message (UTC)")
    def newest(self, obj: Log) -> str:
        return _moment(obj.last_time)
