"""Publishing when a model is saved or deleted, in the same transaction: `publishes`, a class decorator.

    @publishes("orders:{instance.pk}", lambda order: {"state": order.state})
    class Order(models.Model): ...

What happens to the row and the message about it commit together or not at all. See docs/how-to/publish-on-save.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import models, router, transaction
from django.db.models.signals import post_delete, post_save

from realtime.conf import settings
from realtime.publishing import publish

ModelT = TypeVar("ModelT", bound=models.Model)

Change = Literal["created", "updated", "deleted"]
ChannelOf = Callable[[Any], str | None]

ID_CHARS_MOST = 64


def publishes(
    channel: str | ChannelOf,
    serialize: Callable[[Any], object],
    *,
    version: str | None = None,
    key: Callable[[Any], str | None] = lambda instance: str(instance.pk),
    client: Callable[[Any], str] = lambda instance: "",
) -> Callable[[type[ModelT]], type[ModelT]]:
    """Publishes every `save()` and `delete()` of the model, also those of querysets' `create` and `delete`.

    `channel` is a name, with `{instance.…}` filled in, or a function of the instance; None publishes nothing.
    `serialize(instance)` gives the data. The event is `created`, `updated` or `deleted`, the message's key the primary
    key, so that `from: "latest"` has the newest of each row. `client(instance)` is whom the message is from.

    `version` names a field that changes with every change, such as a counter: then the message's id follows from row,
    change and version, and a change that is published twice (a task that is tried again, a row saved unchanged) is
    stored once. Without it every save is a change of its own.

    Not published, since Django sends no signal for it: `bulk_create`, `bulk_update`, `QuerySet.update`, raw SQL, and
    changes of many-to-many relations. Fixtures (`loaddata`) are not published either. Raises ImproperlyConfigured when
    the row is written to another database than the log's: no transaction could hold both.
    """

    def decorate(model: type[ModelT]) -> type[ModelT]:
        if not hasattr(model, "_meta") or model._meta.abstract:
            raise ImproperlyConfigured(f"{model.__name__} is abstract: decorate the models that have a table.")

        def tell(change: Change, instance: models.Model, using: str) -> None:
            _require_our_database(model, using)
            name = channel(instance) if callable(channel) else channel.format(instance=instance)
            if name is None:
                return
            publish(
                name,
                serialize(instance),
                event=change,
                id=None if version is None else _id(instance, change, version),
                key=key(instance),
                client=client(instance),
            )

        def on_save(instance: models.Model, created: bool, raw: bool, using: str, **_: object) -> None:
            if not raw:
                tell("created" if created else "updated", instance, using)

        def on_delete(instance: models.Model, using: str, **_: object) -> None:
            tell("deleted", instance, using)

        # Strong references: nobody else holds these functions.
        post_save.connect(on_save, sender=model, weak=False)
        post_delete.connect(on_delete, sender=model, weak=False)
        _in_a_transaction(model)
        return model

    return decorate


def _in_a_transaction(model: type[models.Model]) -> None:
    """Puts `save` into a transaction: Django sends `post_save` when a lone row is committed already. It deletes in one
    anyway."""
    save_base = model.save_base

    @wraps(save_base)
    def save_in_a_transaction(self: models.Model, *args: Any, **options: Any) -> None:
        using = options.get("using") or router.db_for_write(type(self), instance=self)
        # Without a savepoint, as Django: a save that fails in a block of the application spoils that block.
        with transaction.atomic(using=using, savepoint=False):
            save_base(self, *args, **options)

    model.save_base = save_in_a_transaction  # type: ignore[method-assign]


def _require_our_database(model: type[models.Model], using: str) -> None:
    if using != settings.DATABASE:
        raise ImproperlyConfigured(
            f"{model.__name__} was written to the database {using!r}, the log is in {settings.DATABASE!r}: they cannot "
            "commit together. Publish by hand, with transaction.on_commit."
        )


def _id(instance: models.Model, change: Change, version: str) -> str:
    """The same for the same version of the same row, and short enough for an id."""
    field: Any = getattr(instance, version)
    if hasattr(field, "resolve_expression"):
        raise ImproperlyConfigured(
            f"{version} of {type(instance).__name__} is an expression that only the database can tell; "
            "set a value, or call refresh_from_db() before it is published."
        )
    text = f"{instance._meta.label_lower}/{instance.pk}/{change}/{field}"
    if len(text) <= ID_CHARS_MOST and all("!" <= each <= "~" for each in text):
        return text
    return hashlib.sha256(text.encode()).hexdigest()


__all__ = ["publishes"]
