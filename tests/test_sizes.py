"""The lists of the desk and of REST at size: how many queries each takes does not depend on how much there is.

Rows are made by SQL, as many as are asked for; so are the answers of two workers with so many connections.
`-m slow -s` does it with a million messages and says how long each list took; tests/e2e/test_many_connections.py has
real sockets.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from realtime import closings, limits, live, namespaces, revocations, signing, tokens
from realtime.api import authentication
from realtime.models import Act, ApiKey, Limit, Log, Namespace, PresenceLease, Present, Revocation, SigningKey
from realtime.models import Channel as ChannelRow

pytestmark = pytest.mark.django_db

BIG = "big:0"
"""The channel that has half of all messages; the others share the rest."""


@dataclass(frozen=True)
class Size:
    """How much there is."""

    channels: int
    messages: int
    connections: int
    others: int
    """Rows of each other table that an operator sees."""


def fill(size: Size) -> None:
    """Adds what is missing to that size."""
    space = Namespace.objects.get(name="big")
    have = ChannelRow.objects.count()
    ChannelRow.objects.bulk_create(
        [ChannelRow(name=f"big:{number}", namespace=space) for number in range(have, size.channels)], batch_size=1000
    )
    Log.objects.bulk_create(
        [Log(channel=each, epoch="abcd") for each in ChannelRow.objects.filter(log__isnull=True)], batch_size=1000
    )
    first = ChannelRow.objects.get(name=BIG).pk
    each = max(1, size.messages // 2 // size.channels)
    for condition, count in ((f"id = {first}", size.messages // 2), (f"id <> {first}", each)):
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                INSERT INTO realtime_message (channel_id, serial, client, mid, "key", "time", envelope)
                WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
                SELECT realtime_channel.id, n.i, 'ana', 'm' || n.i, NULL, 1700000000000 + n.i,
                    '{{"type":"message","channel":"' || realtime_channel.name || '","serial":' || n.i
                    || ',"id":"m' || n.i || '","time":1700000000000,"client":"ana","event":"message",'
                    || '"data":"some text of a message"}}'
                FROM realtime_channel CROSS JOIN n
                WHERE {condition} AND n.i > (SELECT head FROM realtime_log WHERE channel_id = realtime_channel.id)
                """
            )
            cursor.execute(
                f"UPDATE realtime_log SET head = {count}, last_time = 1700000000000"
                f" WHERE channel_id IN (SELECT id FROM realtime_channel WHERE {condition})"
            )
            if connection.vendor == "postgresql":
                cursor.execute("ANALYZE")
    numbers = range(Act.objects.count(), size.others)
    Act.objects.bulk_create([Act(actor=f"user:{n % 7}", act="block", target=f"c{n}") for n in numbers], batch_size=900)
    ApiKey.objects.bulk_create(
        [
            ApiKey(key_id=f"key{n}", name=f"key{n}", secret_hash=secrets.token_hex(32), capability={"*": ["*"]})
            for n in numbers
        ],
        batch_size=900,
    )
    Limit.objects.bulk_create([Limit(scope="client", name=f"c{n}", attachments=5) for n in numbers], batch_size=900)
    Revocation.objects.bulk_create([Revocation(kind="client", value=f"c{n}") for n in numbers], batch_size=900)
    SigningKey.objects.bulk_create(
        [SigningKey(kid=f"k{n}", algorithm="EdDSA", state="retired", public_key="x") for n in numbers], batch_size=900
    )
    PresenceLease.objects.get_or_create(worker="w", defaults={"until": 2**50})
    Present.objects.bulk_create(
        [
            Present(channel=BIG, client=f"c{n}", worker="w", connections=1, data="{}", at=1, since=1, stamp=n)
            for n in numbers
        ],
        batch_size=900,
    )


