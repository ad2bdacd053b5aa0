"""`/metrics`: who may read it, in which format, and that it needs no database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from django.db import OperationalError
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from realtime import tokens, worker
from realtime.metrics import read, siblings
from tests.api.conftest import Api, assert_refused, token
from tests.conversation import in_thread, stop_worker

pytestmark = pytest.mark.django_db(transaction=True)

SCRAPER = {"$metrics": ["admin"]}


@pytest_asyncio.fixture
async def running(transactional_db: None) -> AsyncIterator[worker.Worker]:
    started = worker.ensure()
    await started.ready.wait()
    yield started
    await stop_worker()


def key(name: str, cap: Any) -> str:
    return tokens.create_api_key(name, cap)[1]


async def get(**more: Any) -> Any:
    return await in_thread(lambda: Api().request("GET", "/metrics", **more))


# ---------------------------------------------------------------------- who may read


@pytest.mark.parametrize("cap", [SCRAPER, {"*": ["*"]}, {"*": ["admin"]}, {"$*": ["admin"]}])
async def test_a_key_with_the_right_reads(running: worker.Worker, cap: Any) -> None:
    response = await get(auth=await in_thread(key, "scraper", cap))
    assert response.status_code == 200
    assert b'seriatim_worker_up{worker="' in response.content


@pytest.mark.parametrize(
    "cap", [dict(tokens.DEFAULT_KEY_CAPABILITY), {"chat:*": ["*"]}, {"$metrics": ["subscribe", "history"]}, {}]
)
async def test_a_key_without_it_does_not(running: worker.Worker, cap: Any) -> None:
    assert_refused(await get(auth=await in_thread(key, "backend", cap)), 403, "forbidden", "$metrics")


async def test_others_do_not(running: worker.Worker) -> None:
    assert_refused(await get(auth=None), 401, "unauthorized")
    assert_refused(await get(auth="ser_nobody_0123456789abcdef"), 401, "unauthorized")
    assert_refused(await get(auth=token(cap={"*": ["*"]})), 403, "forbidden")
    revoked = await in_thread(tokens.create_api_key, "gone", SCRAPER)
    await in_thread(tokens.revoke_api_key, revoked[0])
    assert_refused(await get(auth=revoked[1]), 401, "unauthorized", "revoked")


async def test_addresses_that_are_named_need_no_key(running: worker.Worker, realtime_settings: Any) -> None:
    realtime_settings(METRICS_NETWORKS=["10.0.0.0/8", "127.0.0.1"])
    assert (await get(auth=None)).status_code == 200
    # A bad credential is never passed over.
    assert_refused(await get(auth="ser_nobody_0123456789abcdef"), 401, "unauthorized")
    realtime_settings(METRICS_NETWORKS=["10.0.0.0/8"])
    assert_refused(await get(auth=None), 401, "unauthorized")


@pytest.mark.parametrize("header", ["X_Forwarded_For", "Forwarded", "X_Real_IP"])
async def test_what_a_proxy_forwards_needs_a_key(running: worker.Worker, realtime_settings: Any, header: str) -> None:
    realtime_settings(METRICS_NETWORKS=["127.0.0.0/8"])
    assert_refused(await get(auth=None, **{header: "127.0.0.1"}), 401, "unauthorized")


async def test_only_reading_is_known(running: worker.Worker) -> None:
    auth = await in_thread(key, "scraper", SCRAPER)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        response = await in_thread(lambda method=method: Api().request(method, "/metrics", auth=auth))
        assert_refused(response, 405, "bad_frame")
        assert response.headers["Allow"] == "GET, HEAD"
    head = await in_thread(lambda: Api().request("HEAD", "/metrics", auth=auth))
    assert (head.status_code, head.content) == (200, b"")


async def test_a_process_without_a_worker_says_so(transactional_db: None) -> None:
    await stop_worker()
    assert_refused(await get(auth=await in_thread(key, "scraper", SCRAPER)), 404, "not_found", "no worker")


# ---------------------------------------------------------------------- what is read


async def test_both_formats_are_spoken(running: worker.Worker) -> None:
    auth = await in_thread(key, "scraper", SCRAPER)
    plain = await get(auth=auth)
    assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert plain.headers["Cache-Control"] == "no-store"
    assert {"seriatim_connections", "seriatim_round_seconds"} <= {f.name for f in parse_text(plain.content.decode())}
    # As Prometheus asks.
    asked = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    open_metrics = await get(auth=auth, Accept=asked)
    assert open_metrics.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.content.endswith(b"# EOF\n")
    units = {family.name: family.unit for family in parse_openmetrics(open_metrics.content.decode())}  # type: ignore[no-untyped-call]
    assert units["seriatim_round_seconds"] == "seconds" and units["seriatim_sent_bytes"] == "bytes"


async def test_refusals_of_rest_are_among_them(running: worker.Worker) -> None:
    auth = await in_thread(key, "scraper", SCRAPER)

    def refused(response: Any) -> dict[str, float]:
        family = next(f for f in parse_text(response.content.decode()) if f.name == "seriatim_errors")
        return {s.labels["code"]: s.value for s in family.samples if s.labels["interface"] == "http"}

    before = refused(await get(auth=auth))
    await get(auth=None)
    await in_thread(lambda: Api().publish("a b", {"data": 1}))
    after = refused(await get(auth=auth))
    assert {code: after[code] - before[code] for code in after if after[code] != before[code]} == {
        "unauthorized": 1,
        "bad_channel": 1,
    }


async def test_the_numbers_are_there_while_the_database_is_away(
    running: worker.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was used before is known; nothing else is asked of the database."""
    auth = await in_thread(key, "scraper", SCRAPER)
    assert (await get(auth=auth)).status_code == 200

    def away(*_: object) -> Any:
        raise OperationalError("the database is away")

    monkeypatch.setattr(tokens, "_read_keys", away)
    monkeypatch.setattr(tokens, "_write_last_used", away)
    tokens._known_keys = {
        name: tokens._KnownKey(known.read_at - 500, known.secret_hash, known.identity, known.revoked)
        for name, known in tokens._known_keys.items()
    }
    monkeypatch.setattr(tokens, "_refreshed_at", float("inf"))
    assert (await get(auth=auth)).status_code == 200
    assert_refused(await get(auth=f"{auth}x"), 401, "unauthorized")
    # Others need the row.
    assert_refused(await in_thread(lambda: Api().page("room", auth=auth)), 503, "unavailable")


async def test_siblings_are_asked_and_missing_ones_told(
    running: worker.Worker, realtime_settings: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    realtime_settings(WORKERS=3)
    monkeypatch.setattr(siblings, "_folder", tmp_path)
    other = siblings.Answerer(tmp_path, "w2", lambda question: siblings.encoded(read(running)))
    other.start()
    garbage = siblings.Answerer(tmp_path, "w4", lambda question: b"not JSON")
    garbage.start()
    monkeypatch.setattr(running, "name", "w1")
    try:
        response = await get(auth=await in_thread(key, "scraper", SCRAPER))
    finally:
        other.stop()
        garbage.stop()
    families = {family.name: family for family in parse_text(response.content.decode())}
    up = {sample.labels["worker"]: sample.value for sample in families["seriatim_worker_up"].samples}
    assert up == {"w1": 1, "w2": 1, "w3": 0, "w4": 0}
    assert {s.labels["worker"] for s in families["seriatim_process_threads"].samples} == {"w1", "w2"}
    assert families["seriatim_workers_configured"].samples[0].value == 3
