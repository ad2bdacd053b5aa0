"""What a stranger tries on the pages' own addresses: forged requests, other people's names, markup, files that lie.

The same for rooms by every transport is in tests/transports/test_closed_rooms.py, for what scripts draw in
tests/test_chat_features_in_browser.py.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from django.apps import apps
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import URLPattern

from chat import urls as chat_urls
from chat.fold import fold
from chat.models import Room, Upload
from chat.uploads import Unsupported, examine
from config import urls as site_urls
from dashboards import urls as dashboard_urls
from dashboards.models import Dashboard, Share
from realtime import namespaces, publishing
from realtime.api import urls as api_urls
from tests.chatting import Person, logged, make_room, refusal
from tests.conversation import Peer, bearer, in_thread
from tests.test_chat_files import GIF, HTML, JPEG, PDF, PNG, WEBP, chunk, zipped
from tests.test_chat_messages import close_connections_of_hooks

pytestmark = pytest.mark.django_db

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")


@pytest.fixture(autouse=True)
def fresh(settings: Any, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = tmp_path
    namespaces.reset()
    publishing._buckets.clear()


@pytest.fixture
def ana() -> Person:
    return Person("ana", first_name="Ana", is_staff=True, is_superuser=True)


@pytest.fixture
def bo() -> Person:
    return Person("bo", first_name="Bo")


# ---------------------------------------------------------------------- requests that another site made


def addresses() -> list[str]:
    """One address of each pattern of chat, dashboards and the site's own pages."""
    share = Share.objects.create(dashboard=Dashboard.objects.create(slug="mine", name="Mine")).pk
    given = {"id": "x", "name": "y.png", "share": share}
    found = []
    for module in (chat_urls, dashboard_urls, site_urls):
        for pattern in module.urlpatterns:
            if not isinstance(pattern, URLPattern):
                continue
            given["slug"] = "mine" if module is dashboard_urls else "lobby"
            found.append("/" + re.sub(r"<\w+:(\w+)>", lambda match: given[match[1]], str(pattern.pattern)))
    assert not [each for each in found if "<" in each]
    return found


def everything() -> dict[str, list[Any]]:
    """All rows, to see whether one was touched."""
    labels = ("chat", "dashboards", "realtime", "auth")
    models = [model for model in apps.get_models() if model._meta.app_label in labels and model._meta.managed]
    return {model._meta.label: list(model._base_manager.order_by("pk").values()) for model in models}


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
def test_no_page_changes_anything_without_the_csrf_token(ana: Person, content_type: str) -> None:
    make_room("lobby", owner=ana)
    paths = addresses()
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(ana.user)
    before = everything()
    refused = set()
    for path in paths:
        for method in UNSAFE:
            response = browser.generic(method, path, "{}", content_type=content_type)
            assert response.status_code in (403, 404, 405), (method, path, response.status_code)
            if response.status_code == 403:
                refused.add((method, path))
    assert everything() == before
    # As many as there are that do something: with the token they are not refused.
    token = "x" * 32
    browser.cookies["csrftoken"] = token
    asked = [
        ("POST", f"/chat/lobby/{action}") for action in ("join", "invite", "mute", "role", "delete-message", "files")
    ]
    asked += [("POST", "/chat/rooms"), ("PATCH", "/chat/lobby/room"), ("PUT", "/dashboards/api/of/mine")]
    asked += [("POST", "/dashboards/api/of/mine/share"), ("POST", "/dashboards/api/vote"), ("POST", "/pages/mint")]
    for method, path in asked:
        assert (method, path) in refused
        given: dict[str, Any] = {"content_type": "application/json", "HTTP_X_CSRFTOKEN": token}
        assert browser.generic(method, path, "{}", **given).status_code != 403, (method, path)
        # The token is no use to a page that is not ours.
        foreign = browser.generic(method, path, "{}", HTTP_ORIGIN="https://foe.example", **given)
        assert foreign.status_code == 403, (method, path)


