"""Presence: what a follower makes of what it is told equals the merge of all that workers have written.

The machine stands for the database and for several workers: any interleaving of entering, leaving, dropping, coming
back, writing, reading (or not: lost news), renewing and dying.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realtime.delivery.presence import (
    COUNT_EVERY_S,
    GRACE_S,
    LISTED_MOST,
    PAGE_MEMBERS,
    Frame,
    Key,
    Member,
    Membership,
    Row,
    View,
    merge,
)
from realtime.protocol.names import ChannelName

CHANNEL = ChannelName("room:a")
LEASE_S = 20.0
CLIENTS = ["ana", "bo", "cy"]

clients = st.sampled_from(CLIENTS)
numbers = st.integers(0, 2)


class Follower:
    """A client that folds what it is told, and insists on revisions without a gap."""

    def __init__(self, frames: list[Frame]) -> None:
        self.members: dict[str, bytes] = {}
        self.count: int | None = None
        self.revision = 0
        self.take(frames)

    def take(self, frames: list[Frame]) -> None:
        for frame in frames:
            members: Any = frame.get("members")
            match frame["action"]:
                case "count":
                    self.count = int(str(frame["count"]))
                case "sync":
                    self.count = None
                    self.revision = int(str(frame["revision"]))
                    self.members = {each["client"]: bytes(each["data"]) for each in members}
                case action:
                    self.revision += 1
                    assert frame["revision"] == self.revision
                    client, data = str(frame["client"]), frame.get("data")
                    assert (client in self.members) == (action != "enter"), (action, client)
                    if action == "leave":
                        del self.members[client]
                    else:
                        assert data is not None and self.members.get(client) != bytes(data)  # type: ignore[call-overload]
                        self.members[client] = bytes(data)  # type: ignore[call-overload]


class Site:
    """One worker: its own part, a view, followers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.own = Membership()
        self.view = View()
        self.followers: list[Follower] = []
        self.read: dict[str, Member] = {}
        self.alive = True


