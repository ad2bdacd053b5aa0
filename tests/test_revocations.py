"""Revocations and blocks: what they take back, for how long, and that open connections end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from django.db import transaction

from realtime import control, desk, live, namespaces, revocations, tokens
from realtime.models import Revocation
from realtime.revocations import is_blocked, is_revoked, revoke
from tests.conversation import Peer, bearer, connected, in_thread, stop_worker, token

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    tokens.reset_caches()
    yield
    namespaces.reset()
    tokens.reset_caches()


@pytest_asyncio.fixture
async def one_worker() -> AsyncIterator[None]:
    yield
    await stop_worker()


def revoked(*, jti: str | None = None, client: str = "ana", key: str | None = None, iat: float | None = None) -> bool:
    return is_revoked(jti, client, key, iat, time.time())


def restart() -> None:
    """As another process that begins."""
    revocations.mirror.reset()
    revocations.mirror.load()


def test_each_kind_takes_back_its_own_and_survives_a_restart() -> None:
    now = time.time()
    revoke("jti", "one")
    revoke("client", "ana")
    revoke("key", "abcd")
    for _ in range(2):
        assert revoked(jti="one", client="bob") and not revoked(jti="two", client="bob", iat=now)
        assert revoked(iat=now - 5) and revoked(iat=None), "issued before"
        assert not revoked(iat=time.time() + 1), "issued after"
        assert revoked(client="bob", key="abcd", iat=now - 5) and not revoked(client="bob", key="efgh", iat=now)
        restart()


def test_what_is_over_holds_no_more_and_is_pruned() -> None:
    revoke("jti", "old", until=datetime.now(UTC) - timedelta(seconds=1))
    revoke("jti", "young")
    revocations.block("mallory")
    assert not revoked(jti="old", client="bob") and revoked(jti="young", client="bob")
    assert revocations.prune() == 1
    assert set(Revocation.objects.values_list("value", flat=True)) == {"young", "mallory"}
    restart()
    assert is_blocked("mallory", time.time()) and is_blocked("mallory", time.time() + 10**9)


def test_a_revocation_that_is_rolled_back_never_held() -> None:
    with transaction.atomic():
        revoke("jti", "one")
        transaction.set_rollback(True)
    assert not revoked(jti="one", client="bob")
    restart()
    assert not revoked(jti="one", client="bob")


def test_another_process_is_heard_with_its_facts_and_without_a_query(django_assert_num_queries: object) -> None:
    revocations.mirror.load()
    heard: list[object] = []
    stop = revocations.mirror.on_change(lambda *_: heard.append(1))
    now = time.time()
    with django_assert_num_queries(0):  # type: ignore[operator]  # pytest-django's fixture
        revocations.heard({"kind": "jti", "value": "x", "at": now, "until": now + 60})
        assert revoked(jti="x", client="bob")
        revocations.heard({"kind": "jti", "value": "x", "at": None, "until": None})
        assert not revoked(jti="x", client="bob")
        revocations.heard({"nonsense": 1})
    stop()
    assert len(heard) == 2


def test_missed_events_are_made_good_by_reading() -> None:
    revocations.mirror.refresh()
    Revocation.objects.create(kind="jti", value="x")
    revocations.mirror.refresh()
    assert not revoked(jti="x", client="bob"), "it is not time yet"
    control._revoked(None)
    revocations.mirror.refresh()
    assert revoked(jti="x", client="bob")


async def test_open_connections_of_the_revoked_end_and_no_others(one_worker: None) -> None:
    leaked = token()
    async with connected(text=leaked) as bad, connected() as good, connected(text=token("bob")) as bob:
        jti = tokens.verify_token(leaked, time.time()).jti
        assert jti is not None
        await in_thread(desk.revoke, "jti", jti, actor="shell")
        code, _, before = await bad.closed()
        assert code == 4401 and before[-1]["code"] == "unauthorized"
        await in_thread(desk.revoke, "client", "bob", actor="shell")
        code, _, before = await bob.closed()
        assert code == 4401 and before[-1]["code"] == "unauthorized"
        await good.nothing_else()


async def test_a_blocked_client_is_shut_out_and_cannot_come_back(one_worker: None) -> None:
    async with connected(text=token("mallory")) as peer, connected() as ana:
        assert await in_thread(live.count, "mallory") == 1
        assert await in_thread(desk.block, "mallory", actor="shell") == 1
        code, _, before = await peer.closed()
        assert code == 4403 and before[-1]["code"] == "forbidden"
        again = Peer(bearer(token("mallory")))
        assert await again.connect()
        code, _, before = await again.closed()
        assert code == 4403 and before[-1]["code"] == "forbidden"
        await in_thread(desk.lift, "block", "mallory", actor="shell")
        async with connected(text=token("mallory")):
            pass
        await ana.nothing_else()


async def test_disconnecting_ends_all_connections_of_one_client_who_may_come_back(one_worker: None) -> None:
    async with connected() as first, connected() as second, connected(text=token("bob")) as bob:
        assert await in_thread(desk.disconnect, "ana", actor="shell", reason="maintenance") == 2
        for peer in (first, second):
            assert (await peer.closed())[:2] == (4403, "maintenance")
        await bob.nothing_else()
        async with connected():
            pass
