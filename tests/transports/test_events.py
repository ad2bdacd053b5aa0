"""Server-Sent Events and streams: one channel, many channels, resuming, refusals, slowness, leaving."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from realtime import publishing, tokens, worker
from realtime.conf import settings
from realtime.delivery.admission import Limits
from realtime.log import retention
from realtime.models import Namespace
from realtime.protocol import events
from realtime.protocol.errors import ProtocolError
from tests.conftest import aeventually
from tests.conversation import connected, in_thread, token
from tests.transports.exchange import Exchange, asked, opened, refused

pytestmark = pytest.mark.django_db(transaction=True)

NEWS = "/channels/news/events"


async def publish(channel: str, *data: object, **fields: Any) -> list[publishing.Receipt]:
    return [await in_thread(publishing.publish, channel, each, **fields) for each in data]


def serials(found: list[dict[str, Any]]) -> list[int]:
    return [each["data"]["serial"] for each in found]


# ---------------------------------------------------------------------- one channel


async def test_a_channel_is_told_from_a_position_and_then_live() -> None:
    epoch = (await publish("news", 1, 2, 3))[0].epoch
    async with opened("GET", NEWS, [("from", f"{epoch}.1")]) as stream:
        found = await stream.messages(2)
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["cache-control"] == "no-store"
        first = stream.events[1]
        assert (first["event"], first["id"], first["data"]["serial"]) == ("attached", f"{epoch}.1", 1)
        await publish("news", 4)
        found = await stream.messages(3)
        assert serials(found) == [2, 3, 4]
        assert [each["id"] for each in found] == [f"{epoch}.{serial}" for serial in (2, 3, 4)]


async def test_last_event_id_wins() -> None:
    epoch = (await publish("news", 1, 2, 3))[0].epoch
    headers = [(b"last-event-id", f"{epoch}.2".encode())]
    async with opened("GET", NEWS, [("from", "start")], headers=headers) as stream:
        assert serials(await stream.messages(1)) == [3]


async def test_who_waited_at_the_head_and_heard_nothing_resumes_there() -> None:
    """An id comes with `attached`: what is published while the browser reconnects is not lost."""
    await publish("news", 1)
    async with opened("GET", NEWS) as stream:
        position = (await stream.told("attached"))["id"]
    await publish("news", 2)
    async with opened("GET", NEWS, headers=[(b"last-event-id", position.encode())]) as stream:
        assert serials(await stream.messages(1)) == [2]


async def test_a_channel_that_is_born_while_somebody_waits_begins_with_its_epoch() -> None:
    async with opened("GET", "/channels/unborn/events") as stream:
        assert (await stream.told("attached"))["id"] == ".0"
        epoch = (await publish("unborn", "first"))[0].epoch
        assert (await stream.messages(1))[0]["id"] == f"{epoch}.1"
    async with opened("GET", "/channels/unborn/events", headers=[(b"last-event-id", b".0")]) as stream:
        assert serials(await stream.messages(1)) == [1]


async def test_what_retention_took_is_told_with_an_id_to_resume_from() -> None:
    epoch = (await publish("news", *range(6)))[0].epoch
    await in_thread(retention.prune, "news", 4)
    async with opened("GET", NEWS, [("from", f"{epoch}.1")]) as stream:
        skipped = await stream.told("skipped")
        assert (skipped["id"], skipped["data"]["from"], skipped["data"]["to"]) == (f"{epoch}.4", 2, 4)
        assert "id" not in await stream.told("attached")
        assert serials(await stream.messages(2)) == [5, 6]


async def test_another_epoch_is_told_and_its_log_read_from_the_start() -> None:
    epoch = (await publish("news", 1, 2))[0].epoch
    async with opened("GET", NEWS, headers=[(b"last-event-id", b"another.7")]) as stream:
        assert (await stream.told("skipped"))["id"] == f"{epoch}.0"
        assert serials(await stream.messages(2)) == [1, 2]


async def test_a_new_epoch_in_mid_stream_changes_the_ids() -> None:
    await publish("news", 1, 2)
    async with opened("GET", NEWS) as stream:
        await stream.told("attached")
        await in_thread(retention.new_epoch, "news")
        await stream.told("skipped")
        epoch = (await publish("news", 3))[0].epoch
        await stream.until(lambda: bool(stream.named("message")))
        assert stream.named("message")[-1]["id"].startswith(f"{epoch}.")


async def test_messages_of_a_snapshot_have_no_ids_but_its_end_has() -> None:
    await publish("news", 1, 2, key="a")
    epoch = (await publish("news", 3, key="b"))[0].epoch
    async with opened("GET", NEWS, [("from", "latest")]) as stream:
        end = await stream.told("snapshot.end")
        assert serials(stream.named("message")) == [2, 3]
        assert not any("id" in each for each in [*stream.named("message"), *stream.named("attached")])
        assert end["id"] == f"{epoch}.3"


async def test_data_that_looks_like_a_snapshot_is_none() -> None:
    epoch = (await publish("news", {"a": 1, "snapshot": True}))[0].epoch
    async with opened("GET", NEWS, [("from", "start")]) as stream:
        assert (await stream.messages(1))[0]["id"] == f"{epoch}.1"


async def test_heartbeats_are_comments(realtime_settings: Any) -> None:
    realtime_settings(HEARTBEAT_MS=1000)
    async with opened("GET", NEWS) as stream:
        await stream.until(lambda: b": heartbeat\n\n" in stream.body)


# ---------------------------------------------------------------------- refusals


async def test_errors_come_with_their_status_before_the_stream() -> None:
    await refused(401, "unauthorized", "GET", NEWS, auth=None)
    await refused(401, "unauthorized", "GET", NEWS, auth="not.a.token")
    await refused(403, "forbidden", "GET", NEWS, auth=token(cap={"news": ["publish", "history"]}))
    await refused(403, "forbidden", "GET", NEWS, [("from", "start")], auth=token(cap={"news": ["subscribe"]}))
    await refused(404, "not_found", "GET", "/channels/nowhere:x/events")
    await refused(400, "bad_channel", "GET", "/channels/a b/events")
    await refused(400, "bad_channel", "GET", "/channels/a%2Fb/events")


@pytest.mark.parametrize("position", ["", "x", "k3J9", "k3J9.", ".1", "k3J9.-1", "k3J9.99999999999999999", "a.b.c"])
async def test_positions_that_are_none_are_refused_and_only_for_those_who_may_attach(position: str) -> None:
    await refused(400, "bad_position", "GET", NEWS, [("from", position)])
    await refused(403, "forbidden", "GET", NEWS, [("from", position)], auth=token(cap={}))


async def test_a_forged_position_costs_nothing_but_a_word() -> None:
    epoch = (await publish("news", 1, 2))[0].epoch
    async with opened("GET", NEWS, headers=[(b"last-event-id", f"{epoch}.9007199254740991".encode())]) as stream:
        assert (await stream.told("skipped"))["data"]["reason"] == "epoch"
        assert serials(await stream.messages(2)) == [1, 2]


async def test_other_methods_are_refused_in_the_same_shape() -> None:
    await refused(405, "bad_frame", "POST", NEWS)


async def test_a_huge_query_is_refused() -> None:
    await refused(413, "too_large", "GET", "/events", [("attach", "x" * 20_000)])
    many = [("attach", f"c{number}") for number in range(settings.MAX_ATTACHMENTS + 1)]
    await refused(429, "limit_exceeded", "GET", "/events", many)


async def test_hosts_and_origins_are_checked(realtime_settings: Any) -> None:
    realtime_settings(ORIGINS=["https://friend.example"])
    await refused(403, "forbidden", "GET", NEWS, headers=[(b"origin", b"https://foe.example")])
    async with opened("GET", NEWS, headers=[(b"origin", b"https://friend.example")]) as stream:
        await stream.told("attached")
        assert stream.headers["access-control-allow-origin"] == "https://friend.example"
    preflight = Exchange("OPTIONS", f"/api/v1{NEWS}", headers=[(b"origin", b"https://friend.example")], auth=None)
    preflight.start()
    await preflight.answer()
    assert preflight.status == 204
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    await preflight.leave()


async def test_a_full_worker_says_when_to_come_back() -> None:
    async with opened("GET", NEWS) as stream:
        await stream.told("attached")
        running = worker.current()
        assert running is not None
        running.load.admission.limits = Limits(connections=1)
        error = await refused(503, "unavailable", "GET", NEWS)
        assert error["retry_after_ms"] > 0
    await aeventually(lambda: running.load.connections == 0)


# ---------------------------------------------------------------------- credentials


@pytest.fixture
def cookie(transactional_db: None) -> tuple[Client, tuple[bytes, bytes]]:
    browser = Client()
    browser.force_login(get_user_model().objects.create_user("ana", password="ana"))
    return browser, (b"cookie", f"sessionid={browser.session.session_key}".encode())


async def test_this_sites_cookie_counts_and_logging_out_ends_the_stream(cookie: Any) -> None:
    browser, header = cookie
    from realtime.models import Namespace

    await in_thread(lambda: Namespace.objects.create(name="room", known_ops=["subscribe"]))
    await refused(401, "unauthorized", "GET", "/channels/room:a/events", auth=None)
    foreign = [header, (b"sec-fetch-site", b"cross-site")]
    await refused(401, "unauthorized", "GET", "/channels/room:a/events", auth=None, headers=foreign)
    async with opened("GET", "/channels/room:a/events", auth=None, headers=[header]) as stream:
        await stream.told("attached")
        await in_thread(browser.logout)
        assert (await stream.told("close"))["data"]["code"] == 4401
        await stream.until(lambda: stream.complete)


async def test_a_revoked_api_key_ends_its_streams() -> None:
    row, key = await in_thread(tokens.create_api_key, "backend")
    async with opened("GET", NEWS, auth=key) as stream:
        await stream.told("attached")
        await in_thread(tokens.revoke_api_key, row)
        running = worker.current()
        assert running is not None
        for client in list(running.clients):
            client.recheck_session()
        assert (await stream.told("close"))["data"]["code"] == 4401
    await refused(401, "unauthorized", "GET", NEWS, auth=key)


async def test_rights_that_end_end_the_stream_with_a_word() -> None:
    from realtime import authorization

    allowed = True
    authorization.register("default", lambda *_: allowed)
    try:
        async with opened("GET", NEWS) as stream:
            await stream.told("attached")
            allowed = False
            authorization.reauthorize("news")  # type: ignore[arg-type]
            assert (await stream.told("detached"))["data"]["reason"] == "forbidden"
            await stream.until(lambda: stream.complete)
    finally:
        authorization._hooks.pop("default")


async def test_a_token_that_expires_ends_the_stream(realtime_settings: Any) -> None:
    realtime_settings(TOKEN_LEEWAY_S=0, HEARTBEAT_MS=1000)
    async with opened("GET", NEWS, auth=token(ttl_s=1)) as stream:
        assert (await stream.told("close"))["data"]["code"] == 4401


# ---------------------------------------------------------------------- many channels


async def test_every_id_has_all_positions() -> None:
    a = (await publish("a", 1, 2))[0].epoch
    b = (await publish("b", 1))[0].epoch
    query = [("attach", f"a,{a}.1"), ("attach", f"b,{b}.1")]
    async with opened("GET", "/events", query) as stream:
        last = (await stream.messages(1))[0]["id"]
        mark = last.partition(":")[0]
        assert last == f"{mark}:{a}.2,{b}.1"
    await publish("a", 3)
    await publish("b", 2, 3)
    async with opened("GET", "/events", query, headers=[(b"last-event-id", last.encode())]) as stream:
        found = await stream.messages(3)
        assert sorted((each["data"]["channel"], each["data"]["serial"]) for each in found) == [
            ("a", 3), ("b", 2), ("b", 3),
        ]  # fmt: skip
        assert found[-1]["id"] == f"{mark}:{a}.3,{b}.3"
    other = [("attach", "a"), ("attach", "c")]
    await refused(400, "bad_position", "GET", "/events", other, headers=[(b"last-event-id", last.encode())])


async def test_a_channel_that_is_refused_is_told_beside_the_others() -> None:
    query = [("attach", "a"), ("attach", "b"), ("from", "head")]
    async with opened("GET", "/events", query, auth=token(cap={"a": ["subscribe"]})) as stream:
        assert (await stream.told("refused"))["data"]["channel"] == "b"
        await stream.told("attached")
    await refused(403, "forbidden", "GET", "/events", query, auth=token(cap={}))


async def test_a_snapshot_among_many_begins_again_until_it_was_whole() -> None:
    await publish("a", 1, key="k")
    await publish("b", 1)
    query = [("attach", "a,latest"), ("attach", "b,start")]
    async with opened("GET", "/events", query) as stream:
        await stream.told("snapshot.end")
        await stream.messages(2)
        for each in stream.events:
            if each.get("event") == "snapshot.end":
                break
            if "id" in each:
                assert events.split_ids(each["id"], each["id"].partition(":")[0], 2)[0] is None


# ---------------------------------------------------------------------- lines


async def test_a_stream_of_lines_has_the_frames_of_the_socket() -> None:
    epoch = (await publish("a", 1, 2))[0].epoch
    async with opened("GET", "/stream", [("attach", f"a,{epoch}.0"), ("attach", "b")]) as stream:
        await stream.told_line("message", 2)
        assert stream.headers["content-type"] == "application/x-ndjson"
        assert stream.lines[0]["type"] == "ready"
        assert {each["channel"] for each in stream.lines if each["type"] == "attached"} == {"a", "b"}
        async with connected() as peer:
            await peer.send({"type": "signal", "channel": "b", "event": "typing", "data": 1})
            assert (await stream.told_line("signal"))[0]["event"] == "typing"


async def test_a_list_may_come_in_a_body() -> None:
    epoch = (await publish("a", 1, 2))[0].epoch
    body = b'{"attach":[{"channel":"a","from":{"epoch":"%s","serial":1}},"b"]}' % str(epoch).encode()
    async with opened("POST", "/stream", body=body) as stream:
        assert [each["serial"] for each in await stream.told_line("message")] == [2]
    await refused(400, "bad_frame", "POST", "/stream", body=b'{"attach":{}}')
    await refused(400, "bad_frame", "POST", "/stream", body=b'{"attach":["a","a"]}')
    await refused(400, "bad_position", "POST", "/stream", body=b'{"attach":[{"channel":"a","from":{"cursor":"c"}}]}')


async def test_deltas_come_by_every_response_that_goes_on_and_not_by_polls() -> None:
    rules = {"known_ops": ["subscribe", "publish", "history"], "delta": True}
    await in_thread(Namespace.objects.create, name="board", **rules)
    body = json.dumps({"attach": [{"channel": "board:main", "delta": "fossil"}]}).encode()
    _, answer = await asked("POST", "/tickets", body=body)
    query = [("ticket", answer["ticket"])]
    async with opened("POST", "/stream", body=body) as lines, opened("GET", "/events", query, auth=None) as stream:
        assert (await lines.told_line("attached"))[0]["delta"] == "fossil"
        assert (await stream.told("attached"))["data"]["delta"] == "fossil"
        await publish("board:main", *[{"load": load, "state": "as it was before"} for load in range(3)])
        assert [each.get("base") for each in await lines.told_line("message", 3)] == [None, 1, 2]
        await stream.until(lambda: len(stream.named("message")) == 3)
        events = stream.named("message")
        assert [each["data"].get("base") for each in events] == [None, 1, 2]
        assert [each["data"]["serial"] for each in events] == [1, 2, 3]
    body = json.dumps({"attach": [{"channel": "board:main", "delta": "fossil", "from": "start"}]}).encode()
    status, answer = await asked("POST", "/poll", body=body)
    assert status == 200 and "delta" not in answer["frames"][0]
    assert [frame["data"]["load"] for frame in answer["frames"] if frame["type"] == "message"] == [0, 1, 2]


async def test_an_empty_list_in_a_body_says_who_one_is() -> None:
    async with opened("POST", "/stream", body=b'{"attach":[]}') as stream:
        assert (await stream.told_line("ready"))[0]["client"] is not None


# ---------------------------------------------------------------------- slowness and leaving


async def test_a_client_that_reads_nothing_costs_a_position(realtime_settings: Any) -> None:
    realtime_settings(SOCKET_BUFFER_HIGH_BYTES=20_000)
    async with opened("GET", NEWS) as stream:
        await stream.told("attached")
        stream.hold()
        await publish("news", *["x" * 2000] * 100)
        running = worker.current()
        assert running is not None
        assert running.hub.census().modes["waiting_socket"] == 1
        assert stream.offered < 100_000
        stream.take()
        assert serials(await stream.messages(100)) == list(range(1, 101))


async def test_one_that_takes_nothing_for_long_is_cut(realtime_settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    realtime_settings(HEARTBEAT_MS=1000)
    monkeypatch.setattr("realtime.transports.links.CLOSE_S", 0.2)
    was_cut = []
    extensions = {"seriatim.cut": lambda: was_cut.append(True)}
    async with opened("GET", NEWS, extensions=extensions) as stream:
        await stream.told("attached")
        stream.hold()
        await publish("news", 1)
        await aeventually(lambda: bool(was_cut))
        running = worker.current()
        assert running is not None
        await aeventually(lambda: running.counts.closed["sse", "server", 4410] == 1)


async def test_a_worker_that_drains_sends_streams_away_with_a_hint() -> None:
    async with opened("GET", NEWS) as stream, opened("GET", "/stream", [("attach", "news")]) as lines:
        await stream.told("attached")
        await lines.told_line("attached")
        running = worker.current()
        assert running is not None
        await running.drain()
        await stream.until(lambda: stream.complete)
        await lines.until(lambda: lines.complete)
        assert stream.events[-1]["data"]["code"] == 1012
        assert 0 <= int(stream.events[-2]["retry"]) <= 1000
        assert [each["type"] for each in lines.lines[-2:]] == ["reconnect", "close"]


async def test_transports_are_counted_apart() -> None:
    async with opened("GET", NEWS) as stream, opened("GET", "/stream", [("attach", "news")]) as lines:
        await stream.told("attached")
        await lines.told_line("attached")
        running = worker.current()
        assert running is not None
        assert (running.counts.opened["sse"], running.counts.opened["stream"]) == (1, 1)


def test_ids_of_another_list_are_none() -> None:
    assert events.split_ids("m:k3J9.4,,.0", "m", 3) == ["k3J9.4", None, ".0"]
    for text in ("", "m", "n:a.1,,", "m:a.1", "m:,,,"):
        with pytest.raises(ProtocolError, match="bad_position"):
            events.split_ids(text, "m", 3)


async def test_a_path_that_is_nobodys_is_djangos() -> None:
    from realtime.transports import routing

    for path in ("/api/v1/channels/a/messages", "/api/v1/eventsx", "/api/v1", "/ws", "/api/v2/events"):
        assert routing.find({"type": "http", "method": "GET", "path": path}) is None