def test_the_interface_takes_no_change_from_a_cookie_alone(ana: Person) -> None:
    """Of an operator, who may do everything there."""
    names = {"name": "chat:lobby", "client": "bo"}
    make_room("lobby", owner=ana)
    ana.says("lobby", "stays")
    paths = []
    for pattern in api_urls.urlpatterns:
        text = re.sub(r"\(\?P<(\w+)>\(\?s:\.\*\)\)", lambda match: names[match[1]], str(pattern.pattern))
        paths.append("/" + re.sub(r"\\A|\\Z|\(\?:/\|\\Z\)", "", text))
    assert "/api/v1/channels/chat:lobby/messages" in paths and not [each for each in paths if "(" in each]
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(ana.user)
    token = "x" * 32
    browser.cookies["csrftoken"] = token
    before = everything()
    body = json.dumps({"data": 1, "channel": "chat:lobby", "messages": [{"data": 1}], "client": "bo", "upto": 1})
    for path in paths:
        for method in UNSAFE:
            # The right token from a foreign page, and none from ours.
            for headers in (
                {},
                {"Origin": "http://testserver"},
                {"Origin": "https://foe.example", "X-CSRFToken": token},
            ):
                response = browser.generic(method, path, body, content_type="application/json", headers=headers)
                assert response.status_code in (401, 403, 404, 405), (method, path, headers, response.content)
    assert everything() == before


def test_nothing_is_changed_by_a_get(ana: Person) -> None:
    """An image of another site is a GET with our cookie."""
    make_room("lobby", owner=ana)
    paths = addresses()
    before = everything()
    for path in paths:
        ana.browser.get(path, {"client": "bo", "q": "x", "date": "2026-01-01"})
    after = everything()
    # That somebody was here, and how far the log was read.
    for derived in ("chat.RoomIndex", "chat.LastSeen"):
        before.pop(derived, None), after.pop(derived, None)
    assert after == before


# ---------------------------------------------------------------------- in the name of somebody else


def test_what_is_said_is_said_by_who_said_it(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=ana, member=bo)
    first = ana.says("lobby", "mine")
    asked = [
        {"event": "message", "data": {"text": "x", "client": "ana"}, "client": "ana"},
        {"event": "react", "data": {"of": first, "emoji": "👍", "on": True, "client": "ana"}},
        {"event": "receipt", "data": {"through": first, "client": "ana"}},
    ]
    for message in asked:
        bo.publish("lobby", message)
        publishing._buckets.clear()
    bo.browser.post(
        "/api/v1/channels/chat:lobby/messages",
        {"client": "ana", "messages": [{"event": "message", "data": {"text": "forged"}}]},
        content_type="application/json",
        headers={"Authorization": f"Bearer {bo.token()}"},
    )
    stored = logged("chat:lobby")
    assert [client for client, _, _ in stored[1:] if client != "bo"] == []
    folded = fold(
        {"serial": serial, "id": str(serial), "client": client, "event": event, "data": data, "time": serial}
        for serial, (client, event, data) in enumerate(stored, 1)
    )
    assert [each["clients"] for each in folded.messages()[0]["reactions"]] == [["bo"]]
    assert set(folded.receipts()) == {"bo"}


@pytest_asyncio.fixture
async def sockets(transactional_db: None) -> Any:
    """bo's WebSocket, in a room where ana said something."""

    def make() -> Person:
        ana, bo = Person("ana"), Person("bo")
        make_room("lobby", owner=ana)
        ana.says("lobby", "mine")
        publishing._buckets.clear()
        return bo

    bo = await in_thread(make)
    peer = Peer(bearer(bo.token()))
    assert await peer.connect()
    await peer.read(type="ready")
    yield peer
    await peer.leave()
    from tests.conversation import stop_worker

    await stop_worker()
    close_connections_of_hooks()


