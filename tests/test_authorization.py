"""Capability, namespace and hook must agree; the order of refusals hides what exists from who may not know."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, transaction

from realtime import authorization, closings, namespaces
from realtime.authorization import (
    ANONYMOUS,
    Identity,
    NeedsHook,
    allowed_operations,
    authorize,
    authorize_async,
    authorizes,
    decide,
    on_reauthorize,
    reauthorize,
    register,
    unregister,
)
from realtime.delivery.capability import Capability
from realtime.namespaces import Rules
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName, ClientId, parse_channel

RULES = {
    "default": Rules("default", known_ops=frozenset({"subscribe", "publish"})),
    "chat": Rules("chat", known_ops=frozenset({"subscribe"}), anonymous_ops=frozenset({"history"})),
    "quiet": Rules("quiet", presence=False, known_ops=frozenset({"presence"})),
}


@pytest.fixture(autouse=True)
def rules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Known namespaces without a database: `decide` must need none."""
    monkeypatch.setattr(namespaces, "_current", lambda: RULES)
    monkeypatch.setattr(closings.mirror, "current", lambda: frozenset())
    hooks = dict(authorization._hooks)
    authorization._hooks.clear()  # those of the site's applications
    authorization._remembered.clear()
    yield
    authorization._hooks.clear()
    authorization._hooks.update(hooks)
    authorization._remembered.clear()


def client(cap: Any = None, name: str = "ana") -> Identity:
    return Identity(ClientId(name), None if cap is None else Capability.parse(cap), "token")


def refused(identity: Identity, channel: str, operation: Any) -> str:
    with pytest.raises(ProtocolError) as caught:
        authorize(identity, parse_channel(channel), operation)
    assert caught.value.channel == channel
    return caught.value.code


CHAT = parse_channel("chat:x")

TABLE: list[tuple[Identity, str, str, str]] = [
    # a capability of its own
    (client({"chat:*": ["publish"]}), "chat:x", "publish", "ok"),
    (client({"chat:*": ["publish"]}), "chat:x", "subscribe", "forbidden"),
    (client({"chat:*": ["publish"]}), "other", "publish", "forbidden"),
    (client({"*": ["*"]}), "chat:x", "admin", "ok"),
    (client({}), "chat:x", "subscribe", "forbidden"),
    (client({"nobody:*": ["publish"]}), "nobody:x", "publish", "not_found"),
    (client({"nobody:*": ["publish"]}), "nobody:x", "subscribe", "forbidden"),
    (client({}), "nobody:x", "subscribe", "forbidden"),
    # the namespace narrows it
    (client({"*": ["*"]}), "quiet:x", "presence", "forbidden"),
    (client(), "quiet:x", "presence", "forbidden"),
    # none: what the namespace grants to anyone known
    (client(), "chat:x", "subscribe", "ok"),
    (client(), "chat:x", "publish", "forbidden"),
    (client(), "x", "publish", "ok"),
    (client(), "nobody:x", "subscribe", "forbidden"),
    # anonymous
    (ANONYMOUS, "chat:x", "history", "ok"),
    (ANONYMOUS, "chat:x", "subscribe", "forbidden"),
    (ANONYMOUS, "x", "subscribe", "forbidden"),
    (ANONYMOUS, "nobody:x", "history", "forbidden"),
]


@pytest.mark.parametrize(("identity", "channel", "operation", "expected"), TABLE)
def test_decisions(identity: Identity, channel: str, operation: Any, expected: str) -> None:
    if expected == "ok":
        assert isinstance(decide(identity, parse_channel(channel), operation), Rules)
        assert authorize(identity, parse_channel(channel), operation) in RULES.values()
    else:
        assert refused(identity, channel, operation) == expected


def test_a_refusal_says_nothing_about_existence() -> None:
    """Who lacks the capability hears the same of a namespace that exists and of one that does not."""

    def text(channel: str) -> str:
        with pytest.raises(ProtocolError) as caught:
            decide(client({}), parse_channel(channel), "subscribe")
        return str(caught.value).replace(channel, "…")

    assert text("chat:x") == text("nobody:x")


def test_a_cold_cache_is_not_mistaken_for_a_missing_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    def cold() -> Any:
        raise ProtocolError("unavailable")

    monkeypatch.setattr(namespaces, "_current", cold)
    with pytest.raises(ProtocolError) as caught:
        decide(client(), CHAT, "subscribe")
    assert caught.value.code == "unavailable"


# ---------------------------------------------------------------- hooks


def test_a_hook_is_asked_with_everything_and_only_narrows() -> None:
    asked: list[tuple[object, ...]] = []

    @authorizes("chat")
    def hook(identity: Identity, channel: ChannelName, operation: str, context: Any) -> bool:
        asked.append((identity.client, channel, operation, dict(context)))
        return channel == "chat:open"

    anyone = client({"*": ["*"]})
    assert isinstance(decide(anyone, CHAT, "publish"), NeedsHook)
    assert authorize(anyone, parse_channel("chat:open"), "publish", {"key": "k"}).name == "chat"
    assert refused(anyone, "chat:x", "publish") == "forbidden"
    assert refused(client({}), "chat:open", "publish") == "forbidden"
    assert asked == [("ana", "chat:open", "publish", {"key": "k"}), ("ana", "chat:x", "publish", {})]
    assert isinstance(decide(anyone, parse_channel("x"), "publish"), Rules), "other namespaces have no hook"


@pytest.mark.parametrize("answer", [False, None, 1, "yes", [1]])
def test_only_true_allows(answer: Any) -> None:
    register("chat", lambda *_: answer)
    assert refused(client({"*": ["*"]}), "chat:x", "publish") == "forbidden"


