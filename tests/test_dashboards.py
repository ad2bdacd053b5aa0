"""Dashboards on the server: who sees and changes them, what their tokens and links allow, the quiz, the feed."""

from __future__ import annotations

import json
import math
import time
from itertools import pairwise
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from dashboards import demo, match, quiz, replay, server
from dashboards.authorization import may_read
from dashboards.kinds import KINDS, Invalid, check_options
from dashboards.management.commands.feed import CHANNELS, KEPT_MOST, Feed, Waiting, messages_of
from dashboards.mast import CHANNEL, reading
from dashboards.models import Dashboard, Share, Vote
from realtime.models import Namespace, Revocation
from realtime.tokens import Identity, verify_token

pytestmark = pytest.mark.django_db

WIDGET = {"kind": "line", "title": "Wind", "channel": CHANNEL, "field": "wind", "options": {"alert": 40}, "span": 6}


@pytest.fixture
def ana(db: None) -> User:
    return User.objects.create_user("ana", password="a")


@pytest.fixture
def bo(db: None) -> User:
    return User.objects.create_user("bo", password="b")


@pytest.fixture
def own(ana: User) -> Dashboard:
    return Dashboard.objects.create(slug="mine", name="Mine", owner=ana)


def send(client: Client, method: str, path: str, body: object = None) -> tuple[int, Any]:
    response = client.generic(method, f"/dashboards/api/{path}", json.dumps(body or {}), "application/json")
    return response.status_code, response.json()


def save(client: Client, *widgets: object, slug: str = "mine", **more: object) -> tuple[int, Any]:
    return send(client, "PUT", f"of/{slug}", {"name": "Mine", "widgets": widgets, **more})


def code_of(answer: tuple[int, Any]) -> tuple[int, str]:
    status, body = answer
    assert set(body["error"]) == {"code", "message", "remedy"}
    return status, body["error"]["code"]


def identity_of(body: dict[str, Any]) -> Identity:
    return verify_token(body["token"], body["expires"] - 1)


# -- pages


@pytest.mark.parametrize("path", ["/dashboards/", "/dashboards/weather/"])
def test_who_is_not_logged_in_is_sent_to_log_in(client: Client, path: str) -> None:
    assert client.get(path)["Location"].startswith("/accounts/login/?next=/dashboards/")


def test_every_demo_dashboard_opens(client: Client, ana: User) -> None:
    client.force_login(ana)
    listed = client.get("/dashboards/").content.decode()
    for slug, name, *_ in demo.DASHBOARDS:
        assert name in listed
        assert client.get(f"/dashboards/{slug}/").status_code == 200


def test_the_demo_asks_for_deltas_where_messages_resemble_each_other() -> None:
    asking = set(Dashboard.objects.filter(deltas=True).values_list("slug", flat=True))
    assert asking == {"server", "seattle", "match"}
    allowed = set(Namespace.objects.filter(delta=True).values_list("name", flat=True))
    assert allowed == {"server", "replay", "scores", "play"}, "and where the console publishes"


def test_the_demo_shows_every_kind_with_options_that_are_valid() -> None:
    widgets = [widget for _, _, _, _, widgets in demo.DASHBOARDS for widget in widgets]
    assert {kind for kind, *_ in widgets} == set(KINDS)
    for kind, *_, options in widgets:
        assert check_options(kind, options) == options


def test_what_is_not_public_is_not_there_for_others(client: Client, own: Dashboard, bo: User) -> None:
    client.force_login(bo)
    assert client.get("/dashboards/mine/").status_code == 404
    assert client.get("/dashboards/mine/token").status_code == 404
    assert code_of(save(client, WIDGET)) == (404, "not_found")


# -- changes


def test_a_dashboard_is_made_and_changed(client: Client, ana: User) -> None:
    client.force_login(ana)
    status, body = send(client, "POST", "new", {"name": "Wind & sea"})
    assert status == 200
    slug = body["url"].split("/")[2]
    assert save(client, WIDGET, {**WIDGET, "kind": "gauge"}, slug=slug, public=True, deltas=True)[0] == 200
    dashboard = Dashboard.objects.get(slug=slug)
    assert dashboard.is_public and dashboard.deltas
    assert [each.kind for each in dashboard.widgets.all()] == ["line", "gauge"]
    assert send(client, "DELETE", f"of/{slug}")[0] == 200
    assert not Dashboard.objects.filter(slug=slug).exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "pie"},
        {"kind": ["line"]},
        {"field": "a..b"},
        {"field": "__proto__;"},
        {"span": 13},
        {"span": "wide"},
        {"title": ""},
        {"options": {"alert": "high"}},
        {"options": {"color": "red"}},
        {"options": []},
        {"kind": "gauge", "options": {"min": 5, "max": 5}},
        {"dashboard_id": 1},
    ],
    ids=str,
)
def test_a_widget_that_cannot_be_drawn_changes_nothing(client: Client, own: Dashboard, wrong: dict[str, Any]) -> None:
    client.force_login(own.owner)  # type: ignore[arg-type]  # it has one
    assert save(client, WIDGET)[0] == 200
    assert code_of(save(client, WIDGET, {**WIDGET, **wrong})) == (400, "bad_frame")
    assert own.widgets.count() == 1