class Workers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.sites = [Site(f"w{number}") for number in range(3)]
        self.rows: dict[tuple[str, Key], Row] = {}
        self.leases: dict[str, float] = {}
        # What should be true, said without any of the code that is tested.
        self.connected: dict[str, set[tuple[str, int]]] = {client: set() for client in CLIENTS}

    def site(self, number: int) -> Site | None:
        return self.sites[number] if self.sites[number].alive else None

    def table(self) -> dict[str, Member]:
        return merge(row for (worker, _), row in self.rows.items() if self.leases.get(worker, 0.0) > self.now)

    @rule(number=numbers, client=clients, connection=numbers, data=st.sampled_from(["1", "2"]))
    def enter(self, number: int, client: str, connection: int, data: str) -> None:
        site = self.site(number)
        if site is not None:
            members = site.view.members or {}
            site.own.enter(Key(CHANNEL, client), str(connection), data, int(self.now * 1000), members.get(client))
            self.connected[client].add((site.name, connection))

    @rule(number=numbers, client=clients, connection=numbers)
    def leave(self, number: int, client: str, connection: int) -> None:
        site = self.site(number)
        if site is not None:
            site.own.leave(Key(CHANNEL, client), str(connection))
            self.connected[client].discard((site.name, connection))

    @rule(number=numbers, client=clients, connection=numbers)
    def drop(self, number: int, client: str, connection: int) -> None:
        site = self.site(number)
        if site is not None and (site.name, connection) in self.connected[client]:
            site.own.drop(Key(CHANNEL, client), str(connection), self.now)
            self.connected[client].discard((site.name, connection))

    @rule(seconds=st.sampled_from([0.01, 1.0, 4.0, 21.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for site in self.sites:
            if site.alive:
                site.own.expire(self.now)

    @rule(number=numbers, some=st.integers(1, 3))
    def write(self, number: int, some: int) -> None:
        site = self.site(number)
        if site is not None:
            self.store(site, some)

    def store(self, site: Site, some: int = 99) -> None:
        for key in list(site.own.dirty)[:some]:
            del site.own.dirty[key]
            row = site.own.row(key)
            if row is None:
                self.rows.pop((site.name, key), None)
            else:
                self.rows[site.name, key] = row
        self.leases[site.name] = self.now + LEASE_S

    @rule(number=numbers, attaches=st.booleans())
    def look(self, number: int, attaches: bool) -> None:
        site = self.site(number)
        if site is not None:
            self.read(site, attaches)

    def read(self, site: Site, attaches: bool = False) -> None:
        site.read = self.table()
        frames = site.view.apply(site.read, len(site.read), self.now)
        for follower in site.followers:
            follower.take(frames)
        if attaches:
            site.followers.append(Follower(site.view.sync()))

    @precondition(lambda self: sum(site.alive for site in self.sites) > 1)
    @rule(number=numbers)
    def die(self, number: int) -> None:
        site = self.site(number)
        if site is not None:
            site.alive = False
            for client in CLIENTS:
                gone = {each for each in self.connected[client] if each[0] == site.name}
                self.connected[client] -= gone

    @rule(number=numbers)
    def taken_for_dead(self, number: int) -> None:
        """Others removed its rows while it was slow."""
        site = self.site(number)
        if site is not None and self.leases.get(site.name, 0.0) <= self.now:
            for each in [each for each in self.rows if each[0] == site.name]:
                del self.rows[each]
            site.own.rewrite()

    @invariant()
    def a_follower_knows_what_its_worker_has_read(self) -> None:
        for site in self.sites:
            for follower in site.followers:
                assert follower.members == {client: member.data.encode() for client, member in site.read.items()}

    def teardown(self) -> None:
        living = [site for site in self.sites if site.alive]
        for site in living:
            self.store(site)
        for site in living:
            self.read(site, attaches=True)
        there = {client for client in CLIENTS if self.connected[client]}
        known = set(living[0].read)
        assert there <= known
        self.now += LEASE_S + GRACE_S
        for site in living:
            site.own.expire(self.now)
            self.store(site)
        for site in living:
            self.read(site)
            assert set(site.read) == there
            assert {client: member.connections for client, member in site.read.items()} == {
                client: len(self.connected[client]) for client in there
            }
        self.a_follower_knows_what_its_worker_has_read()


Workers.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWorkers = Workers.TestCase


def member(client: str, data: str = "null") -> Member:
    return Member(client, 1, data, 1, 1)


def many(count: int) -> dict[str, Member]:
    return {f"c{number}": member(f"c{number}") for number in range(count)}


def test_a_client_that_drops_and_is_back_elsewhere_neither_leaves_nor_enters() -> None:
    key, old, new, view = Key(CHANNEL, "ana"), Membership(), Membership(), View()

    def look(now: float) -> list[Frame]:
        members = merge(row for row in (old.row(key), new.row(key)) if row is not None)
        return view.apply(members, len(members), now)

    old.enter(key, "1", "7", 1000)
    look(0)
    old.drop(key, "1", 0.0)
    assert look(5) == []
    new.enter(key, "2", "7", 6000)
    assert look(6) == []
    old.expire(GRACE_S)
    assert old.row(key) is None
    assert look(11) == []
    new.drop(key, "2", 20.0)
    new.expire(29.9)
    assert look(29.9) == []
    new.expire(30.0)
    assert [frame["action"] for frame in look(30)] == ["leave"]


def test_the_newest_data_holds_even_where_a_clock_is_behind() -> None:
    key, ahead, behind = Key(CHANNEL, "ana"), Membership(), Membership()
    ahead.enter(key, "1", "1", 9000)
    row = ahead.row(key)
    assert row is not None
    behind.enter(key, "2", "2", 5000, merge([row])["ana"])
    other = behind.row(key)
    assert other is not None
    assert merge([row, other]) == merge([other, row])
    assert merge([other, row])["ana"] == Member("ana", 2, "2", 9001, 9000)


def test_only_data_makes_an_update() -> None:
    view = View()
    view.apply({"ana": member("ana")}, 1, 0)
    assert view.apply({"ana": member("ana")._replace(connections=5)}, 1, 0) == []
    (update,) = view.apply({"ana": member("ana", "1")}, 1, 0)
    assert (update["action"], update["revision"]) == ("update", 1)


def test_a_long_list_comes_in_pages() -> None:
    view = View()
    view.apply(many(LISTED_MOST), LISTED_MOST, 0)
    pages: Any = view.sync()
    assert [(len(page["members"]), page["more"]) for page in pages] == [(PAGE_MEMBERS, True), (PAGE_MEMBERS, False)]
    view.apply({}, 0, 1)
    assert [(page["members"], page["more"]) for page in view.sync()] == [([], False)]


def test_above_the_limit_there_is_a_number_once_a_second_and_then_a_list_again() -> None:
    view = View()
    view.apply(many(LISTED_MOST), LISTED_MOST, 0)
    follower = Follower(view.sync())
    assert view.apply(None, 201, 0.1) == [{"action": "count", "count": 201}]
    assert (view.apply(None, 202, 0.2), view.pending) == ([], True)
    assert view.apply(None, 203, 0.1 + COUNT_EVERY_S) == [{"action": "count", "count": 203}]
    assert view.sync() == [{"action": "count", "count": 203}]
    assert (view.apply(None, 203, 5), view.pending) == ([], False)
    follower.take(view.apply(many(3), 3, 6))
    assert (follower.count, set(follower.members)) == (None, {"c0", "c1", "c2"})
    assert view.apply(many(2), 2, 7)[0]["action"] == "leave"
