"""The operator's desk: rules, limits and keys to edit; channels, connections and logs to look at and to act on.

Rows of the log are only read here: a form that saved a stale `Log` would rewind a head and give serials twice. What
changes anything calls the same functions as the API (`realtime.desk`), and stands in the audit log.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from django import forms
from django.apps import apps
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html

from realtime import desk, live, overview, tokens
from realtime.delivery.capability import OPERATIONS, Capability
from realtime.log import reads
from realtime.log.types import LogState
from realtime.models import (
    Act,
    ApiKey,
    Channel,
    Limit,
    LiveConnection,
    Log,
    Namespace,
    Revocation,
    SigningKey,
    default_known_operations,
)
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

LINK = "text-primary-600 dark:text-primary-500 underline"
"""How a link looks in the theme, where it has no style of its own for it."""

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


def actor_of(request: HttpRequest) -> str:
    """How the audit log names who is logged in."""
    return f"user:{request.user.get_username()}"


class Audited:
    """Writes every change of a row into the audit log, with the fields that were given."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)  # type: ignore[misc]  # of ModelAdmin, beside which it stands
        fields = {name: _plain(form.cleaned_data.get(name)) for name in form.changed_data}
        self._record(request, "change" if change else "make", obj, **fields)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self._record(request, "delete", obj)
        super().delete_model(request, obj)  # type: ignore[misc]  # as above

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for obj in queryset:
            self._record(request, "delete", obj)
        super().delete_queryset(request, queryset)  # type: ignore[misc]  # as above

    def _record(self, request: HttpRequest, verb: str, obj: Any, **details: object) -> None:
        desk.record(actor_of(request), f"{verb} {obj._meta.verbose_name}", str(obj), **details)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | str | list | dict) else str(value)


def may_operate(request: HttpRequest) -> bool:
    """Whether this operator may disconnect, block, publish and change logs."""
    return request.user.has_perm("realtime.operate")


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
        label="Operations of known clients",
        help_text="Granted to tokens without cap and to logged-in users.",
        initial=default_known_operations,
    )
    anonymous_ops = OperationsField(
        label="Operations of anonymous clients", help_text="Granted to clients without any credentials."
    )

    class Meta:
        model = Namespace
        fields = "__all__"  # noqa: DJ007  (an operator edits all of it, and new rules must not be forgotten here)


@admin.register(Namespace)
class NamespaceAdmin(Audited, ModelAdmin):  # type: ignore[misc]  # unfold ships no types
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
                "fields": ("window_default", "window_max", "ack_ms", "cursor_ms", "overflow", "delta", "presence"),
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
class ApiKeyAdmin(Audited, ModelAdmin):  # type: ignore[misc]  # unfold ships no types
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
        self._record(request, "make", obj, capability=obj.capability, key_id=obj.key_id)
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
            desk.revoke("key", row.key_id, actor=actor_of(request))
        text = f"{len(rows)} keys were revoked; nothing with them, or with tokens they issued, is served any more."
        self.message_user(request, text)


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