@pytest.mark.parametrize("channel", ["chat:lobby", "$control", "nowhere:x", "a b", "play:x"])
def test_no_channel_is_read_by_way_of_a_dashboard(client: Client, own: Dashboard, channel: str) -> None:
    client.force_login(own.owner)  # type: ignore[arg-type]  # it has one
    assert code_of(save(client, {**WIDGET, "channel": channel})) == (403, "forbidden")
    assert own.widgets.count() == 0
    # Nor where the row is there all the same, as from the admin.
    own.widgets.create(kind="line", title="x", channel=channel)
    own.widgets.create(kind="line", title="y", channel=CHANNEL)
    capability = identity_of(client.get("/dashboards/mine/token").json()).capability
    assert capability is not None
    assert capability.operations("chat:lobby") == frozenset()
    assert capability.operations(CHANNEL) == {"subscribe", "history"}
    assert not may_read("ana", channel)


def test_public_dashboards_of_others_and_of_operators_are_not_changed(client: Client, own: Dashboard, bo: User) -> None:
    Dashboard.objects.filter(pk=own.pk).update(is_public=True)
    client.force_login(bo)
    assert client.get("/dashboards/mine/").status_code == 200
    for slug in ("mine", "weather"):
        assert code_of(save(client, WIDGET, slug=slug)) == (403, "forbidden")
        assert code_of(send(client, "POST", f"of/{slug}/share")) == (403, "forbidden")


def test_changes_need_a_login_and_the_csrf_header(own: Dashboard) -> None:
    client = Client(enforce_csrf_checks=True)
    assert code_of(save(client, WIDGET)) == (401, "unauthorized")
    client.force_login(own.owner)  # type: ignore[arg-type]  # it has one
    assert code_of(save(client, WIDGET)) == (403, "forbidden")
    client.get("/dashboards/mine/")
    header = client.cookies["csrftoken"].value
    body = json.dumps({"name": "Mine", "widgets": [WIDGET]})
    response = client.put("/dashboards/api/of/mine", body, "application/json", headers={"X-CSRFToken": header})
    assert response.status_code == 200
    assert code_of(send(client, "GET", "of/mine")) == (405, "bad_frame")


# -- tokens and links


def test_a_script_that_is_signed_out_gets_401(client: Client) -> None:
    assert client.get("/dashboards/weather/token").status_code == 401


def test_a_link_reads_the_dashboard_without_a_login_until_it_is_taken_back(client: Client, own: Dashboard) -> None:
    client.force_login(own.owner)  # type: ignore[arg-type]  # it has one
    save(client, WIDGET)
    url = send(client, "POST", "of/mine/share")[1]["url"]
    visitor = Client()
    path = url.removeprefix("http://testserver")
    page = visitor.get(path)
    assert page.status_code == 200
    assert not page.context["can_change"]
    body = visitor.get(f"{path}token").json()
    identity = identity_of(body)
    assert identity.capability is not None
    assert identity.capability.operations(CHANNEL) == {"subscribe", "history"}
    assert identity.capability.operations("demo:other") == frozenset()
    assert identity.client == Share.objects.get().client
    assert body["expires"] <= time.time() + 301
    # Nobody's JWT stands in the address.
    assert "." not in path
    assert send(client, "DELETE", "of/mine/share") == (200, {"count": 1})
    assert visitor.get(path).status_code == 404
    assert visitor.get(f"{path}token").status_code == 401
    # Who came by it is cut off on all workers: tests/e2e/test_control.py.
    assert Revocation.objects.filter(kind="client", value=identity.client).exists()


def test_the_token_is_for_every_speed(client: Client, ana: User) -> None:
    client.force_login(ana)
    capability = identity_of(client.get("/dashboards/seattle/token").json()).capability
    assert capability is not None
    for speed in replay.SPEEDS:
        assert capability.operations(replay.channel_of(speed)) == {"subscribe", "history"}


# -- the quiz


