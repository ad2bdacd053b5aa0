"""The operator's desk: what can be edited holds at once, what must not be edited cannot."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from realtime import namespaces, tokens
from realtime.admin import COUNT_MOST, BoundedPaginator
from realtime.log.rounds import run_round_now
from realtime.log.types import Append
from realtime.models import ApiKey, Channel, Log, Namespace
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import NewMessage
from realtime.protocol.names import parse_channel

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fresh_caches() -> None:
    namespaces.reset()
    tokens.reset_caches()


@pytest.fixture
def desk() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root", password="one"))
    return client


def fill(channel: str, count: int, data: str = "1") -> Channel:
    messages = [NewMessage(f"m{i}", "message", "k" if i == 0 else None, data) for i in range(count)]
    run_round_now([Append(parse_channel(channel), "ana", messages)])
    return Channel.objects.get(name=channel)


def url(model: str, page: str = "changelist", *args: Any) -> str:
    return reverse(f"admin:realtime_{model}_{page}", args=args)


def text_of(response: Any) -> str:
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


# ---------------------------------------------------------------- namespaces


def form(**changes: Any) -> dict[str, Any]:
    return {
        "name": "club",
        "create": "publish",
        "known_ops": ["subscribe"],
        "window_default": 256,
        "window_max": 1024,
        "ack_ms": 10_000,
        "cursor_ms": 500,
        "key_limit": 1000,
        "overflow": "hold",
        "presence": "on",
        **changes,
    }


def test_a_namespace_is_made_and_changed_and_holds_at_once(desk: Client) -> None:
    page = text_of(desk.get(url("namespace", "add")))
    for group in ("Access", "Retention", "Delivery", "Publishing"):
        assert group in page
    assert desk.post(url("namespace", "add"), form()).status_code == 302
    assert namespaces.rules_for(parse_channel("club:x")).known_ops == {"subscribe"}
    changed = form(known_ops=["publish", "history"], retention_messages=5)
    assert desk.post(url("namespace", "change", "club"), changed).status_code == 302
    rules = namespaces.rules_for(parse_channel("club:x"))
    assert rules.known_ops == {"publish", "history"} and rules.retention_messages == 5
    assert "5 messages" in text_of(desk.get(url("namespace")))


def test_every_field_of_a_namespace_is_on_the_form(desk: Client) -> None:
    page = text_of(desk.get(url("namespace", "add")))
    for field in Namespace._meta.get_fields():
        if getattr(field, "editable", False):
            assert f'name="{field.name}"' in page, field.name


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"window_default": 2000},
        {"ack_ms": 5},
        {"cursor_ms": 5},
        {"retention_messages": 0},
        {"known_ops": ["fly"]},
    ],
)
def test_rules_that_cannot_be_are_refused_in_the_form(desk: Client, wrong: dict[str, Any]) -> None:
    response = desk.post(url("namespace", "add"), form(**wrong))
    assert response.status_code == 200 and not Namespace.objects.filter(name="club").exists()


def test_the_name_of_a_namespace_cannot_be_changed(desk: Client) -> None:
    Namespace.objects.create(name="club")
    desk.post(url("namespace", "change", "club"), form(name="other"))
    assert not Namespace.objects.filter(name="other").exists()


# ---------------------------------------------------------------- API keys


def test_a_key_is_shown_once_and_its_hash_never(desk: Client) -> None:
    response = desk.post(url("apikey", "add"), {"name": "backend", "capability": '{"x":["publish"]}'})
    page = text_of(response)
    shown = re.search(r"ser_[a-z0-9]+_[\w-]+", page)
    assert shown is not None and "no-store" in response.headers["Cache-Control"]
    identity = tokens.verify_api_key(shown.group(), time.time())
    assert identity.capability is not None and identity.capability.operations("x") == {"publish"}
    row = ApiKey.objects.get()
    for again in (desk.get(url("apikey")), desk.get(url("apikey", "change", row.pk))):
        page = text_of(again)
        assert shown.group() not in page and row.secret_hash not in page
        assert row.key_id in page


@pytest.mark.parametrize(
    "wrong", [{"name": "a b"}, {"name": "zoë"}, {"capability": "[]"}, {"capability": '{"*":"x"}'}, {"capability": "{"}]
)
def test_a_key_that_cannot_be_is_refused_in_the_form(desk: Client, wrong: dict[str, str]) -> None:
    response = desk.post(url("apikey", "add"), {"name": "backend", "capability": "{}", **wrong})
    assert response.status_code == 200 and not ApiKey.objects.exists()


def test_a_key_is_narrowed_and_keeps_its_name(desk: Client) -> None:
    row, text = tokens.create_api_key("backend")
    desk.post(url("apikey", "change", row.pk), {"name": "other", "capability": '{"x":["history"]}'})
    identity = tokens.verify_api_key(text, time.time())
    assert identity.client == "backend"
    assert identity.capability is not None and identity.capability.operations("x") == {"history"}


def test_keys_are_revoked_by_an_action(desk: Client) -> None:
    row, text = tokens.create_api_key("backend")
    tokens.verify_api_key(text, time.time())
    desk.post(url("apikey"), {"action": "revoke", "_selected_action": [row.pk]})
    with pytest.raises(ProtocolError, match="revoked"):
        tokens.verify_api_key(text, time.time())
    assert "revoked" in text_of(desk.get(url("apikey")))


# ---------------------------------------------------------------- channels and logs


def test_channels_are_listed_with_their_logs_without_a_query_each(
    desk: Client, django_assert_max_num_queries: Any
) -> None:
    for i in range(3):
        fill(f"room-{i}", 2)
    Channel.objects.create(name="empty", namespace_id="default")
    desk.get(url("channel"))
    with django_assert_max_num_queries(12):
        page = text_of(desk.get(url("channel")))
    for i in range(20):
        fill(f"more-{i}", 1)
    with django_assert_max_num_queries(12):
        desk.get(url("channel"))
    assert "room-0" in page and "empty" in page


def test_channels_are_found_by_prefix(desk: Client) -> None:
    for name in ("room-1", "room-2", "ROOM-3", "a-room", "room"):
        fill(name, 1)
    page = text_of(desk.get(url("channel"), {"q": "room-"}))
    found = [name for name in ("room-1", "room-2", "ROOM-3", "a-room") if f">{name}<" in page]
    assert found == ["room-1", "room-2"]


def test_the_history_of_a_channel_is_read_in_pages(desk: Client) -> None:
    channel = fill("room", 120, '{"text":"<script>alert(1)</script>"}')
    first = text_of(desk.get(url("channel", "messages", channel.pk)))
    assert "serials 1 to 120" in first and "<script>alert" not in first and "&lt;script&gt;" in first
    older = re.search(r"\?before=(\d+)", first)
    assert older is not None and older.group(1) == "71"
    last = text_of(desk.get(url("channel", "messages", channel.pk), {"before": "21"}))
    assert "Older" not in last and "Newest" in last
    for wrong in ("x", "-1", "٣", "9" * 30):
        assert desk.get(url("channel", "messages", channel.pk), {"before": wrong}).status_code == 200
    assert desk.get(url("channel", "messages", 10**9)).status_code == 404


def test_an_operator_creates_a_channel_but_edits_and_deletes_none(desk: Client) -> None:
    Namespace.objects.create(name="made", create="operator")
    assert desk.post(url("channel", "add"), {"name": "made:x"}).status_code == 302
    channel = Channel.objects.get(name="made:x")
    assert channel.namespace_id == "made"
    for name in ("made:x", "nobody:x", "a b", "$control"):
        assert desk.post(url("channel", "add"), {"name": name}).status_code == 200
    text_of(desk.get(url("channel", "change", channel.pk)))
    assert desk.post(url("channel", "change", channel.pk), {"name": "made:y"}).status_code == 403
    assert desk.post(url("channel", "delete", channel.pk), {"post": "yes"}).status_code == 403


def test_logs_are_read_only(desk: Client) -> None:
    channel = fill("room", 3)
    page = text_of(desk.get(url("log")))
    assert "room" in page
    text_of(desk.get(url("log", "change", channel.pk)))
    assert desk.post(url("log", "change", channel.pk), {"head": 0}).status_code == 403
    assert desk.get(url("log", "add")).status_code == 403
    assert desk.post(url("log", "delete", channel.pk), {"post": "yes"}).status_code == 403
    assert Log.objects.get(pk=channel.pk).head == 3


def test_staff_without_permission_reads_no_messages() -> None:
    channel = fill("room", 1)
    staff = get_user_model().objects.create_user("staff", password="one", is_staff=True)
    client = Client()
    client.force_login(staff)
    assert client.get(url("channel", "messages", channel.pk)).status_code == 403
    staff.user_permissions.add(Permission.objects.get(codename="view_channel"))
    client.force_login(get_user_model().objects.get(pk=staff.pk))
    assert client.get(url("channel", "messages", channel.pk)).status_code == 200
    assert Client().get(url("channel", "messages", channel.pk)).status_code == 302


def test_counting_is_bounded(django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        Channel.objects.create(name=f"c{i}", namespace_id="default")
    assert BoundedPaginator(Channel.objects.order_by("name"), 2).count == 4
    monkeypatch.setattr("realtime.admin.COUNT_MOST", 3)
    assert COUNT_MOST == 10_000
    assert BoundedPaginator(Channel.objects.order_by("name"), 2).count == 3