def test_all_hooks_of_a_namespace_must_agree() -> None:
    yes: Callable[..., bool] = lambda *_: True  # noqa: E731
    no: Callable[..., bool] = lambda *_: False  # noqa: E731
    register("chat", yes)
    authorize(client({"*": ["*"]}), CHAT, "publish")
    register("chat", no)
    assert refused(client({"*": ["*"]}), "chat:x", "publish") == "forbidden"
    unregister("chat", no)
    authorize(client({"*": ["*"]}), CHAT, "publish")
    unregister("chat", yes)
    assert isinstance(decide(client({"*": ["*"]}), CHAT, "publish"), Rules)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ZeroDivisionError("secret"), "internal"),
        (OperationalError("secret"), "unavailable"),
        (ProtocolError("forbidden", "Not today."), "forbidden"),
    ],
)
async def test_a_hook_that_fails_allows_nothing(fault: Exception, code: str) -> None:
    def hook(*_: object) -> bool:
        raise fault

    register("chat", hook)
    for ask in (authorize_async, None):
        with pytest.raises(ProtocolError) as caught:
            if ask is None:
                authorize(client({"*": ["*"]}), CHAT, "publish")
            else:
                await ask(client({"*": ["*"]}), CHAT, "publish")
        assert caught.value.code == code and "secret" not in str(caught.value)


async def test_on_an_event_loop_hooks_run_in_threads_of_their_own() -> None:
    threads: list[str] = []

    @authorizes("chat")
    def hook(*_: object) -> bool:
        threads.append(threading.current_thread().name)
        return True

    assert (await authorize_async(client({"*": ["*"]}), CHAT, "publish")).name == "chat"
    assert threads and threads[0].startswith("seriatim-authorize")


async def test_a_hook_that_hangs_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorization, "HOOK_TIMEOUT_S", 0.01)
    free = threading.Event()
    register("chat", lambda *_: free.wait(5))
    try:
        with pytest.raises(ProtocolError) as caught:
            await authorize_async(client({"*": ["*"]}), CHAT, "publish")
        assert caught.value.code == "unavailable"
    finally:
        free.set()


def test_a_remembered_yes_needs_no_hook_until_rights_change(django_db_blocker: Any) -> None:
    answers = [True]
    register("chat", lambda *_: answers[0], remember_s=60)
    anyone, other = client({"*": ["*"]}), client({"*": ["*"]}, "ben")
    authorize(anyone, CHAT, "publish")
    answers[0] = False
    assert isinstance(decide(anyone, CHAT, "publish"), Rules)
    assert isinstance(decide(anyone, CHAT, "subscribe"), NeedsHook), "another operation"
    assert isinstance(decide(other, CHAT, "publish"), NeedsHook), "another client"
    assert refused(client({}), "chat:x", "publish") == "forbidden", "the capability is asked all the same"
    authorization.reauthorize_here(None, "ben")
    assert isinstance(decide(anyone, CHAT, "publish"), Rules)
    authorization.reauthorize_here(CHAT, "ana")
    assert isinstance(decide(anyone, CHAT, "publish"), NeedsHook)


def test_an_answer_about_a_context_and_a_no_are_not_remembered() -> None:
    answers = [True]
    register("chat", lambda *_: answers[0], remember_s=60)
    anyone = client({"*": ["*"]})
    authorize(anyone, CHAT, "publish", {"key": "k"})
    assert isinstance(decide(anyone, CHAT, "publish"), NeedsHook)
    answers[0] = False
    assert refused(anyone, "chat:x", "publish") == "forbidden"
    assert isinstance(decide(anyone, CHAT, "publish"), NeedsHook)


def test_a_hook_that_sees_messages_is_asked_about_every_publish() -> None:
    asked: list[tuple[str, Any]] = []
    context = {"messages": ["m"], "client": "ana"}

    @authorizes("chat", remember_s=60, sees_messages=True)
    def hook(identity: Identity, channel: ChannelName, operation: str, context: Any) -> bool:
        asked.append((operation, dict(context)))
        return True

    anyone = client({"*": ["*"]})
    for _ in range(2):
        authorize(anyone, CHAT, "publish", context)
        authorize(anyone, CHAT, "publish")
        authorize(anyone, CHAT, "subscribe")
    assert asked == [
        ("publish", context),
        ("publish", {}),
        ("subscribe", {}),
        ("publish", context),
        ("publish", {}),
    ], "a yes to publish holds for its messages alone; one to subscribe is remembered"
    decision = decide(anyone, CHAT, "publish")
    assert isinstance(decision, NeedsHook) and decision.sees_messages


def test_allowed_operations_are_those_that_all_three_allow() -> None:
    register("chat", lambda _identity, _channel, operation, _context: operation != "publish")
    anyone = client({"chat:*": ["publish", "subscribe"], "*": ["history"]})
    assert allowed_operations(anyone, CHAT) == {"subscribe", "history"}
    assert allowed_operations(client(), parse_channel("nobody:x")) == frozenset()


# ---------------------------------------------------------------- reauthorize


@pytest.mark.django_db(transaction=True)
def test_reauthorize_tells_listeners_after_the_commit() -> None:
    told: list[tuple[object, object]] = []

    def broken(*_: object) -> None:
        raise RuntimeError

    stops = [on_reauthorize(broken), on_reauthorize(lambda *about: told.append(about))]
    reauthorize(CHAT, "ana")
    assert told == [(CHAT, "ana")]
    with transaction.atomic():
        reauthorize(client="ben")
        assert len(told) == 1
    assert told[1:] == [(None, "ben")]
    with pytest.raises(RuntimeError), transaction.atomic():
        reauthorize()
        raise RuntimeError
    assert len(told) == 2
    for stop in stops:
        stop()
    reauthorize()
    assert len(told) == 2