class StateFilter(admin.SimpleListFilter):
    """Open or closed."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open"), ("closed", "Closed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Channel]) -> QuerySet[Channel]:
        return queryset.filter(closed__isnull=self.value() == "open") if self.value() else queryset


@admin.register(Channel)
class ChannelAdmin(ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """Channels by prefix. Adding one is for namespaces whose channels only an operator creates; nothing is edited."""

    form = ChannelForm
    list_display = ("name", "namespace_id", "here", "head", "oldest", "last_time", "state", "messages", "operate")
    list_filter = (("namespace", NamespaceFilter), StateFilter)
    actions = ("close", "open_again", "new_epoch", "empty")
    list_select_related = ("log",)
    search_fields = ("name",)
    search_help_text = "The beginning of a name"
    show_full_result_count = False
    paginator = BoundedPaginator
    ordering = ("name",)

    _LOG_FIELDS: ClassVar = (
        "namespace_id",
        "state",
        "epoch",
        "head",
        "oldest",
        "last_time",
        "created",
        "ledger",
        "messages",
        "operate",
    )

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("name",) if obj is None else ("name", *self._LOG_FIELDS)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # A channel that comes again under its old name would begin at serial 1, before what subscribers have seen.
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        response = super().changelist_view(request, extra_context)
        shown = getattr(response, "context_data", {}).get("cl")
        if shown is not None:
            # One question to the workers for the whole page; the rows are kept by the list that is rendered.
            rows = list(shown.result_list)
            counts = live.occupancies([ChannelName(row.name) for row in rows])
            for row in rows:
                row.attached = counts[row.name]
            shown.result_list = rows
        return response

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
        desk.record(actor_of(request), "make channel", obj.name)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return may_operate(request)

    @admin.action(description="Close: nobody attaches or publishes", permissions=["operate"])
    def close(self, request: HttpRequest, queryset: QuerySet[Channel]) -> None:
        self._each(request, queryset, desk.close, "closed")

    @admin.action(description="Open again", permissions=["operate"])
    def open_again(self, request: HttpRequest, queryset: QuerySet[Channel]) -> None:
        self._each(request, queryset, desk.open_again, "open")

    @admin.action(description="New epoch, messages stay", permissions=["operate"])
    def new_epoch(self, request: HttpRequest, queryset: QuerySet[Channel]) -> None:
        self._each(request, queryset, desk.new_epoch, "in a new epoch")

    @admin.action(description="Delete all messages, a chunk at a time", permissions=["operate"])
    def empty(self, request: HttpRequest, queryset: QuerySet[Channel]) -> None:
        self._each(request, queryset, desk.empty, "empty")

    def _each(self, request: HttpRequest, queryset: QuerySet[Channel], act: Callable[..., object], became: str) -> None:
        done = 0
        for row in list(queryset[: AT_ONCE_MOST + 1]):
            if done == AT_ONCE_MOST:
                self.message_user(request, f"Only the first {AT_ONCE_MOST}; choose again.", messages.WARNING)
                break
            try:
                act(row.name, actor=actor_of(request))
            except ProtocolError as error:
                self.message_user(request, f"{row.name}: {error.message}", messages.ERROR)
            else:
                done += 1
        self.message_user(request, f"{done} channels are {became}; who follows them is told.")

    @admin.display(description="State")
    def state(self, obj: Channel) -> str:
        return "open" if obj.closed is None else f"closed since {_moment(int(obj.closed.timestamp() * 1000))[:-4]}"

    @admin.display(description="Ledger")
    def ledger(self, obj: Channel) -> str:
        found = live.books(ChannelName(obj.name))
        left_out = "".join(f" − {count} {reason}" for reason, count in sorted(found.left_out.items()))
        verdict = "balanced" if found.balanced else f"NOT balanced: {found.written} were written"
        silent = f" {', '.join(found.missing)} did not answer." if found.missing else ""
        return (
            f"Delivered {found.delivered} = {found.positions} by positions{left_out}: {verdict}."
            f" Attached {found.attached}, ended {found.ended}; {found.waiting} messages wait,"
            f" {found.unacked} are unacknowledged.{silent}"
        )

    @admin.display(description="Namespace", ordering="namespace_id")
    def namespace_id(self, obj: Channel) -> str:
        return obj.namespace_id or ""

    @admin.display(description="Attached")
    def here(self, obj: Channel) -> str:
        return str(getattr(obj, "attached", "–"))

    @admin.display(description="Act")
    def operate(self, obj: Channel) -> str:
        address = reverse(f"{self.admin_site.name}:realtime_channel_operate", args=[obj.pk])
        return format_html('<a class="{}" href="{}">Publish, close, prune …</a>', LINK, address)

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
        return format_html('<a class="{}" href="{}">Read</a>', LINK, address)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.messages_view)
        operate = self.admin_site.admin_view(self.operate_view)
        return [
            path("<int:pk>/messages/", view, name="realtime_channel_messages"),
            path("<int:pk>/operate/", operate, name="realtime_channel_operate"),
            *super().get_urls(),
        ]

    def operate_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Publishing to a channel, and what changes its log."""
        channel = self.get_queryset(request).filter(pk=pk).first()
        if channel is None:
            raise Http404
        if not may_operate(request):
            raise PermissionDenied
        if request.method == "POST":
            try:
                said = _operate(request, channel.name)
            except (ProtocolError, ValueError) as error:
                self.message_user(request, getattr(error, "message", str(error)), messages.ERROR)
            else:
                self.message_user(request, said)
            return HttpResponseRedirect(request.path)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Act on {channel.name}",
            "opts": self.opts,
            "channel": channel,
            "log": getattr(channel, "log", None),
            "books": live.books(ChannelName(channel.name)),
            "rate": _rate_of(ChannelName(channel.name)),
        }
        return TemplateResponse(request, "realtime/admin/operate.html", context)

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
            "rate": _rate(rows),
        }
        return TemplateResponse(request, "realtime/admin/messages.html", context)