@pytest.mark.django_db(transaction=True)
async def test_nor_over_a_socket(sockets: Peer) -> None:
    for message in (
        {"event": "edit", "data": {"of": 1, "text": "forged"}},
        {"event": "delete", "data": {"of": 1, "by": "ana"}},
        {"event": "member", "data": {"action": "role", "client": "bo", "role": "owner"}},
    ):
        answer = await sockets.request("publish", channel="chat:lobby", messages=[message])
        assert answer["code"] == "forbidden", message
        answer = await sockets.request("publish", channel="chat:lobby", messages=[{**message, "client": "ana"}])
        assert answer["type"] == "error", message
    reaction = {"event": "react", "data": {"of": 1, "emoji": "👍", "on": True, "client": "ana"}}
    await sockets.request("attach", channel="chat:lobby")
    assert "serials" in await sockets.request("publish", channel="chat:lobby", messages=[reaction])
    assert (await sockets.read(type="message", event="react"))["client"] == "bo"


# ---------------------------------------------------------------------- markup in what people write


NASTY = "\"'></script><x-evil onmouseover=alert(1)>"


def test_no_page_takes_markup_from_what_people_write(ana: Person, bo: Person) -> None:
    ana.user.first_name = bo.user.first_name = NASTY
    ana.user.save()
    bo.user.save()
    room = make_room("lobby", owner=ana, member=bo)
    Room.objects.filter(pk=room.pk).update(name=NASTY, topic=NASTY)
    direct = ana.post("direct", {"client": "bo"}).json()["slug"]
    ana.says("lobby", NASTY)
    ana.post("lobby/mute", {"client": "bo", "minutes": 1})
    dashboard = Dashboard.objects.create(slug="mine", name=NASTY, owner=ana.user, is_public=True)
    dashboard.widgets.create(kind="line", title=NASTY, channel="demo:x")
    share = Share.objects.create(dashboard=dashboard)
    shown = ["/chat/lobby/", f"/chat/{direct}/", "/dashboards/", "/dashboards/mine/", f"/dashboards/shared/{share.pk}/"]
    shown += [
        "/",
        "/console/",
        "/cursors/",
        "/admin/chat/room/",
        "/admin/chat/auditentry/",
        "/admin/dashboards/dashboard/",
    ]
    shown += [f"/admin/chat/room/{room.pk}/change/", "/admin/realtime/channel/"]
    for path in shown:
        response = ana.browser.get(path)
        assert response.status_code == 200, path
        assert "<x-evil" not in response.content.decode(), path
    told = "&quot;&#x27;&gt;&lt;/script&gt;&lt;x-evil"
    for path in ("/chat/lobby/", "/dashboards/", "/dashboards/mine/"):
        assert told in ana.browser.get(path).content.decode(), path


def test_answers_for_scripts_are_never_pages(ana: Person) -> None:
    """JSON with markup in it must not be guessed to be a page, also where it is an error that quotes its request."""
    make_room("lobby", owner=ana)
    ana.says("lobby", NASTY)
    paths = ["rooms", "lobby/page", "lobby/members", "lobby/audit", "names?id=ana", "token", "search?q=<x-evil>"]
    for path in (*paths, "people?q=<x-evil>", "lobby/at?date=<x-evil>", "lobby/page?before=<x-evil>"):
        response = ana.browser.get(f"/chat/{path}")
        assert response["Content-Type"] == "application/json", path
        assert response["X-Content-Type-Options"] == "nosniff", path


# ---------------------------------------------------------------------- files that are two things


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0" + GIF[19:]


def gif_of_an_image(width: int, height: int) -> bytes:
    """On a small screen."""
    return GIF[:-11] + struct.pack("<HH", width, height) + GIF[-7:]


def jpeg(width: int, height: int) -> bytes:
    frame = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\x03" + b"\0" * 9
    return b"\xff\xd8\xff\xe0\0\x04ab" + frame + b"\xff\xda\0\x02" + b"data" + b"\xff\xd9"


def webp(width: int, height: int) -> bytes:
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + sizes
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png_with(text: bytes) -> bytes:
    """Valid to the last checksum, with a text in it."""
    return PNG[:33] + chunk(b"tEXt", b"Comment\0" + text) + PNG[33:]