def two_workers(count: int) -> Any:
    """What two workers with so many connections together answer, cut as theirs are."""

    def row(number: int) -> dict[str, Any]:
        return {
            "id": f"x{number}", "client": f"c{number}", "kind": "token", "transport": "websocket", "attachments": 3,
            "sent": number, "buffered": 0, "waiting": number % 50, "unacked": 1, "age_s": number / 7, "silent_s": 1.0,
        }  # fmt: skip

    def ask(question: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        found: dict[str, Any] = {}
        for worker in range(2):
            match question["ask"]:
                case "connections":
                    rows = [row(number) for number in range(worker, count, 2)]
                    found[f"w{worker}"] = {"total": len(rows), "rows": rows[: question["most"]]}
                case "occupancies":
                    found[f"w{worker}"] = dict.fromkeys(question["channels"], 1)
                case "busiest":
                    found[f"w{worker}"] = [(f"big:{number}", 9) for number in range(question["most"])]
        return found, []

    return ask


def lists() -> list[str]:
    """The address of every list of the desk, with searches and filters, and of every list of REST."""
    found = ["/admin/"]
    for model in admin.site._registry:
        found.append(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"))
    channels, connections_ = "/admin/realtime/channel/", "/admin/realtime/liveconnection/"
    big = ChannelRow.objects.get(name=BIG).pk
    found += [f"{channels}?q=big:1", f"{channels}?p=2", f"{connections_}?client=c1&sort=age", f"{channels}?o=-1"]
    history = reverse("admin:realtime_channel_messages", args=[big])
    found += [
        history,
        "/admin/realtime/act/?q=c1",
        "/admin/realtime/log/?p=1",
        f"/admin/realtime/channel/{big}/change/",
    ]
    found += [
        "/api/v1/channels?limit=100",
        "/api/v1/channels?limit=1000&prefix=big:1",
        f"/api/v1/channels/{BIG}/messages?limit=100",
        f"/api/v1/channels/{BIG}/messages?after=10&limit=100",
        f"/api/v1/channels/{BIG}/messages?since=1700000000010",
        f"/api/v1/channels/{BIG}/presence?limit=100",
        f"/api/v1/channels/{BIG}",
        "/api/v1/audit?limit=100",
        "/api/v1/audit?actor=user:3&limit=100",
    ]
    return found


class Desk:
    """An operator who looks at everything, and counts."""

    def __init__(self) -> None:
        self.client = Client()
        self.client.force_login(get_user_model().objects.create_superuser("root", password="one"))
        self.seen: set[str] = set()
        self.key = tokens.create_api_key("desk", {"*": ["*"]})[1]

    def look(self, address: str) -> tuple[int, float]:
        """The queries of one list, and how long it took."""
        headers = {"authorization": f"Bearer {self.key}"} if address.startswith("/api") else {}
        if address not in self.seen:
            self.client.get(address, headers=headers)  # what is remembered from now on is not asked again
            self.seen.add(address)
        with CaptureQueriesContext(connection) as queries:
            began = time.perf_counter()
            answer = self.client.get(address, headers=headers)
            took_s = time.perf_counter() - began
        assert answer.status_code == 200, (address, answer.status_code)
        return len(queries), took_s


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    namespaces.reset()
    tokens.reset_caches()
    Namespace.objects.create(name="big", presence=True)
    for module in (limits, revocations, signing, namespaces, closings):
        loaded = module.mirror.load()
        # A worker reads these rows each second; here nobody asks for them, however long a look takes.
        monkeypatch.setattr(module.mirror, "load", lambda loaded=loaded: loaded)
    found = Desk()
    identity = tokens.verify_api_key(found.key, time.time())
    monkeypatch.setattr(authentication, "verify_api_key", lambda *_: identity)
    return found


QUERIES_MOST = 25
"""Of one list: session, user, permissions, its rows, and what goes with the rows of a page."""


BRANCHES_MOST = 2
"""Queries that a list takes only where it is not empty, or has another page. One for each row would be ten more."""


def grown(desk: Desk, monkeypatch: pytest.MonkeyPatch, small: Size, large: Size, *, say: bool = False) -> None:
    """No list takes more queries at the larger size than at the smaller."""
    found: dict[str, list[int]] = {}
    for size in (small, large):
        fill(size)
        monkeypatch.setattr(live, "_ask", two_workers(size.connections))
        for address in lists():
            count, took_s = desk.look(address)
            found.setdefault(address, []).append(count)
            if say and size is large:
                print(f"{took_s * 1000:8.1f} ms {count:3} queries  {address}")
    more = {address: counts for address, counts in found.items() if counts[1] > counts[0] + BRANCHES_MOST}
    assert not more, more
    many = {address: counts for address, counts in found.items() if max(counts) > QUERIES_MOST}
    assert not many, many


@pytest.mark.sqlite
def test_no_list_takes_more_queries_when_there_is_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller size fills a part of a page, the larger one more than a page, which is a short one here."""
    for each in admin.site._registry.values():
        monkeypatch.setattr(each, "list_per_page", 15)
    grown(desk, monkeypatch, Size(4, 40, 4, 4), Size(25, 200, 25, 25))


@pytest.mark.slow
def test_the_same_with_a_million_messages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """With -s it says how long each list took."""
    grown(desk, monkeypatch, Size(12, 60, 12, 12), Size(10_000, 1_000_000, 2000, 2000), say=True)