def _rate_of(channel: ChannelName) -> str:
    """How fast the newest messages came."""
    page = reads.read_page(channel, after=None, before=None, since=None, order="desc", limit=HISTORY_PAGE)
    return _rate([_shown(json.loads(envelope)) for envelope in page.messages])


def _rate(rows: list[dict[str, Any]]) -> str:
    """How fast the messages of a page came."""
    if len(rows) < 2 or rows[0]["time"] <= rows[-1]["time"]:
        return ""
    per_s = (len(rows) - 1) * 1000 / (rows[0]["time"] - rows[-1]["time"])
    return f"These came at {per_s:.1f} a second" if per_s >= 0.1 else f"These came at {per_s * 3600:.1f} an hour"


def _operate(request: HttpRequest, channel: str) -> str:
    """Does what the form asks for; what to say of it. ValueError for a form that cannot be."""
    actor, act = actor_of(request), request.POST.get("act")
    if act == "publish":
        try:
            data = json.loads(request.POST.get("data", ""))
        except ValueError:
            raise ValueError("The data is no JSON. Text goes in double quotes.") from None
        receipt = desk.publish(channel, data, actor=actor, event=request.POST.get("event") or "message")
        return f"Published as #{receipt.serial}." if receipt.serial else "Published when this request has committed."
    if act == "prune":
        text = request.POST.get("upto", "")
        if not text.isascii() or not text.isdigit() or len(text) > 16:
            raise ValueError("Give the last serial to take.")
        desk.prune(channel, int(text), actor=actor)
        return f"Everything through #{text} is out of the log; the rows go a chunk at a time."
    reason = request.POST.get("reason", "")[:200]
    if act == "close":
        desk.close(channel, actor=actor, reason=reason)
        return "The channel is closed; who was attached is told, on all workers within two seconds."
    if act == "open":
        desk.open_again(channel, actor=actor, reason=reason)
        return "The channel is open; who wants it attaches again."
    if act == "new_epoch":
        return f"The log has the new epoch {desk.new_epoch(channel, actor=actor)}; all who follow are told."
    if act == "empty":
        return f"The log is empty and goes on in epoch {desk.empty(channel, actor=actor)}; rows go a chunk at a time."
    raise ValueError("Nothing was chosen.")


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


# ---------------------------------------------------------------- limits


