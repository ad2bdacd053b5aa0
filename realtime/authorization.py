"""Who may do what: the token's capability, the namespace's rules and an application's hook, all of which must agree.

`decide()` answers from memory and is safe on the event loop. Where an application registered a hook for the namespace
it answers `NeedsHook`, and the caller either blocks (`authorize`) or awaits (`authorize_async`): hooks may use the
ORM. The order of refusals is part of the contract (docs/reference/protocol.md#frames): `forbidden` before `not_found`,
so who lacks the capability never learns whether a namespace or a channel exists. This module knows no socket and no
request. It writes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from django.db import InterfaceError, OperationalError

from realtime import closings, elsewhere
from realtime.delivery.capability import OPERATIONS
from realtime.elsewhere import after_commit
from realtime.mirror import drop_broken_connections
from realtime.namespaces import Rules, rules_for
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName, namespace_of
from realtime.tokens import ANONYMOUS, Identity

__all__ = [
    "ANONYMOUS",
    "Context",
    "Identity",
    "NeedsHook",
    "Operation",
    "Rules",
    "allowed_operations",
    "authorize",
    "authorize_async",
    "authorizes",
    "decide",
    "on_reauthorize",
    "reauthorize",
    "reauthorize_here",
    "register",
    "unregister",
]

logger = logging.getLogger("realtime.authorization")

Operation = Literal["subscribe", "publish", "history", "presence", "signal", "admin"]
Context = Mapping[str, object]
Hook = Callable[[Identity, ChannelName, Operation, Context], bool]

# Four threads: a hook is a query or two. More would only queue at SQLite's lock or take connections from PostgreSQL.
HOOK_THREADS = 4
# A hook that hangs must not hold a connection's frames for longer than a client waits for an answer.
HOOK_TIMEOUT_S = 5.0
REMEMBERED_MOST = 20_000
IN_CLOSED: frozenset[Operation] = frozenset(("history", "admin"))
"""What a closed channel still allows."""
_NO_CONTEXT: Context = {}


@dataclass(frozen=True, slots=True)
class _Registered:
    hook: Hook
    remember_s: float
    sees_messages: bool


@dataclass(frozen=True, slots=True)
class NeedsHook:
    """The capability and the namespace agree; the namespace's hooks have still to be asked, in a thread."""

    rules: Rules
    identity: Identity
    channel: ChannelName
    operation: Operation
    sees_messages: bool = False
    """A hook looks at what is published: the answer holds for these messages alone."""


_hooks: dict[str, tuple[_Registered, ...]] = {}
_listeners: list[Callable[[ChannelName | None, str | None], None]] = []
_lock = threading.Lock()
# (client, kind, channel, operation) → until when a hook's yes holds. Only written where a hook was registered with
# `remember_s`, and only for questions without context: an answer about one message says nothing about the next.
_remembered: dict[tuple[str, str, ChannelName, Operation], float] = {}
_changes = 0
"""How often rights may have changed: what a hook said before such a change must not be remembered after it."""


# ---------------------------------------------------------------- hooks


def register(namespace: str, hook: Hook, *, remember_s: float = 0.0, sees_messages: bool = False) -> None:
    """Ask `hook(identity, channel, operation, context)` before anything is allowed in `namespace`.

    The hook is called only for what the capability and the namespace already allow: it can narrow, never widen. `True`
    allows; any other value refuses, and so does an exception (logged). It runs in a thread and may use the ORM.
    Several hooks of one namespace must all agree. `remember_s` keeps a yes for that long, per client, channel and
    operation; `reauthorize()` forgets it.

    With `sees_messages` the hook is asked about every publish of a client, whatever it came by, and no yes to `publish`
    is remembered. The context is then {"messages": the `NewMessage`s, their `data` as canonical JSON text, "client":
    whom they are from, which for an API key may be another than the identity's, and "" for nobody}. It may raise
    ProtocolError `bad_frame` about what is not well formed. `publish` is also asked without messages, when it is only
    to be known whether something may be published at all.
    """
    with _lock:
        _hooks[namespace] = (*_hooks.get(namespace, ()), _Registered(hook, remember_s, sees_messages))


