"""Probes of load balancers."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError

from realtime.api import health, local
from tests.api.conftest import Api


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_probed_at", float("-inf"))


def test_a_process_that_answers_is_alive(api: Api) -> None:
    response = api.http.get("/healthz")
    assert response.status_code == 200 and response.headers["Cache-Control"] == "no-store"


def test_a_ready_worker_says_what_was_checked(api: Api) -> None:
    response = api.http.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "checks": {"database": True}}


@pytest.mark.parametrize("checks", [{"writer": False, "serving": True}, {"writer": True, "serving": False}])
def test_a_worker_that_drains_or_cannot_write_is_not_ready(
    api: Api, monkeypatch: pytest.MonkeyPatch, checks: dict[str, bool]
) -> None:
    monkeypatch.setattr(local, "readiness", lambda: checks)
    response = api.http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["checks"] == {"database": True, **checks}


def test_one_query_answers_all_probes_of_a_second(api: Api, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        for _ in range(5):
            api.http.get("/readyz")


def test_a_database_that_is_away_is_not_ready(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    class Away:
        def __getitem__(self, alias: str) -> Any:
            raise DatabaseError("secret")

    monkeypatch.setattr(health, "connections", Away())
    response = api.http.get("/readyz")
    assert response.status_code == 503 and b"secret" not in response.content
    assert response.json()["checks"]["database"] is False