@pytest.mark.parametrize("make", [gif, gif_of_an_image, jpeg, webp])
def test_a_few_bytes_do_not_become_a_screen_of_any_size(make: Any) -> None:
    kind = make.__name__.partition("_")[0]
    assert examine(make(300, 200), f"a.{kind}", "").width == 300
    most = {"gif": 65_535, "jpeg": 65_535, "webp": 16_384}[kind]
    for width, height in ((most, most), (most, 16_000)):
        with pytest.raises(Unsupported):
            examine(make(width, height), f"a.{kind}", "")


@pytest.mark.parametrize(
    ("content", "name", "claimed"),
    [
        (JPEG + HTML, "a.jpg", "image/jpeg"),
        (GIF + HTML, "a.gif", "image/gif"),
        (GIF + zipped(), "a.gif", "image/gif"),
        (WEBP + zipped(), "a.webp", "image/webp"),
        (PNG + zipped(), "a.png", "image/png"),
        (HTML + PDF, "a.pdf", "application/pdf"),
        (HTML + zipped(), "a.zip", "application/zip"),
        (b"\n" + PDF, "a.pdf", "application/pdf"),
        (PNG, "a.png.html", "image/png"),
        (PNG, "a.svg", "image/png"),
        (PNG, "a", "image/png"),
        (PNG, "a.png", "text/html"),
        (GIF, "a.png", "image/png"),
        (JPEG, "a.gif", "image/gif"),
        (b"\xef\xbb\xbf" + HTML, "a.html", "text/html"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "a.png", "image/png"),
        (b"GIF89a=1;/*" + HTML + b"*/", "a.gif", "image/gif"),
    ],
)
def test_what_is_two_things_is_none(content: bytes, name: str, claimed: str, ana: Person, tmp_path: Path) -> None:
    make_room("lobby", owner=ana)
    file = SimpleUploadedFile(name, content, claimed)
    response = ana.browser.post("/chat/lobby/files", {"file": file})
    assert (response.status_code, refusal(response)) == (415, "unsupported_type")
    assert not Upload.objects.exists() and not [each for each in tmp_path.rglob("*") if each.is_file()]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (png_with(HTML), "a.png"),
        (b"%PDF-1.4\n" + HTML + b"%%EOF\n", "a.pdf"),
        (HTML, "a.txt"),
        (b"\x89PNG\r\n not one".replace(b"\x89", b""), "a.txt"),
    ],
)
def test_what_hides_something_is_never_run(content: bytes, name: str, ana: Person) -> None:
    """Markup inside a whole file is its owner's affair; no browser may take the file for a page."""
    make_room("lobby", owner=ana)
    sent = ana.browser.post("/chat/lobby/files", {"file": SimpleUploadedFile(name, content, "")})
    assert sent.status_code == 201, sent.content
    file = sent.json()["file"]
    got = ana.get(f"files/{file['id']}/{name}")
    assert got.content == content
    assert got["Content-Type"].partition(";")[0] in {"image/png", "application/pdf", "text/plain"}
    assert got["X-Content-Type-Options"] == "nosniff"
    assert got["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert got["Content-Disposition"].startswith("inline" if name.endswith("png") else "attachment")
    assert got["Cross-Origin-Resource-Policy"] == "same-origin"


def test_the_name_of_a_file_stays_in_its_header(ana: Person) -> None:
    make_room("lobby", owner=ana)
    name = "a'; x=y\u202egpj.txt"
    sent = ana.browser.post("/chat/lobby/files", {"file": SimpleUploadedFile(name, b"text", "text/plain")})
    assert sent.status_code == 201, sent.content
    file = sent.json()["file"]
    assert "\u202e" not in file["name"]
    got = ana.get(f"files/{file['id']}/{file['name']}")
    assert got.status_code == 200
    assert got["Content-Disposition"] == 'attachment; filename="a\'; x=ygpj.txt"'