@admin.register(Limit)
class LimitAdmin(Audited, ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """In force on all workers within two seconds; the strictest of all rows that concern somebody wins."""

    list_display = (
        "__str__",
        "connections",
        "attachments",
        "publish_rate",
        "publish_bytes",
        "channel_rate",
        "message_bytes",
        "members",
        "token_lifetime_s",
    )
    list_filter = ("scope",)
    search_fields = ("name",)
    show_full_result_count = False
    paginator = BoundedPaginator
    fieldsets = (
        (None, {"fields": ("scope", "name"), "description": "Whom the limit is for."}),
        (
            "Connections",
            {
                "fields": (
                    "connections",
                    "connections_per_address",
                    "connections_per_worker",
                    "attachments",
                    "token_lifetime_s",
                ),
                "description": "Counted on each worker. Who is connected already stays.",
            },
        ),
        (
            "Publishing",
            {
                "fields": ("publish_rate", "publish_bytes", "message_bytes"),
                "description": "By each client. Refused with the time after which there is room.",
            },
        ),
        (
            "Channels",
            {
                "fields": ("channel_rate", "channel_bytes", "members"),
                "description": "Of one channel, all clients together. For everybody, a namespace or a channel.",
            },
        ),
    )


# ---------------------------------------------------------------- signing keys


@admin.register(SigningKey)
class SigningKeyAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """Keys that are exchanged while all run: generate one, make it current, and the one before retires by itself."""

    list_display = ("kid", "algorithm", "state", "created", "retires")
    list_filter = ("state",)
    fields = ("kid", "algorithm", "state", "public_key", "created", "retires")
    readonly_fields = ("kid", "state", "public_key", "created", "retires")
    actions = ("make_current", "retire")

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("algorithm",) if obj is None else self.fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("realtime.add_signingkey")

    def has_rotate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("realtime.change_signingkey")

    def save_model(self, request: HttpRequest, obj: SigningKey, form: Any, change: bool) -> None:
        made = desk.generate_key(obj.algorithm, actor=actor_of(request))
        obj.__dict__.update(made.__dict__)

    @admin.action(description="Make current: tokens are signed with it", permissions=["rotate"])
    def make_current(self, request: HttpRequest, queryset: QuerySet[SigningKey]) -> None:
        rows = list(queryset[:2])
        if len(rows) != 1:
            self.message_user(request, "Choose one key: only one is current.", messages.ERROR)
            return
        try:
            desk.make_key_current(rows[0].kid, actor=actor_of(request))
        except ValueError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.message_user(request, f"Tokens are signed with {rows[0].kid} from now on.")

    @admin.action(description="Retire now: every token they signed is refused", permissions=["rotate"])
    def retire(self, request: HttpRequest, queryset: QuerySet[SigningKey]) -> None:
        for row in queryset:
            desk.retire_key(row.kid, actor=actor_of(request))
            self.message_user(request, f"{row.kid} is retired; connections that rest on it end.")


# ---------------------------------------------------------------- revocations and blocks


@admin.register(Revocation)
class RevocationAdmin(ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """What was taken back, and who is blocked. Deleting a row gives it back."""

    list_display = ("kind", "value", "at", "until", "by", "reason")
    list_filter = ("kind",)
    search_fields = ("value",)
    fields = ("kind", "value", "until", "reason")
    show_full_result_count = False
    paginator = BoundedPaginator

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Revocation, form: Any, change: bool) -> None:
        kind: Any = obj.kind  # the form and the database know no other
        if kind == "block":
            desk.block(obj.value, actor=actor_of(request), reason=obj.reason, until=obj.until)
        else:
            desk.revoke(kind, obj.value, actor=actor_of(request), reason=obj.reason, until=obj.until)
        obj.__dict__.update(Revocation.objects.get(kind=obj.kind, value=obj.value).__dict__)

    def delete_model(self, request: HttpRequest, obj: Revocation) -> None:
        desk.lift(obj.kind, obj.value, actor=actor_of(request))  # type: ignore[arg-type]  # the database checks it

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Revocation]) -> None:
        for obj in queryset:
            self.delete_model(request, obj)


# ---------------------------------------------------------------- audit log


class ActFilter(admin.SimpleListFilter):
    """Acts that there can be: looking for those that there are would read the whole log."""

    title = "act"
    parameter_name = "act"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(act, act) for act in sorted(desk.ACTS)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Act]) -> QuerySet[Act]:
        return queryset.filter(act=self.value()) if self.value() else queryset


class SinceFilter(admin.SimpleListFilter):
    """By time, through ids: those rise with it, and are the index that the list is read by."""

    title = "time"
    parameter_name = "since_h"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "The last hour"), ("24", "The last day"), ("168", "The last week")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Act]) -> QuerySet[Act]:
        hours = self.value()
        if not hours or not hours.isdigit():
            return queryset
        since = datetime.now(UTC) - timedelta(hours=min(int(hours), 24 * 366))
        first = Act.objects.filter(at__lt=since).order_by("-at").values_list("pk", flat=True).first()
        return queryset if first is None else queryset.filter(pk__gt=first)


@admin.register(Act)
class ActAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """Who did what. Nobody changes it here."""

    list_display = ("when", "actor", "act", "target", "details")
    fields = ("when", "actor", "act", "target", "details")
    list_filter = (ActFilter, SinceFilter)
    search_fields = ("actor",)
    search_help_text = "A whole actor (user:eve, key:backend, shell) or a whole target"
    show_full_result_count = False
    paginator = BoundedPaginator
    ordering = ("-pk",)

    @admin.display(description="At (UTC)")
    def when(self, obj: Act) -> str:
        return _moment(int(obj.at.timestamp() * 1000))[:19]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Act], search_term: str
    ) -> tuple[QuerySet[Act], bool]:
        """By index: who writes an actor as the log does means one, anything else is a target."""
        term = search_term.strip()
        if not term:
            return queryset, False
        is_actor = term == "shell" or term.startswith(("user:", "key:"))
        return queryset.filter(actor=term) if is_actor else queryset.filter(target=term), False