def unregister(namespace: str, hook: Hook) -> None:
    """Take a hook back (tests, reloading)."""
    with _lock:
        rest = tuple(each for each in _hooks.get(namespace, ()) if each.hook is not hook)
        if rest:
            _hooks[namespace] = rest
        else:
            _hooks.pop(namespace, None)
    _remembered.clear()


def authorizes(namespace: str, *, remember_s: float = 0.0, sees_messages: bool = False) -> Callable[[Hook], Hook]:
    """`register` as a decorator: `@authorizes("chat")`."""

    def put(hook: Hook) -> Hook:
        register(namespace, hook, remember_s=remember_s, sees_messages=sees_messages)
        return hook

    return put


# ---------------------------------------------------------------- decisions


def decide(identity: Identity, channel: ChannelName, operation: Operation) -> Rules | NeedsHook:
    """Decide from memory, without database or thread. Raises `forbidden`, then `not_found`.

    After `NeedsHook` the caller must ask `authorize_async` or `authorize`; nothing is allowed yet.
    """
    capability = identity.capability
    if capability is not None and not capability.allows(channel, operation):
        raise _forbidden(identity, channel, operation)
    try:
        rules = rules_for(channel)
    except ProtocolError as missing:
        # Without a capability of its own the client may know only what a namespace grants; one that does not exist
        # grants nothing.
        if missing.code == "not_found" and capability is None:
            raise _forbidden(identity, channel, operation) from None
        raise
    if not _granted(identity, rules, operation):
        raise _forbidden(identity, channel, operation)
    if operation not in IN_CLOSED and closings.is_closed(channel):
        raise closings.closed(channel)
    registered = _hooks.get(rules.name)
    if registered is None:
        return rules
    if operation == "publish" and any(each.sees_messages for each in registered):
        return NeedsHook(rules, identity, channel, operation, True)
    if _remembered and _remembered.get((identity.client, identity.kind, channel, operation), 0.0) > time.monotonic():
        return rules
    return NeedsHook(rules, identity, channel, operation)


def authorize(identity: Identity, channel: ChannelName, operation: Operation, context: Context | None = None) -> Rules:
    """Decide, asking the hooks in the calling thread. Not for the event loop."""
    decision = decide(identity, channel, operation)
    if isinstance(decision, NeedsHook):
        _ask(decision, context)
        return decision.rules
    return decision


async def authorize_async(
    identity: Identity, channel: ChannelName, operation: Operation, context: Context | None = None
) -> Rules:
    """Decide; hooks are asked in a small pool of threads of their own, so that a slow one delays nobody else."""
    decision = decide(identity, channel, operation)
    if not isinstance(decision, NeedsHook):
        return decision
    try:
        async with asyncio.timeout(HOOK_TIMEOUT_S):
            await asyncio.get_running_loop().run_in_executor(_pool(), _ask_in_pool, decision, context)
    except TimeoutError:
        logger.error(
            "The authorization hook of namespace %s took over %s s.",
            decision.rules.name,
            HOOK_TIMEOUT_S,
            extra={"channel": channel, "client": identity.client},
        )
        raise _undecided(channel) from None
    return decision.rules


def allowed_operations(identity: Identity, channel: ChannelName) -> frozenset[Operation]:
    """All operations that `authorize` would allow now, hooks included. For pages that show or hide buttons."""
    found: set[Operation] = set()
    for operation in OPERATIONS:
        try:
            authorize(identity, channel, operation)  # type: ignore[arg-type]  # OPERATIONS are exactly the literals
        except ProtocolError:
            continue
        found.add(operation)  # type: ignore[arg-type]  # as above
    return frozenset(found)


def _granted(identity: Identity, rules: Rules, operation: Operation) -> bool:
    if operation == "presence" and not rules.presence:
        return False
    if identity.kind == "anonymous":
        return operation in rules.anonymous_ops
    if identity.capability is None:
        return operation in rules.known_ops
    return True


def _forbidden(identity: Identity, channel: ChannelName, operation: Operation) -> ProtocolError:
    if identity.kind == "anonymous":
        remedy = "Sign in, or send a token that allows it."
    elif identity.capability is None:
        remedy = "Use a token with a capability for the channel, or ask the operator to grant it in the namespace."
    else:
        remedy = "Use a token or key whose capability covers the operation on this channel."
    return ProtocolError(
        "forbidden", f"{_who(identity)} may not {operation} on {channel}.", remedy=remedy, channel=channel
    )


