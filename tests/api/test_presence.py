"""GET /channels/{name}/presence: members of all workers, in pages."""

from __future__ import annotations

from typing import Any

from realtime.models import PresenceLease, Present
from tests.api.conftest import Api, assert_refused, token

PATH = "/api/v1/channels/x/presence"


def member(client: str, worker: str = "w1", **fields: Any) -> None:
    row = {"channel": "x", "connections": 1, "data": '{"mood":1}', "at": 5, "since": 4, "stamp": 1, **fields}
    Present.objects.create(client=client, worker=worker, **row)


def test_members_are_those_of_workers_that_live(api: Api) -> None:
    for worker, until in (("w1", 2**52), ("w2", 2**52), ("dead", 1)):
        PresenceLease.objects.create(worker=worker, until=until)
    member("cy")
    member("ana")
    member("ana", "w2", data="2", at=6, since=3)
    member("zoe", "dead")
    member("eve", channel="y")
    answer = api.request("GET", PATH)
    assert answer.status_code == 200
    assert answer.json() == {
        "members": [
            {"client": "ana", "connections": 2, "data": 2, "since": 3},
            {"client": "cy", "connections": 1, "data": {"mood": 1}, "since": 4},
        ],
        "count": 2,
        "next": None,
    }


def test_members_come_in_pages(api: Api) -> None:
    PresenceLease.objects.create(worker="w1", until=2**52)
    for client in ("a", "b", "c"):
        member(client)
    first = api.request("GET", f"{PATH}?limit=2").json()
    assert ([each["client"] for each in first["members"]], first["count"], first["next"]) == (["a", "b"], 3, "b")
    last = api.request("GET", f"{PATH}?limit=2&page=b").json()
    assert ([each["client"] for each in last["members"]], last["next"]) == (["c"], None)


def test_who_may_not_ask_is_refused(api: Api) -> None:
    assert_refused(api.request("GET", PATH, auth=token(cap={"x": ["subscribe"]})), 403, "forbidden")
    assert_refused(api.request("GET", f"{PATH}?page=%20"), 400, "bad_frame")
    assert_refused(api.request("GET", f"{PATH}?limit=0"), 400, "bad_frame")