# ---------------------------------------------------------------- live connections


@admin.register(LiveConnection)
class LiveConnectionAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """Who is connected to the workers behind this address, asked at this moment."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("", view(self.list_view), name="realtime_liveconnection_changelist"),
            path("trace/", view(self.trace_view), name="realtime_liveconnection_trace"),
            path("announce/", view(self.announce_view), name="realtime_liveconnection_announce"),
            path("drain/", view(self.drain_view), name="realtime_liveconnection_drain"),
            path("<str:connection>/", view(self.one_view), name="realtime_liveconnection_change"),
        ]

    def _context(self, request: HttpRequest, title: str, **more: object) -> dict[str, Any]:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "may_operate": may_operate(request),
            **more,
        }

    def list_view(self, request: HttpRequest) -> HttpResponse:
        context = self._context(request, "Connections")
        client, channel = request.GET.get("client", "")[:128].strip(), request.GET.get("channel", "")[:200].strip()
        sort = "age" if request.GET.get("sort") == "age" else "waiting"
        found = live.connections(client=client, channel=channel, sort=sort, most=CONNECTIONS_PAGE)
        context |= {"found": found, "client": client, "channel": channel, "sort": sort}
        return TemplateResponse(request, "realtime/admin/connections.html", context)

    def one_view(self, request: HttpRequest, connection: str) -> HttpResponse:
        """One connection with its attachments; and, by POST, what is done to its client."""
        context = self._context(request, "Connection")
        found = live.connection(connection)
        if request.method == "POST":
            return self._act(request, found, connection)
        context |= {"found": found, "id": connection}
        return TemplateResponse(request, "realtime/admin/connection.html", context, status=200 if found else 404)

    def _act(self, request: HttpRequest, found: dict[str, Any] | None, connection: str) -> HttpResponse:
        if not may_operate(request):
            raise PermissionDenied
        # It may be gone by now: the page says whose it was.
        client = found["client"] if found is not None else request.POST.get("client", "")
        act, reason = request.POST.get("act"), request.POST.get("reason", "")[:100]
        if not is_client_id(client) or act not in ("disconnect", "block"):
            self.message_user(request, "There is no such connection.", messages.ERROR)
        elif act == "block":
            desk.block(client, actor=actor_of(request), reason=reason)
            self.message_user(request, f"{client} is blocked and disconnected.")
        else:
            count = desk.disconnect(client, actor=actor_of(request), reason=reason)
            self.message_user(request, f"{client} is disconnected; it had {count} connections here.")
        return HttpResponseRedirect(reverse(f"{self.admin_site.name}:realtime_liveconnection_changelist"))

    def announce_view(self, request: HttpRequest) -> HttpResponse:
        """Something to say to everybody: written, looked at, and only then sent."""
        context = self._context(request, "Announce to all")
        if not may_operate(request):
            raise PermissionDenied
        text = request.POST.get("text", "").strip()
        if request.method == "POST" and request.POST.get("act") == "announce":
            try:
                count = desk.announce(text, actor=actor_of(request))
            except ValueError as error:
                self.message_user(request, str(error), messages.ERROR)
            else:
                self.message_user(request, f"Announced to {count} connections here, and to those of all other workers.")
                return self._front()
        context |= {
            "text": text,
            "most": desk.ANNOUNCEMENT_MOST_CHARS,
            "confirm": request.POST.get("act") == "look" and 0 < len(text) <= desk.ANNOUNCEMENT_MOST_CHARS,
            "connections": sum(each.connections for each in live.workers()),
        }
        return TemplateResponse(request, "realtime/admin/announce.html", context)

    def drain_view(self, request: HttpRequest) -> HttpResponse:
        """Which worker is to go, and what that means, before it does."""
        context = self._context(request, "Drain a worker")
        if not may_operate(request):
            raise PermissionDenied
        if request.method == "POST":
            try:
                drained = desk.drain(request.POST.get("worker", ""), actor=actor_of(request))
            except ValueError as error:
                self.message_user(request, str(error), messages.ERROR)
                return HttpResponseRedirect(request.path)
            said = f"{drained.name} drains: its {drained.connections} connections move to the others."
            self.message_user(request, f"{said} Another is started in its place.")
            return self._front()
        found = live.workers()
        context |= {
            "workers": found,
            "chosen": request.GET.get("worker", ""),
            "possible": sum(not each.draining for each in found) > 1 and any(each.replaceable for each in found),
        }
        return TemplateResponse(request, "realtime/admin/drain.html", context)

    def _front(self) -> HttpResponse:
        return HttpResponseRedirect(reverse(f"{self.admin_site.name}:index"))

    def trace_view(self, request: HttpRequest) -> HttpResponse:
        context = self._context(request, "Trace a message")
        context |= traced(request)
        return TemplateResponse(request, "realtime/admin/trace.html", context)


CONNECTIONS_PAGE = 100
AT_ONCE_MOST = 200


def traced(request: HttpRequest) -> dict[str, Any]:
    """What the form for tracing asks for, found or not."""
    text = request.GET.get("message", "")[:220].strip()
    if not text:
        return {"asked": ""}
    try:
        found = overview.trace(text)
    except ProtocolError as error:
        return {"asked": text, "trace_error": error.message}
    return {"asked": text, "trace": found, "trace_when": _moment(found.message["time"])}


# ---------------------------------------------------------------- front page


def front(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """For the project's `UNFOLD["DASHBOARD_CALLBACK"]`: what the front page says, to who may view the platform."""
    if not request.user.has_perm("realtime.view_liveconnection"):
        return context
    found = overview.figures()
    told = overview.problems(found)
    busiest = live.busiest(8)
    states = reads.read_states([ChannelName(name) for name, _ in busiest])
    return {
        **context,
        "front": True,
        "may_operate": may_operate(request),
        "drainable": len(found.workers) > 1 and any(each.get("replaceable") for each in found.workers),
        "figures": found,
        "problems": [
            {
                "title": each.title,
                "text": each.text,
                "bad": each.weight >= 50,
                "url": each.where and _address(each.where),
            }
            for each in told
        ],
        "verdict": overview.verdict(told),
        "busiest": [_busy(ChannelName(name), count, states[ChannelName(name)]) for name, count in busiest],
        "acts": list(Act.objects.all()[:6]) if request.user.has_perm("realtime.view_act") else [],
        **(traced(request) if request.GET.get("message") else {}),
    }