def test_one_vote_a_person_in_a_round(client: Client, ana: User, bo: User) -> None:
    choices = quiz.question_of(quiz.round_of(time.time()))[1]
    client.force_login(ana)
    assert code_of(send(client, "POST", "vote", {"choice": "None of them"})) == (400, "bad_frame")
    assert send(client, "POST", "vote", {"choice": choices[0]})[0] == 200
    assert code_of(send(client, "POST", "vote", {"choice": choices[1]})) == (409, "order")
    client.force_login(bo)
    assert send(client, "POST", "vote", {"choice": choices[0]})[0] == 200
    assert Vote.objects.count() == 2


# -- the feed


def test_a_second_says_always_the_same() -> None:
    assert list(messages_of(1_800_000_000)) == list(messages_of(1_800_000_000))
    said = {each.channel for second in range(1_800_000_000, 1_800_000_004) for each in messages_of(second)}
    assert said == set(CHANNELS)


def test_the_weather_is_weather() -> None:
    """Finite, without jumps, gusts above the wind; now and then above the limit, mostly below."""
    day = [reading(1_800_000_000 + second) for second in range(0, 86_400, 7)]
    assert all(math.isfinite(each["wind"]) and 0 < each["wind"] <= each["gust"] for each in day)
    assert all(abs(a["wind"] - b["wind"]) < 9 for a, b in pairwise(day))
    above = sum(each["gust"] > 40 for each in day) / len(day)
    assert 0.001 < above < 0.25


@pytest.mark.parametrize(("speed", "days"), [("slow", 25), ("normal", 100), ("fast", 400)])
def test_a_replay_leaves_no_day_out_and_says_none_twice(speed: str, days: int) -> None:
    found = [each for second in range(1_800_000_000, 1_800_000_100) for each in replay.replayed(second, speed)]
    numbers = [number for number, _ in found]
    assert numbers == list(range(numbers[0], numbers[0] + days))
    assert len(replay.days()) == 1461


def test_goals_only_grow_within_a_match() -> None:
    start = 1_800_000_000 // match.MATCH_S * match.MATCH_S
    goals = [match.score(second)["goals"] for second in range(start, start + match.MATCH_S, 5)]
    assert goals == sorted(goals)
    assert goals[-1] > 0
    assert match.score(start + match.MATCH_S)["match"] == match.score(start)["match"] + 1


class Server:
    """What the feed's requests meet: answers in order, None is stored, a number is "wait so long"."""

    def __init__(self, *answers: float | None) -> None:
        self.answers = list(answers)
        self.stored: list[Waiting] = []

    def post(self, batch: list[Waiting]) -> float | None:
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            self.stored += batch
        return answer


def feed_to(server: Server, monkeypatch: pytest.MonkeyPatch) -> Feed:
    feed = Feed("http://127.0.0.1:1")
    monkeypatch.setattr(feed, "_post", server.post)
    return feed


def test_what_could_not_be_published_waits_and_goes_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Server(0, 0, None)
    feed = feed_to(away, monkeypatch)
    feed.read(range(100, 103))
    assert feed.publish() > 0
    feed.read(range(103, 105))
    assert feed.publish() > 0
    assert feed.publish() == 0
    assert away.stored == [each for second in range(100, 105) for each in messages_of(second)]
    assert not feed.waiting


def test_a_pause_that_the_server_asks_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_to(Server(7), monkeypatch)
    feed.read(range(100, 101))
    assert feed.publish() == 7


def test_what_waits_is_bounded() -> None:
    feed = Feed("http://127.0.0.1:1")
    feed.read(range(1, KEPT_MOST))
    assert len(feed.waiting) <= KEPT_MOST
    assert feed.read_through == KEPT_MOST - 1


def test_the_feed_wants_an_address() -> None:
    with pytest.raises(CommandError):
        call_command("feed", url="localhost:8000", count=1)


# -- the server's own numbers


def test_a_row_of_a_worker_is_what_happened_between_two_readings() -> None:
    before = {"worker": "w2", "messages_published_total": {"ws": 10.0, "rest": 5.0}, "process_cpu_seconds_total": 1.0}
    after = {**before, "messages_published_total": {"ws": 20.0, "rest": 15.0}, "process_cpu_seconds_total": 1.5}
    row = server.row((100.0, before), (102.0, after), 5.0)
    assert (row["worker"], row["published"], row["cpu"], row["state"]) == ("w2", 10.0, 25.0, "live")
    # A worker that was replaced counts from 0 again.
    assert server.row((100.0, after), (102.0, before), 5.0)["published"] == 0


def test_options_that_no_page_can_draw_are_refused() -> None:
    for options in ({"warn": float("nan")}, {"warn": True}, {"more": ["a"] * 9}, {"digits": 9}):
        with pytest.raises(Invalid):
            check_options("line", options)
    for labels in (["key"], {"a b": "x"}, {"a": 1}, {"a": "x" * 161}, {f"f{number}": "x" for number in range(14)}):
        with pytest.raises(Invalid):
            check_options("table", {"labels": labels})
