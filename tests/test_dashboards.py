"""The dashboard's page and token, the mast that does not exist, and the feed that publishes it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from dashboards.management.commands.feed import KEPT_MOST, Feed
from dashboards.mast import CHANNEL, Reading, reading
from realtime.tokens import verify_token


@pytest.fixture
def ana(db: None) -> User:
    return User.objects.create_user("ana", password="a")


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/dashboards/", "/dashboards/weather/"])
def test_who_is_not_logged_in_is_sent_to_log_in(client: Client, path: str) -> None:
    assert client.get(path)["Location"].startswith("/accounts/login/?next=/dashboards/")


def test_the_dashboards_open_with_the_mast(client: Client, ana: User) -> None:
    client.force_login(ana)
    assert client.get("/dashboards/")["Location"] == "/dashboards/weather/"
    assert client.get("/dashboards/weather/").status_code == 200


def test_the_token_reads_the_feed_and_nothing_else(client: Client, ana: User) -> None:
    client.force_login(ana)
    response = client.get("/dashboards/token")
    assert "no-store" in response["Cache-Control"]
    capability = verify_token(response.json()["token"], response.json()["expires"] - 1).capability
    assert capability is not None
    assert capability.operations(CHANNEL) == {"subscribe", "history"}
    assert capability.operations("chat:lobby") == frozenset()


def test_a_script_that_is_signed_out_gets_401(client: Client, db: None) -> None:
    assert client.get("/dashboards/token").status_code == 401


# -- the mast


def test_a_reading_depends_on_its_second_alone() -> None:
    assert reading(1_800_000_000) == reading(1_800_000_000)
    assert reading(1_800_000_000) != reading(1_800_000_060)


def test_the_weather_is_weather() -> None:
    """Finite, without jumps, gusts above the wind; now and then above the limit, mostly below."""
    day = [reading(1_800_000_000 + second) for second in range(0, 86_400, 7)]
    assert all(math.isfinite(each["wind"]) and 0 < each["wind"] <= each["gust"] for each in day)
    assert all(abs(a["wind"] - b["wind"]) < 9 for a, b in pairwise(day))
    above = sum(each["gust"] > 40 for each in day) / len(day)
    assert 0.001 < above < 0.25
    assert all(each["visitors"] >= 0 for each in day)


# -- the feed


class Server:
    """What the feed's requests meet: answers in order, None is stored, a number is "wait so long"."""

    def __init__(self, *answers: float | None) -> None:
        self.answers = list(answers)
        self.stored: list[int] = []

    def post(self, batch: list[Reading]) -> float | None:
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            self.stored += [each["at"] for each in batch]
        return answer


def feed_to(server: Server, monkeypatch: pytest.MonkeyPatch) -> Feed:
    feed = Feed("http://127.0.0.1:1")
    monkeypatch.setattr(feed, "_post", server.post)
    return feed


def test_readings_wait_while_the_server_is_away_and_go_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(0, 0, None)
    feed = feed_to(server, monkeypatch)
    feed.read(range(100, 103))
    assert feed.publish() > 0
    feed.read(range(103, 105))
    assert feed.publish() > 0
    assert feed.publish() == 0
    assert server.stored == [100, 101, 102, 103, 104]
    assert not feed.waiting


def test_a_pause_that_the_server_asks_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_to(Server(7), monkeypatch)
    feed.read(range(100, 101))
    assert feed.publish() == 7


def test_waiting_readings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_to(Server(), monkeypatch)
    feed.read(range(1, KEPT_MOST * 3))
    assert len(feed.waiting) == KEPT_MOST
    assert feed.waiting[-1]["at"] == KEPT_MOST * 3 - 1


def test_the_feed_wants_an_address() -> None:
    with pytest.raises(CommandError):
        call_command("feed", url="localhost:8000", count=1)
