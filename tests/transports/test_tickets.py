"""Tickets: what they open, for how long, and what they do not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from realtime import publishing, revocations, tokens, worker
from realtime.models import Namespace
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ClientId
from realtime.tokens import Identity
from realtime.transports import attaching, tickets
from tests.conversation import OWN_ORIGIN, bearer, in_thread, token
from tests.transports.exchange import asked, opened, refused

pytestmark = pytest.mark.django_db(transaction=True)


async def ticket(*attach: object, **options: Any) -> str:
    status, answer = await asked("POST", "/tickets", body=json.dumps({"attach": attach}).encode(), **options)
    assert status == 201, answer
    assert answer["url"] == f"/api/v1/events?ticket={answer['ticket']}"
    found: str = answer["ticket"]
    return found


async def publish(channel: str, *data: object) -> Any:
    return [await in_thread(publishing.publish, channel, each) for each in data][-1].epoch


def given(text: str) -> dict[str, Any]:
    return {"query": [("ticket", text)], "auth": None}


async def test_a_ticket_opens_the_events_of_its_list_again_and_again() -> None:
    epoch = await publish("a", 1, 2)
    text = await ticket({"channel": "a", "from": {"epoch": epoch, "serial": 1}}, "b")
    async with opened("GET", "/events", **given(text)) as stream:
        last = (await stream.messages(1))[0]
        assert last["data"]["data"] == 2
        await stream.until(lambda: len(stream.named("attached")) == 2)
        last_id = stream.events[-1]["id"]
    await publish("a", 3)
    async with opened("GET", "/events", headers=[(b"last-event-id", last_id.encode())], **given(text)) as stream:
        assert (await stream.messages(1))[0]["data"]["data"] == 3
    async with opened("GET", "/channels/b/events", **given(text)) as stream:
        await stream.told("attached")


async def test_the_positions_of_its_list_count_for_one_channel_alone_too() -> None:
    epoch = await publish("a", 1, 2, 3)
    text = await ticket("b", {"channel": "a", "from": {"epoch": epoch, "serial": 1}})
    async with opened("GET", "/channels/a/events", **given(text)) as stream:
        assert [each["data"]["data"] for each in await stream.messages(2)] == [2, 3]
    last_id = [(b"last-event-id", f"{epoch}.2".encode())]
    async with opened("GET", "/channels/a/events", headers=last_id, **given(text)) as stream:
        assert [each["data"]["data"] for each in await stream.messages(1)] == [3]


async def test_it_is_worthless_elsewhere() -> None:
    text = await ticket("a")
    await refused(403, "forbidden", "GET", "/channels/b/events", **given(text))
    await refused(400, "bad_frame", "GET", "/events", [("ticket", text), ("attach", "b")], auth=None)
    for method, path in (("GET", "/stream"), ("GET", "/poll")):
        await refused(401, "unauthorized", method, path, [("ticket", text), ("attach", "a")], auth=None)
    body = json.dumps({"type": "publish", "channel": "a", "messages": [{"data": 1}]}).encode()
    _, answers = await asked("POST", "/frames", [("ticket", text)], body=body, auth=None)
    assert answers[0]["code"] == "forbidden"
    await refused(401, "unauthorized", "POST", "/frames", body=body, auth=text)
    await refused(401, "unauthorized", "GET", "/events", [("attach", "a")], auth=text)
    with pytest.raises(ProtocolError, match="no ticket"):
        tickets.open_sealed(text, "another purpose", time.time())


async def test_it_holds_no_more_than_reading_its_list_needs() -> None:
    text = await ticket("a")
    identity, wanted = tickets.open_sealed(text, tickets.EVENTS, time.time())
    assert identity.client == "ana"
    assert identity.capability is not None
    assert identity.capability.grants() == {"a": ["history", "presence", "subscribe"]}
    assert [each.channel for each in wanted] == ["a"]
    assert "ana" not in text


async def test_a_token_that_may_not_read_gives_a_ticket_that_opens_nothing() -> None:
    text = await ticket("a", auth=token(cap={"a": ["publish"], "b": ["subscribe"]}))
    await refused(403, "forbidden", "GET", "/events", **given(text))


async def test_it_ends_with_its_token() -> None:
    text = await ticket("a", auth=token(ttl_s=5))
    tickets.open_sealed(text, tickets.EVENTS, time.time() + 14)
    with pytest.raises(ProtocolError, match="ended"):
        tickets.open_sealed(text, tickets.EVENTS, time.time() + 16)


async def test_it_is_revoked_with_its_token() -> None:
    jwt = token()
    text = await ticket("a", auth=jwt)
    jti = tokens.verify_token(jwt, time.time()).jti
    async with opened("GET", "/events", **given(text)) as stream:
        await stream.told("attached")
        await in_thread(revocations.revoke, "jti", str(jti))
        assert (await stream.told("close"))["data"]["code"] == 4401
    await refused(401, "unauthorized", "GET", "/events", **given(text))
    await refused(401, "unauthorized", "POST", "/tickets", body=b'{"attach":["a"]}', auth=jwt)


async def test_a_sessions_ticket_ends_with_the_session() -> None:
    browser = Client()

    def log_in() -> str:
        Namespace.objects.create(name="room", known_ops=["subscribe"])
        browser.force_login(get_user_model().objects.create_user("ana", password="ana"))
        browser.get("/accounts/login/")
        return str(browser.session.session_key)

    key = await in_thread(log_in)
    csrf = "c" * 32
    cookie = (b"cookie", f"sessionid={key}; csrftoken={csrf}".encode())
    allowed = [cookie, OWN_ORIGIN, (b"x-csrftoken", csrf.encode())]
    body = b'{"attach":["room:a"]}'
    await refused(403, "forbidden", "POST", "/tickets", body=body, auth=None, headers=[cookie])
    await refused(403, "forbidden", "POST", "/tickets", body=body, auth=None, headers=[cookie, OWN_ORIGIN])
    text = await ticket("room:a", auth=None, headers=allowed)
    assert key not in text
    # The namespace would allow it; the ticket is not for it.
    await refused(403, "forbidden", "GET", "/channels/room:b/events", **given(text))
    async with opened("GET", "/events", **given(text)) as stream:
        await stream.told("attached")
        await in_thread(browser.logout)
        assert (await stream.told("close"))["data"]["code"] == 4401
    await refused(401, "unauthorized", "GET", "/events", **given(text))


async def test_who_gets_none() -> None:
    body = b'{"attach":["a"]}'
    _, key = await in_thread(tokens.create_api_key, "backend")
    await refused(401, "unauthorized", "POST", "/tickets", body=body, auth=None)
    await refused(403, "forbidden", "POST", "/tickets", body=body, auth=key)
    await refused(400, "bad_frame", "POST", "/tickets", body=b"{}")
    await refused(405, "bad_frame", "GET", "/tickets")
    long = json.dumps({"attach": [f"{number}{'x' * 150}" for number in range(180)]}).encode()
    status, _ = await asked("POST", "/tickets", body=long)
    assert status == 201  # it packs well
    random = json.dumps({"attach": [tokens.hash_of_session(str(number)) for number in range(180)]}).encode()
    await refused(413, "too_large", "POST", "/tickets", body=random)


async def test_forged_tickets_are_refused() -> None:
    text = await ticket("a")
    last = "A" if text[-5] != "A" else "B"
    for forged in ("", "x", "a.b.c", text[:-1], f"{text[:-5]}{last}{text[-4:]}", text + "AAAA", "A" * 7000, "ä"):
        await refused(401, "unauthorized", "GET", "/events", **given(forged))


def test_a_changed_secret_key_opens_what_the_one_before_sealed(settings: Any) -> None:
    identity = Identity(ClientId("ana"), None, "token", time.time() + 60)
    text = tickets.issue(identity, [attaching.Wanted("a")])
    before, settings.SECRET_KEY = settings.SECRET_KEY, "another" * 10
    with pytest.raises(ProtocolError):
        tickets.open_sealed(text, tickets.EVENTS, time.time())
    settings.SECRET_KEY_FALLBACKS = [before]
    assert tickets.open_sealed(text, tickets.EVENTS, time.time())[0] == identity


async def test_a_header_goes_before_a_ticket() -> None:
    text = await ticket("a")
    headers = [bearer(token(cap={}))]
    query = [("ticket", text), ("attach", "a")]
    await refused(403, "forbidden", "GET", "/events", query, auth=None, headers=headers)
    assert worker.current() is not None