def _busy(name: ChannelName, count: int, state: LogState) -> tuple[str, int, LogState, str, str]:
    rules = rules_named(namespace_of(name))
    return name, count, state, "–" if rules is None else rules.overflow, _moment(state.last_time)[:19]


def _address(name: str) -> str:
    return reverse(f"admin:{name}")


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """For `UNFOLD["SIDEBAR"]["navigation"]`: the desk in the order of its use, for what this operator may see."""

    def item(title: str, icon: str, name: str, permission: str = "") -> dict[str, Any] | None:
        if permission and not request.user.has_perm(permission):
            return None
        return {"title": title, "icon": icon, "link": reverse(f"admin:{name}")}

    def model(title: str, icon: str, name: str) -> dict[str, Any] | None:
        return item(title, icon, f"realtime_{name}_changelist", f"realtime.view_{name}")

    groups: list[tuple[str, list[dict[str, Any] | None]]] = [
        ("", [item("Now", "home", "index")]),
        (
            "Traffic",
            [
                model("Channels", "tag", "channel"),
                model("Connections", "group", "liveconnection"),
                item("Trace a message", "search", "realtime_liveconnection_trace", "realtime.view_liveconnection"),
            ],
        ),
        (
            "Rules",
            [
                model("Namespaces", "rule", "namespace"),
                model("Limits", "speed", "limit"),
                model("Revocations and blocks", "block", "revocation"),
            ],
        ),
        (
            "Access",
            [
                model("API keys", "key", "apikey"),
                model("Signing keys", "signature", "signingkey"),
                item("Users", "person", "auth_user_changelist", "auth.view_user"),
                item("Groups", "groups", "auth_group_changelist", "auth.view_group"),
            ],
        ),
        ("Record", [model("Audit log", "history", "act")]),
    ]
    shown = [(title, [each for each in items if each is not None]) for title, items in groups]
    # What other applications have registered stands behind it, as the theme lists it.
    return [{"title": title, "separator": bool(title), "items": items} for title, items in shown if items]