def _who(identity: Identity) -> str:
    return "Who is not signed in" if identity.kind == "anonymous" else f"Client {identity.client}"


def _undecided(channel: ChannelName) -> ProtocolError:
    return ProtocolError(
        "unavailable",
        "The application could not decide on this request in time.",
        channel=channel,
        retry_after_ms=1000,
    )


# ---------------------------------------------------------------- asking hooks


def _ask(question: NeedsHook, context: Context | None) -> None:
    """Ask every hook of the namespace; raises when one does not agree. Fails closed."""
    identity, channel, operation = question.identity, question.channel, question.operation
    registered = _hooks.get(namespace_of(channel), ())
    changes = _changes
    for each in registered:
        try:
            allowed = each.hook(identity, channel, operation, context or _NO_CONTEXT)
        except ProtocolError:
            raise
        except (OperationalError, InterfaceError) as error:
            logger.warning("The authorization hook of namespace %s lost the database: %s", question.rules.name, error)
            raise _undecided(channel) from error
        except Exception as error:
            logger.exception(
                "The authorization hook of namespace %s failed.",
                question.rules.name,
                extra={"channel": channel, "client": identity.client},
            )
            raise ProtocolError(
                "internal", "The application failed to decide on this request.", channel=channel
            ) from error
        if allowed is not True:
            raise ProtocolError(
                "forbidden",
                f"The application does not let {_who(identity)} {operation} on {channel}.",
                remedy="Ask for access where the application gives it.",
                channel=channel,
            )
    remember_s = min((each.remember_s for each in registered), default=0.0)
    if remember_s > 0 and not context and not question.sees_messages and changes == _changes:
        if len(_remembered) >= REMEMBERED_MOST:
            _remembered.clear()
        _remembered[(identity.client, identity.kind, channel, operation)] = time.monotonic() + remember_s


def _ask_in_pool(question: NeedsHook, context: Context | None) -> None:
    """`_ask` in a thread that lives as long as the process: a connection that broke meanwhile is no answer."""
    try:
        _ask(question, context)
    except ProtocolError as error:
        # A hook only reads, so that asking it twice does no harm.
        if error.code != "unavailable" or not drop_broken_connections():
            raise
        _ask(question, context)


_executor: ThreadPoolExecutor | None = None


def _pool() -> ThreadPoolExecutor:
    global _executor
    with _lock:
        if _executor is None:
            _executor = ThreadPoolExecutor(HOOK_THREADS, thread_name_prefix="seriatim-authorize")
        return _executor


# ---------------------------------------------------------------- asking again


def on_reauthorize(listener: Callable[[ChannelName | None, str | None], None]) -> Callable[[], None]:
    """Call `listener(channel, client)` whenever rights may have changed; returns what takes the listener off again.

    Called in the thread that changed them: a worker's listener must hop to its event loop itself.
    """
    with _lock:
        _listeners.append(listener)

    def stop() -> None:
        with _lock:
            if listener in _listeners:
                _listeners.remove(listener)

    return stop


def reauthorize(channel: ChannelName | None = None, client: str | None = None) -> None:
    """Say that rights changed: of a client, on a channel, of both, or (without arguments) all.

    Attachments concerned are decided anew and end with `detached`, reason `forbidden`, where the answer is now no.
    Holds at once in this process, and as soon as they hear of it in all others that serve clients. Inside `atomic()` it
    takes effect on commit, and only then: before that a hook would read the old rows. Any thread, also an event loop's.
    """
    after_commit(lambda: reauthorize_here(channel, client))
    elsewhere.tell("reauthorize", {"channel": channel, "client": client})


def reauthorize_here(channel: ChannelName | None, client: str | None) -> None:
    """The same for this process alone, now: also when another process said so. Any thread."""
    global _changes
    _changes += 1
    if channel is None and client is None:
        _remembered.clear()
    else:
        for question in list(_remembered):
            if (channel is None or question[2] == channel) and (client is None or question[0] == client):
                _remembered.pop(question, None)
    with _lock:
        listeners = list(_listeners)
    for listener in listeners:
        try:
            listener(channel, client)
        except Exception:  # one listener's fault must not keep the others on old rights
            logger.exception("A listener for changed rights failed.")
