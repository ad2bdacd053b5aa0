"""Publishing when a model is saved or deleted: with the row, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, models, transaction

from realtime import namespaces
from realtime.helpers import publishes
from realtime.models import Outbox
from realtime.protocol.errors import ProtocolError
from realtime.testing import CapturedPublish, captured_publishes, relay_now
from tests.test_outbox import data_of

pytestmark = pytest.mark.django_db(transaction=True)


def channel_of(order: Order) -> str | None:
    return None if order.is_draft else f"orders-{order.pk}"


@publishes(channel_of, lambda order: {"state": order.state}, client=lambda order: order.by)
class Order(models.Model):
    state = models.CharField(max_length=20, default="new")
    is_draft = models.BooleanField(default=False)
    by = models.CharField(max_length=20, default="")
    objects: ClassVar[models.Manager[Order]] = models.Manager()

    class Meta:
        app_label = "helpers_tests"

    def __str__(self) -> str:
        return self.state


@publishes("stock-{instance.pk}", lambda item: item.count, version="version")
class Item(models.Model):
    count = models.IntegerField(default=0)
    version = models.IntegerField(default=0)
    objects: ClassVar[models.Manager[Item]] = models.Manager()

    class Meta:
        app_label = "helpers_tests"

    def __str__(self) -> str:
        return str(self.count)


@pytest.fixture(autouse=True)
def tables(transactional_db: None) -> Iterator[None]:
    namespaces.reset()
    with connection.schema_editor() as editor:
        editor.create_model(Order)
        editor.create_model(Item)
    yield
    with connection.schema_editor() as editor:
        editor.delete_model(Item)
        editor.delete_model(Order)
    namespaces.reset()


def told(published: CapturedPublish) -> tuple[str, str, object, str | None]:
    return published.channel, published.event, published.data, published.key


def test_saves_and_deletes_are_published_in_order() -> None:
    with captured_publishes() as published:
        order = Order.objects.create(by="ana")
        pk = order.pk
        order.state = "paid"
        order.save()
        order.delete()
    assert [told(each) for each in published] == [
        (f"orders-{pk}", "created", {"state": "new"}, str(pk)),
        (f"orders-{pk}", "updated", {"state": "paid"}, str(pk)),
        (f"orders-{pk}", "deleted", {"state": "paid"}, str(pk)),
    ]
    assert {each.client for each in published} == {"ana"}


def test_a_lone_save_and_its_message_are_one_transaction() -> None:
    """Also without `atomic()` around it: the message waits in the outbox, committed with the row."""
    Order.objects.create()
    assert Outbox.objects.count() == 1
    relay_now()
    assert data_of(f"orders-{Order.objects.get().pk}") == [{"state": "new"}]


def test_a_transaction_that_fails_leaves_neither_row_nor_message() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Order.objects.create()
        raise ZeroDivisionError
    assert not Order.objects.exists()
    assert not Outbox.objects.exists()


def test_a_message_that_cannot_be_published_takes_the_row_along(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProtocolError):
        Order.objects.create(by="no client id")
    assert not Order.objects.exists()


def test_a_row_without_a_channel_is_not_published() -> None:
    with captured_publishes() as published:
        Order.objects.create(is_draft=True)
    assert list(published) == []


def test_the_deletes_of_a_queryset_are_published_one_by_one() -> None:
    Order.objects.create()
    Order.objects.create()
    with captured_publishes() as published:
        Order.objects.all().delete()
    assert [each.event for each in published] == ["deleted", "deleted"]


def test_the_same_version_is_one_change_however_often_it_is_saved() -> None:
    item = Item.objects.create(count=5)
    item.save()
    item.version, item.count = 1, 6
    for _ in range(3):
        item.save()
    # As a task that is tried again, in another process.
    Item.objects.get().save()
    relay_now()
    # created at 0, updated at 0, updated at 1
    assert data_of(f"stock-{item.pk}") == [5, 5, 6]


def test_fixtures_are_not_published() -> None:
    with captured_publishes() as published:
        models.Model.save_base(Order(pk=7), raw=True)
    assert list(published) == []


def test_another_database_is_refused_before_anything_is_committed(realtime_settings: Any) -> None:
    realtime_settings(DATABASE="elsewhere")
    with pytest.raises(ImproperlyConfigured, match="cannot commit together"):
        Order.objects.create()
    assert not Order.objects.exists()


def test_an_abstract_model_is_refused() -> None:
    class Base(models.Model):
        class Meta:
            app_label = "helpers_tests"
            abstract = True

    with pytest.raises(ImproperlyConfigured, match="abstract"):
        publishes("x", lambda instance: None)(Base)  # type: ignore[type-abstract]
