"""The desk as its groups see it: who may do what, what stands in the audit log, and how many queries a page costs."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from realtime import (
    closings,
    control,
    desk,
    limits,
    live,
    namespaces,
    overview,
    revocations,
    signing,
    tokens,
    worker,
)
from realtime.groups import GROUPS, make_groups
from realtime.metrics import siblings
from realtime.metrics.reading import Reading
from realtime.models import Act, ApiKey, Channel, Limit, Log, Namespace, Outbox, Revocation, SigningKey
from tests.balancers import ROOT
from tests.conversation import Peer, connected, in_thread, stop_worker, token
from tests.test_admin import fill, form, text_of, url

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    closings.mirror.reset()
    tokens.reset_caches()
    yield
    namespaces.reset()
    closings.mirror.reset()
    tokens.reset_caches()


@pytest_asyncio.fixture
async def one_worker() -> AsyncIterator[None]:
    yield
    await stop_worker()


def person(group: str) -> Client:
    user = get_user_model().objects.create_user(f"the-{group}", password="one", is_staff=True)
    user.groups.add(Group.objects.get(name=group))
    browser = Client()
    browser.force_login(user)
    return browser


CONNECTIONS = "admin:realtime_liveconnection_changelist"
FRONT = "admin:index"
LISTS = ("namespace", "channel", "log", "limit", "apikey", "signingkey", "revocation", "act", "liveconnection")


def test_the_groups_are_made_once_and_stay_as_they_were_changed() -> None:
    assert set(Group.objects.values_list("name", flat=True)) == set(GROUPS)
    names = {group.name: set(group.permissions.values_list("codename", flat=True)) for group in Group.objects.all()}
    assert names["viewer"] < names["operator"] < names["owner"]
    assert all(name.startswith("view_") for name in names["viewer"])
    assert names["operator"] - names["viewer"] == {"operate", "add_revocation", "delete_revocation"}
    Group.objects.get(name="viewer").permissions.clear()
    make_groups()
    assert Group.objects.get(name="viewer").permissions.count() == 0


def test_a_viewer_sees_everything_and_does_nothing() -> None:
    viewer, channel = person("viewer"), fill("room", 3)
    before = list(Channel.objects.values()) + list(Log.objects.values())
    for model in LISTS:
        assert viewer.get(url(model)).status_code == 200, model
    assert viewer.get(reverse(FRONT)).status_code == 200
    assert viewer.get(url("channel", "messages", channel.pk)).status_code == 200
    for model in LISTS[:-1]:
        assert viewer.get(url(model, "add")).status_code == 403, model
    assert viewer.post(url("namespace", "add"), form()).status_code == 403
    assert viewer.post(url("limit", "add"), {"scope": "client", "name": "ana"}).status_code == 403
    assert viewer.post(url("apikey", "add"), {"name": "x", "capability": "{}"}).status_code == 403
    assert viewer.post(url("revocation", "add"), {"kind": "block", "value": "ana"}).status_code == 403
    operate = url("channel", "operate", channel.pk)
    assert viewer.get(operate).status_code == 403
    assert viewer.post(operate, {"act": "empty"}).status_code == 403
    one = url("liveconnection", "change", "c_x")
    assert viewer.post(one, {"client": "ana", "act": "block"}).status_code == 403
    assert not Act.objects.exists() and not Revocation.objects.exists() and not Limit.objects.exists()
    assert list(Channel.objects.values()) + list(Log.objects.values()) == before


def test_an_operator_acts_but_makes_no_rules() -> None:
    operator, channel = person("operator"), fill("room", 3)
    assert operator.post(url("namespace", "add"), form()).status_code == 403
    assert operator.post(url("limit", "add"), {"scope": "client", "name": "ana"}).status_code == 403
    assert operator.post(url("apikey", "add"), {"name": "x", "capability": "{}"}).status_code == 403
    assert operator.get(url("signingkey", "add")).status_code == 403
    operate = url("channel", "operate", channel.pk)
    assert "serials 1 to 3" in text_of(operator.get(operate))
    for body in ({"act": "publish", "data": '{"a":1}', "event": "x"}, {"act": "prune", "upto": "2"},
                 {"act": "new_epoch"}, {"act": "empty"}):  # fmt: skip
        assert operator.post(operate, body).status_code == 302
    log = Log.objects.get(channel=channel)
    assert (log.oldest, log.head) == (5, 4)
    acts = [(act.actor, act.act, act.target) for act in Act.objects.order_by("pk")]
    assert acts == [
        ("user:the-operator", each, "room") for each in ("publish", "prune channel", "new epoch", "empty channel")
    ]
    for body in ({"act": "publish", "data": "{"}, {"act": "prune", "upto": "x"}, {"act": "prune"}, {"act": "fly"}):
        page = text_of(operator.post(operate, body, follow=True))
        assert "no JSON" in page or "last serial" in page or "Nothing was chosen" in page
    assert Act.objects.count() == 4


def test_channels_are_closed_opened_emptied_and_given_an_epoch_on_their_pages() -> None:
    operator, viewer, channel, other = person("operator"), person("viewer"), fill("room", 3), fill("other", 2)
    operate, many = url("channel", "operate", channel.pk), url("channel")
    assert viewer.post(operate, {"act": "close"}).status_code == 403
    viewer.post(many, {"action": "close", "_selected_action": [channel.pk]})
    assert not Channel.objects.filter(closed__isnull=False).exists() and not Act.objects.exists()
    operator.post(operate, {"act": "close", "reason": "flood"})
    page = text_of(operator.get(operate))
    assert "Closed since" in page and "Open room again" in page
    assert "closed since" in text_of(viewer.get(url("channel", "change", channel.pk)))
    assert ">other<" not in text_of(operator.get(f"{many}?state=closed"))
    assert "is closed" in text_of(operator.post(operate, {"act": "publish", "data": "1"}, follow=True))
    operator.post(operate, {"act": "open"})
    epochs = dict(Log.objects.values_list("channel", "epoch"))
    chosen = {"_selected_action": [channel.pk, other.pk]}
    for action in ("close", "open_again", "new_epoch", "empty"):
        assert "2 channels are" in text_of(operator.post(many, {"action": action, **chosen}, follow=True))
    assert not Channel.objects.filter(closed__isnull=False).exists()
    for log in Log.objects.all():
        assert log.epoch != epochs[log.channel_id] and log.oldest == log.head + 1
    acts = list(Act.objects.order_by("pk").values_list("act", "target"))
    assert acts[:2] == [("close channel", "room"), ("open channel", "room")]
    assert sorted(acts[2:]) == sorted(
        (act, name)
        for act in ("close channel", "open channel", "new epoch", "empty channel")
        for name in ("room", "other")
    )


def test_the_audit_log_is_filtered_by_act_time_actor_and_target() -> None:
    viewer = person("viewer")
    Act.objects.create(actor="key:ops", act="publish", target="room", at=datetime(2020, 1, 1, tzinfo=UTC))
    for number in range(3):
        Act.objects.create(actor="user:eve", act="block", target=f"c{number}")

    def shown(query: str) -> set[str]:
        return set(re.findall(r"field-target[^>]*>([^<]+)<", text_of(viewer.get(f"{url('act')}?{query}"))))

    assert shown("") == {"c0", "c1", "c2", "room"}
    assert shown("act=publish") == {"room"}
    assert shown("q=user:eve") == {"c0", "c1", "c2"} and shown("q=c1") == {"c1"} and shown("q=eve") == set()
    assert shown("since_h=24") == {"c0", "c1", "c2"} and shown("since_h=x") == {"c0", "c1", "c2", "room"}


def test_blocks_are_made_and_lifted_on_their_page() -> None:
    operator = person("operator")
    operator.post(url("revocation", "add"), {"kind": "block", "value": "mallory", "reason": "abuse"})
    assert revocations.is_blocked("mallory", 0)
    row = Revocation.objects.get()
    assert row.by == "user:the-operator" and row.until is None
    operator.post(url("revocation", "delete", row.pk), {"post": "yes"})
    assert not revocations.is_blocked("mallory", 0)
    operator.post(url("revocation", "add"), {"kind": "jti", "value": "abc"})
    assert Revocation.objects.get().until is not None
    assert [act.act for act in Act.objects.order_by("pk")] == ["block", "unblock", "revoke jti"]


def test_an_owner_makes_rules_limits_and_keys_which_hold_at_once_and_are_recorded_without_secrets() -> None:
    owner = person("owner")
    assert owner.post(url("namespace", "add"), form()).status_code == 302
    limit = {"scope": "client", "name": "ana", "publish_rate": "5"}
    assert owner.post(url("limit", "add"), limit).status_code == 302
    assert limits.of("ana").rates[0].messages_per_s == 5
    row = Limit.objects.get()
    assert owner.post(url("limit", "change", row.pk), {**limit, "publish_rate": "7"}).status_code == 302
    assert limits.of("ana").rates[0].messages_per_s == 7
    page = text_of(owner.post(url("apikey", "add"), {"name": "backend", "capability": '{"x":["publish"]}'}))
    shown = re.search(r"ser_[a-z0-9]+_([\w-]+)", page)
    assert shown is not None
    assert owner.post(url("signingkey", "add"), {"algorithm": "EdDSA"}).status_code == 302
    key = SigningKey.objects.get()
    owner.post(url("signingkey"), {"action": "make_current", "_selected_action": [key.pk]})
    key.refresh_from_db()
    assert key.state == "new", "it is too young"
    SigningKey.objects.update(created=key.created.replace(year=2020))
    owner.post(url("signingkey"), {"action": "make_current", "_selected_action": [key.pk]})
    assert signing.known()[1] == key.kid
    assert "PRIVATE" not in text_of(owner.get(url("signingkey", "change", key.pk)))
    assert owner.post(url("limit", "delete", row.pk), {"post": "yes"}).status_code == 302
    acts = list(Act.objects.order_by("pk"))
    assert [act.act for act in acts] == [
        "make namespace", "make limit", "change limit", "make API key", "generate signing key",
        "make signing key current", "delete limit",
    ]  # fmt: skip
    assert {act.actor for act in acts} == {"user:the-owner"}
    assert acts[2].details == {"publish_rate": 7}
    assert shown.group(1) not in str([act.details for act in acts])


@pytest.mark.parametrize("wrong", [{"scope": "client", "name": ""}, {"scope": "global", "name": "x"},
                                   {"scope": "global", "publish_rate": "0"}])  # fmt: skip
def test_a_limit_that_makes_no_sense_is_refused_in_the_form(wrong: dict[str, str]) -> None:
    response = person("owner").post(url("limit", "add"), wrong)
    assert response.status_code == 200 and not Limit.objects.exists()


def test_keys_that_are_revoked_in_the_admin_take_their_tokens_along() -> None:
    row, _ = tokens.create_api_key("backend")
    owner = person("owner")
    owner.post(url("apikey"), {"action": "revoke", "_selected_action": [row.pk]})
    assert ApiKey.objects.get().revoked and Revocation.objects.get().kind == "key"
    assert Act.objects.get().act == "revoke key"


def test_every_act_is_in_the_reference_and_nothing_else() -> None:
    page = (ROOT / "docs" / "reference" / "audit.md").read_text()
    told = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \| [^|]*\|$", page, re.M))
    assert told == dict(desk.ACTS)
    source = inspect.getsource(desk)
    assert set(re.findall(r'record\((?:actor|SHELL), "([^"]+)"', source)) <= set(desk.ACTS)
    edited = (Namespace, Limit, ApiKey)
    made = {f"{verb} {model._meta.verbose_name}" for model in edited for verb in ("make", "change", "delete")}
    assert made <= set(desk.ACTS)


def test_what_is_done_from_the_command_line_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    fill("room", 3)
    call_command("prune", "--channel", "room", "--upto", "1")
    call_command("new_epoch", "room", "--keep")
    call_command("new_epoch", "room")
    call_command("new_epoch", "--all")
    call_command("create_api_key", "backend")
    acts = list(Act.objects.order_by("pk").values_list("actor", "act", "target"))
    assert acts == [("shell", act, target) for act, target in (
        ("prune channel", "room"), ("new epoch", "room"), ("empty channel", "room"), ("new epoch", "all"),
        ("make API key", "backend"),
    )]  # fmt: skip
    secret = capsys.readouterr().out.split()[-1].rpartition("_")[2]
    assert secret not in str([act.details for act in Act.objects.all()])


def test_the_audit_log_cannot_be_changed_by_anybody() -> None:
    owner = person("owner")
    act = Act.objects.create(actor="user:x", act="block", target="ana")
    assert owner.post(url("act", "change", act.pk), {"actor": "y"}).status_code == 403
    assert owner.post(url("act", "delete", act.pk), {"post": "yes"}).status_code == 403
    owner.post(url("act"), {"action": "delete_selected", "_selected_action": [act.pk], "post": "yes"})
    assert Act.objects.get().actor == "user:x"


# ---------------------------------------------------------------- sizes


ENVELOPE = '{"type":"message","channel":"room-00000","serial":1,"id":"m","time":9,"client":null,"event":"e","data":1}'


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_lists_cost_a_bounded_number_of_queries_at_their_sizes(count: int) -> None:
    """10,000 channels, many messages in one of them, thousands of rows of everything else."""
    default = Namespace.objects.get(name="default")
    Channel.objects.bulk_create([Channel(name=f"room-{n:05}", namespace=default) for n in range(10_000)], 2000)
    Log.objects.bulk_create(
        [
            Log(channel_id=pk, epoch="abcd", head=count, last_time=9)
            for pk in Channel.objects.values_list("pk", flat=True)
        ],
        2000,
    )
    big = Channel.objects.get(name="room-00000")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO realtime_message (channel_id, serial, client, mid, time, envelope)"
            " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %s)"
            " SELECT %s, i, '', 'm' || i, i, %s FROM n",
            [count, big.pk, ENVELOPE],
        )
    Limit.objects.bulk_create([Limit(scope="client", name=f"c{n}", attachments=1) for n in range(3000)])
    Revocation.objects.bulk_create([Revocation(kind="jti", value=f"j{n}") for n in range(3000)])
    Act.objects.bulk_create([Act(actor="user:x", act="block", target=f"c{n}") for n in range(3000)])
    owner = person("owner")
    for address in (*[url(model) for model in LISTS], url("channel", "messages", big.pk), reverse(FRONT),
                    url("channel", "operate", big.pk), f"{url('channel')}?q=room-09&p=3",
                    url("channel", "change", big.pk), f"{url('channel')}?state=closed",
                    f"{url('act')}?act=publish&since_h=24", f"{url('act')}?q=user:x&p=2",
                    f"{url('act')}?q=c17"):  # fmt: skip
        owner.get(address)
        with CaptureQueriesContext(connection) as queries:
            assert owner.get(address).status_code == 200
        assert len(queries) <= 14, (address, [query["sql"][:90] for query in queries.captured_queries])


# ---------------------------------------------------------------- live


async def test_an_operator_finds_a_client_sees_its_backlog_disconnects_and_blocks_it(one_worker: None) -> None:
    operator = await in_thread(person, "operator")

    def read(address: str) -> str:
        return text_of(operator.get(address))

    async with connected() as other, connected(text=token("mallory")) as peer:
        await other.request("attach", channel="room")
        assert (await peer.request("attach", channel="room", window=2))["type"] == "attached"
        for number in range(5):
            await other.publish("room", number)
        assert await peer.messages("room", 2) == [0, 1]
        await other.messages("room", 5)
        channel = await in_thread(lambda: Channel.objects.get(name="room").pk)
        page = await in_thread(read, url("channel", "operate", channel))
        assert "data-delivered>7<" in page and "7 by positions" in page and "Balanced" in page
        assert "Delivered 7 = 7 by positions: balanced" in await in_thread(read, url("channel", "change", channel))
        page = await in_thread(read, f"{reverse(CONNECTIONS)}?client=mal")
        assert "1 of 1 connections" in page and "mallory" in page and ">ana<" not in page
        assert "2 of 2 connections" in await in_thread(read, f"{reverse(CONNECTIONS)}?channel=room")
        address = re.search(r'href="([^"]+/liveconnection/c_[^"]+)"', page)
        assert address is not None
        page = await in_thread(read, address.group(1))
        assert "waits for an ack" in page and "data-waiting>3<" in page
        response: Any = await in_thread(operator.post, address.group(1), {"act": "disconnect", "client": "mallory"})
        assert response.status_code == 302
        assert (await peer.closed())[0] == 4403
        async with connected(text=token("mallory")) as again:
            page = await in_thread(read, f"{reverse(CONNECTIONS)}?client=mallory")
            address = re.search(r'href="([^"]+/liveconnection/c_[^"]+)"', page)
            assert address is not None
            await in_thread(operator.post, address.group(1), {"act": "block", "client": "mallory", "reason": "abuse"})
            assert (await again.closed())[0] == 4403
        gone: Any = await in_thread(operator.get, url("liveconnection", "change", "c_gone"))
        assert gone.status_code == 404
    acts = await in_thread(lambda: list(Act.objects.order_by("pk").values_list("actor", "act", "target")))
    assert acts == [("user:the-operator", each, "mallory") for each in ("disconnect", "block")]


async def test_one_message_is_traced_to_the_positions_that_passed_it(one_worker: None) -> None:
    viewer = await in_thread(person, "viewer")

    def read(message: str) -> str:
        page = text_of(viewer.get(reverse("admin:realtime_liveconnection_trace"), {"message": message}))
        return re.sub(r"<[^>]+>", "", page)

    async with connected() as ana, connected(text=token("bob")) as bob, connected(text=token("eve")) as eve:
        for peer, window in ((ana, 10), (bob, 1), (eve, 0)):
            assert (await peer.request("attach", channel="room", window=window))["type"] == "attached"
        await ana.publish("room", "one")
        await ana.publish("room", "two")
        for peer in (ana, eve):
            await peer.messages("room", 2)
        await ana.send({"type": "ack", "serials": {"room": 2}})
        await ana.request("ping")
        page = await in_thread(read, "room#2")
        assert "Published by ana to room" in page and "Committed as #2" in page
        assert "Heard by 1 of 1 workers" in page and "Passed by 2 of 3 live positions" in page
        assert "Acknowledged by 1; 1 never acknowledge" in page
        assert "Passed by 3 of 3" in await in_thread(read, "room#1")
        assert "not published yet" in await in_thread(read, "room#3")
        for wrong in ("room", "#1", "room#x", "a b#1", "room#" + "9" * 30):
            assert "live positions" not in await in_thread(read, wrong)
        assert isinstance(eve, Peer)


def test_the_verdict_says_how_much_there_is_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert overview.verdict([]) == "In order. Nothing to look at."
    found = overview.Figures(held=3, missing=["w2"], workers=[
        {"name": "w1", "step": 2, "outbox_old_s": 0.0, "suspect": 0}
    ])  # fmt: skip
    told = overview.problems(found)
    assert [each.title for each in told] == [
        "Worker w2 does not answer", "w1 sheds load, step 2", "3 attachments are held",
    ]  # fmt: skip
    assert overview.verdict(told) == "Look at this. Three things to look at."
    assert overview.verdict(told[2:]) == "In order. One thing to look at."


async def test_the_front_page_has_the_numbers_of_the_workers(one_worker: None) -> None:
    viewer = await in_thread(person, "viewer")
    async with connected() as ana:
        await ana.request("attach", channel="room")
        await ana.publish("room", 1)
        page = await in_thread(lambda: text_of(viewer.get(reverse(FRONT))))
        assert "In order. Nothing to look at." in page
        assert re.search(r"<dt>Connections</dt><dd>1<small>1 attachment</small>", page) and "Balanced" in page
        assert ">room</a>" in page and "w" in page


# ---------------------------------------------------------------- announcing and draining


ANNOUNCE, DRAIN = "admin:realtime_liveconnection_announce", "admin:realtime_liveconnection_drain"


def a_worker(name: str, **more: Any) -> live.LiveWorker:
    values: dict[str, Any] = {
        "id": f"id-{name}",
        "age_s": 600.0,
        "draining": False,
        "replaceable": True,
        "connections": 7,
    }
    values |= {"cpu_share": 0.82, "minutes": [None, 2.0, 4.0], "hour": [1.0, 3.0], **more}
    return live.LiveWorker(name=name, **values)


def said() -> list[tuple[str, Any]]:
    """What all workers are told."""
    rows = Outbox.objects.order_by("pk").values_list("channel", "event", "data")
    return [(event, json.loads(data)) for channel, event, data in rows if channel == control.CHANNEL]


def test_what_is_announced_is_looked_at_first_and_then_told_to_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "workers", lambda: [a_worker("w1"), a_worker("w2")])
    operator, words = person("operator"), "Back at six.\n<b>Sorry</b>"
    assert reverse(ANNOUNCE) in text_of(operator.get(reverse(FRONT)))
    page = text_of(operator.post(reverse(ANNOUNCE), {"act": "look", "text": words}))
    assert "14 connections here" in page and "&lt;b&gt;Sorry" in page and 'value="announce"' in page
    assert 'value="announce"' not in text_of(operator.post(reverse(ANNOUNCE), {"act": "", "text": words}))
    for wrong in ("", "   ", "x" * 501):
        assert 'value="announce"' not in text_of(operator.post(reverse(ANNOUNCE), {"act": "look", "text": wrong}))
        assert "at most 500" in text_of(operator.post(reverse(ANNOUNCE), {"act": "announce", "text": wrong}))
    assert not Act.objects.exists() and said() == []
    answer = operator.post(reverse(ANNOUNCE), {"act": "announce", "text": words}, follow=True)
    assert "Announced to 14 connections" in text_of(answer)
    act = Act.objects.get()
    assert (act.actor, act.act, act.target) == ("user:the-operator", "announce", "everybody")
    assert act.details == {"text": words, "connections": 14}
    ((event, data),) = said()
    assert event == "announce" and data["text"] == words and data["id"]


def test_a_worker_is_drained_only_where_another_takes_its_clients_and_one_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator, there = person("operator"), [a_worker("w1"), a_worker("w2")]
    monkeypatch.setattr(live, "workers", lambda: there)
    page = text_of(operator.get(f"{reverse(DRAIN)}?worker=id-w2"))
    assert re.search(r'value="id-w2" required checked', page) and re.search(r'value="id-w1" required>', page)

    def drain(worker_id: str) -> str:
        return text_of(operator.post(reverse(DRAIN), {"worker": worker_id}, follow=True))

    assert "no such worker" in drain("id-w3")
    for others, refused in (
        ([a_worker("w1", replaceable=False), a_worker("w2")], "Nobody would start w1 again"),
        ([a_worker("w1")], "There is no worker that takes the clients of w1"),
        ([a_worker("w1"), a_worker("w2", draining=True)], "There is no worker that takes the clients of w1"),
        ([a_worker("w1", draining=True), a_worker("w2"), a_worker("w3")], "or it is draining already"),
    ):
        there = others
        assert refused in drain("id-w1")
    assert not Act.objects.exists() and said() == []
    there = [a_worker("w1"), a_worker("w2")]
    assert "w1 drains: its 7 connections move to the others" in drain("id-w1")
    act = Act.objects.get()
    assert (act.actor, act.act, act.target, act.details) == (
        "user:the-operator", "drain worker", "w1", {"connections": 7}
    )  # fmt: skip
    assert said() == [("drain", {"worker": "id-w1"})]


def test_a_viewer_neither_announces_nor_drains_and_nobody_does_from_another_site(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "workers", lambda: [a_worker("w1"), a_worker("w2")])
    viewer, operator = person("viewer"), person("operator")
    forms = ((ANNOUNCE, {"act": "announce", "text": "Hello"}), (DRAIN, {"worker": "id-w1"}))
    front = text_of(viewer.get(reverse(FRONT)))
    for name, body in forms:
        assert reverse(name) not in front
        assert viewer.get(reverse(name)).status_code == 403
        assert viewer.post(reverse(name), body).status_code == 403
        assert Client().post(reverse(name), body).status_code == 302, "to the login"
        # A browser of the operator that another site has posted by: without the token of a page of ours.
        browser = Client(enforce_csrf_checks=True)
        browser.cookies = operator.cookies
        assert browser.post(reverse(name), body).status_code == 403
        assert browser.get(f"{reverse(name)}?{urlencode(body)}").status_code == 200, "looking does nothing"
    assert not Act.objects.exists() and said() == []


def test_the_front_page_draws_what_each_worker_and_all_of_them_did(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [a_worker("w1"), a_worker("w2", minutes=[None, None, None], draining=True, cpu_share=None)]
    readings = [Reading(each.name, {}) for each in there]
    monkeypatch.setattr(live, "workers", lambda: there)
    monkeypatch.setattr(siblings, "readings", lambda running: (readings, []))
    monkeypatch.setattr(worker, "current", lambda: object())
    monkeypatch.setattr(live, "_ask", lambda question: ({}, []))
    page = text_of(person("operator").get(reverse(FRONT)))
    assert 'aria-label="at most 4 messages a second, now 4"' in page and "82 %" in page and "Draining" in page
    assert 'aria-label="Delivered each second in the last hour: at most 6 messages a second, now 6"' in page
    assert page.count('class="desk-spark"') == 1 and "The upper line is 6 a second" in page
    assert 'aria-label="Drain w1"' in page and 'aria-label="Drain w2"' not in page


async def test_a_worker_tells_its_connections_once_and_gives_way_when_it_is_meant(one_worker: None) -> None:
    async with connected() as ana, connected(text=token("bob")) as bob:
        running = worker.current()
        assert running is not None
        left: list[str] = []
        running.leave_process = lambda: left.append("it goes")
        await in_thread(desk.announce, "Hello", actor="shell")
        for peer in (ana, bob):
            frame = await peer.read(type="signal")
            assert (frame["channel"], frame["event"], frame["data"]["text"]) == ("$all", "announcement", "Hello")
        running._announce_heard(frame["data"])  # as when the log tells it again
        running._announce_heard(None)
        await ana.nothing_else()
        assert (await ana.request("attach", channel="$all"))["code"] == "bad_channel"
        (here,) = await in_thread(live.workers)
        assert (here.id, here.connections, here.replaceable) == (running.id, 2, True)
        running._drain_heard(None)
        running._drain_heard({"worker": "another"})
        assert left == []
        running._drain_heard({"worker": running.id})
        assert left == ["it goes"]
