"""What the platform offers to tests of projects: inside TestCase, and with a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.test import TestCase
from websockets.sync.client import connect

from realtime import namespaces, tokens
from realtime.apps import restore_default_namespace
from realtime.log import read_page
from realtime.models import Message, Namespace, Outbox
from realtime.protocol.names import ChannelName
from realtime.publishing import apublish, publish
from realtime.pytest_plugin import realtime_published, realtime_server  # noqa: F401  (fixtures)
from realtime.testing import CapturedPublishes, LiveServer, RealtimeLiveServerTestCase, captured_publishes, relay_now
from tests.conftest import MS


class InsideTestCase(TestCase):
    """Nothing ever commits here, and there is no worker."""

    def setUp(self) -> None:
        namespaces.reset()
        self.addCleanup(namespaces.reset)

    def test_what_is_published_is_captured_in_order(self) -> None:
        with captured_publishes() as published:
            publish("orders", 1, event="paid", id="p1", key="k", client="ana")
            self.assertEqual(len(published), 1)
            publish("others", {"a": None})
            publish("orders", 2)
        publish("orders", "after")
        self.assertEqual([each.data for each in published], [1, {"a": None}, 2])
        self.assertEqual([each.data for each in published.on("orders")], [1, 2])
        first = published[0]
        self.assertEqual(
            (first.channel, first.event, first.id, first.key, first.client, first.in_transaction),
            ("orders", "paid", "p1", "k", "ana", True),
        )

    def test_a_savepoint_that_is_rolled_back_was_not_published(self) -> None:
        with captured_publishes() as published:
            publish("orders", "kept")
            with self.assertRaises(ZeroDivisionError), transaction.atomic():
                publish("orders", "lost")
                raise ZeroDivisionError
            publish("orders", "kept too")
        self.assertEqual([each.data for each in published], ["kept", "kept too"])

    def test_relaying_by_hand_stores_it(self) -> None:
        publish("orders", 1)
        publish("orders", 2)
        self.assertEqual(relay_now(), 2)
        page = read_page(ChannelName("orders"), after=0, before=None, since=None, order="asc", limit=10)
        self.assertEqual([json.loads(each)["data"] for each in page.messages], [1, 2])
        self.assertEqual(relay_now(), 0)

    def test_callbacks_of_the_commit_publish_as_well(self) -> None:
        with captured_publishes() as published, self.captureOnCommitCallbacks(execute=True):
            transaction.on_commit(lambda: publish("orders", "late"))
        self.assertEqual([each.data for each in published], ["late"])

    def test_a_bad_publish_fails_as_ever(self) -> None:
        with captured_publishes() as published, self.assertRaisesMessage(Exception, "not_found"):
            publish("nowhere:x", 1)
        self.assertEqual(list(published), [])


def test_the_fixture_captures(realtime_published: CapturedPublishes) -> None:  # noqa: F811
    namespaces.reset()
    publish("orders", 1)
    assert [each.data for each in realtime_published] == [1]


@pytest.mark.django_db(transaction=True)
def test_outside_of_transactions_nothing_is_stored_while_captured() -> None:
    namespaces.reset()
    with captured_publishes() as published:
        receipts = [publish("orders", 1), publish("orders", 2)]
        with transaction.atomic():
            publish("orders", 3)
        async_to_sync(apublish)("orders", 4)
    assert [(each.data, each.in_transaction) for each in published] == [(1, False), (2, False), (3, True), (4, False)]
    assert [receipt.serial for receipt in receipts] == [1, 2]
    assert not Message.objects.exists()
    assert Outbox.objects.count() == 1


def conversation(server: LiveServer, client: str) -> Any:
    token, _ = tokens.issue_token(client)
    headers = {"Authorization": f"Bearer {token}"}
    socket = connect(server.websocket_url, additional_headers=headers, compression=None, legacy=True)
    assert json.loads(socket.recv(5000 * MS))["type"] == "ready"
    return socket


def data_after_attach(socket: Any, channel: str, count: int) -> list[Any]:
    socket.send(json.dumps({"type": "attach", "ref": 1, "channel": channel, "from": "start"}))
    found: list[Any] = []
    while len(found) < count:
        frame = json.loads(socket.recv(10_000 * MS))
        assert frame["type"] in ("attached", "message"), frame
        if frame["type"] == "message":
            found.append(frame["data"])
    return found


@pytest.mark.e2e
def test_the_fixture_runs_a_real_server_on_the_rows_of_the_test(realtime_server: LiveServer) -> None:  # noqa: F811
    with conversation(realtime_server, "ana") as socket:
        with transaction.atomic():
            publish("orders", 1)
        publish("orders", 2)
        assert sorted(data_after_attach(socket, "orders", 2)) == [1, 2]


@pytest.mark.e2e
@pytest.mark.sqlite
def test_a_database_in_memory_is_refused_with_the_remedy(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "is_in_memory_db", lambda: True)
    with pytest.raises(ImproperlyConfigured, match="TEST"):
        LiveServer().start()


@pytest.mark.e2e
class WithServer(RealtimeLiveServerTestCase):
    realtime_settings = {"WEBSOCKET_PATH": "/sockets/here"}  # noqa: RUF012  (as the base class declares it)

    def test_sockets_are_served_at_the_path_of_the_settings(self) -> None:
        namespaces.reset()
        self.assertTrue(self.websocket_url.endswith("/sockets/here"))
        with conversation(self.server, "ana") as socket:
            publish("orders", 1)
            self.assertEqual(data_after_attach(socket, "orders", 1), [1])

    def test_each_test_finds_the_tables_as_migrations_left_them(self) -> None:
        self.assertTrue(Namespace.objects.filter(name="default").exists())
        self.assertFalse(Message.objects.exists())


@pytest.mark.django_db(transaction=True)
def test_emptied_tables_have_the_default_namespace_again() -> None:
    """What `flush` says when it is done; the tests of a project know no fixture of ours."""
    Namespace.objects.all().delete()
    restore_default_namespace()
    made = Namespace.objects.get()
    assert (made.name, made.anonymous_ops, made.create) == ("default", [], "publish")
    assert "publish" in made.known_ops
    made.delete()
    Namespace.objects.create(name="other")
    restore_default_namespace()
    assert Namespace.objects.get().name == "other"
