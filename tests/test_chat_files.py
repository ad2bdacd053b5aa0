"""Files: what is taken is what it claims to be, belongs to who sent it, and is shown to who may see its room."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from chat import uploads
from chat.models import Upload
from chat.uploads import Unsupported, clean_name, examine
from realtime import namespaces, publishing
from realtime.log.retention import prune
from realtime.protocol.names import parse_channel
from tests.chatting import Person, make_room, refusal


@pytest.fixture(autouse=True)
def fresh(settings: Any, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = tmp_path
    namespaces.reset()
    publishing._buckets.clear()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int = 3, height: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 20)) + chunk(b"IEND", b"")


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "a")
    return file.getvalue()


PNG = png()
FRAME = b"\xff\xc0\0\x11\x08\0\x02\0\x03\x03" + b"\0" * 9
JPEG = b"\xff\xd8\xff\xe0\0\x04ab" + FRAME + b"\xff\xda\0\x02" + b"data" + b"\xff\xd9"
GIF = b"GIF89a\x03\0\x02\0\x80\0\0" + b"\0" * 6 + b"!\xfe\x02hi\0" + b",\0\0\0\0\x03\0\x02\0\0\x02\x02\x84Q\0;"
WEBP_BODY = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\x02\0\0\x01\0\0"
WEBP = b"RIFF" + struct.pack("<I", len(WEBP_BODY)) + WEBP_BODY
PDF = b"%PDF-1.4\n1 0 obj\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><script>alert(1)</script>"


# -- what bytes are


@pytest.mark.parametrize(
    ("content", "name", "claimed", "want"),
    [
        (PNG, "a.png", "image/png", ("image/png", 3, 2)),
        (PNG, "a.PNG", "", ("image/png", 3, 2)),
        (JPEG, "a.jpg", "image/jpeg", ("image/jpeg", 3, 2)),
        (GIF, "a.gif", "image/gif", ("image/gif", 3, 2)),
        (WEBP, "a.webp", "image/webp", ("image/webp", 3, 2)),
        (PDF, "a.pdf", "application/pdf", ("application/pdf", None, None)),
        (zipped(), "a.zip", "application/octet-stream", ("application/zip", None, None)),
        ("naïve, text\n".encode(), "a.csv", "text/csv", ("text/plain", None, None)),
        (HTML, "a.txt", "text/plain", ("text/plain", None, None)),
    ],
)
def test_types_are_what_the_bytes_are(content: bytes, name: str, claimed: str, want: Any) -> None:
    found = examine(content, name, claimed)
    assert (found.type, found.width, found.height) == want


@pytest.mark.parametrize(
    ("content", "name", "claimed"),
    [
        (HTML, "a.png", "image/png"),
        (SVG, "a.png", "image/png"),
        (SVG, "a.svg", "image/svg+xml"),
        (HTML, "a.html", "text/html"),
        (HTML, "a.txt.html", "text/plain"),
        (HTML, "html", ""),
        (PNG, "a.jpg", "image/jpeg"),
        (PNG, "a.png", "image/svg+xml"),
        (PNG, "a.html", "text/html"),
        (PNG, "a.txt", ""),
        (PNG + HTML, "a.png", "image/png"),
        (PNG[:-1], "a.png", "image/png"),
        (PNG[:40] + b"x" + PNG[41:], "a.png", "image/png"),
        (PNG[:8] + HTML, "a.png", "image/png"),
        (JPEG[:20], "a.jpg", "image/jpeg"),
        (b"\xff\xd8\xff" + HTML + b"\xff\xd9", "a.jpg", "image/jpeg"),
        (GIF[:9], "a.gif", "image/gif"),
        (WEBP + b"x", "a.webp", "image/webp"),
        (png(20_000, 20_000), "a.png", "image/png"),
        (png(0, 5), "a.png", "image/png"),
        (PDF, "a.txt", "text/plain"),
        (b"MZ\x90\0", "a.exe", ""),
        (b"MZ\x90\0", "a.txt", "text/plain"),
        (b"\xff\xfe<\0s\0", "a.txt", "text/plain"),
        (b"", "a.txt", "text/plain"),
        (zipped(), "a.docx", ""),
        (b"<?xml version='1.0'?>", "a.xml", "text/xml"),
        (b"alert(1)", "a.js", "text/javascript"),
    ],
)
def test_what_lies_about_itself_is_refused(content: bytes, name: str, claimed: str) -> None:
    with pytest.raises(Unsupported):
        examine(content, name, claimed)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("a.png", "a.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a.png", "a.png"),
        ('a"b\r\nX: y.png', "abX y.png"),
        ("evil\u202egnp.txt", "evilgnp.txt"),
        ("..", "file"),
        ("", "file"),
        (".png", "png"),
        ("x" * 300 + ".png", "x" * 96 + ".png"),
        ("Ünï.png", "Ünï.png"),
    ],
)
def test_names_are_harmless(given: str, want: str) -> None:
    assert clean_name(given) == want


# -- over HTTP


def send(person: Person, room: str, content: bytes = PNG, name: str = "pier.png", type_: str = "image/png") -> Any:
    return person.browser.post(f"/chat/{room}/files", {"file": SimpleUploadedFile(name, content, type_)})


@pytest.fixture
def ana(db: None) -> Person:
    return Person("ana")


@pytest.fixture
def bo(db: None) -> Person:
    return Person("bo")


def test_a_file_goes_with_a_message_and_is_shown_to_the_room(ana: Person, bo: Person) -> None:
    make_room("loft", "private", owner=ana, member=bo)
    response = send(ana, "loft")
    assert response.status_code == 201
    file = response.json()["file"]
    assert file == {
        "id": file["id"],
        "name": "pier.png",
        "type": "image/png",
        "size": len(PNG),
        "width": 3,
        "height": 2,
    }
    serial = ana.says("loft", "", files=[file])
    (message,) = bo.get("loft/page").json()["messages"]
    assert message["files"] == [file]
    assert Upload.objects.get().serial == serial
    got = bo.get(f"files/{file['id']}/pier.png")
    assert got.status_code == 200
    assert got["Content-Type"] == "image/png"
    assert got["Content-Disposition"].startswith("inline")
    assert got["X-Content-Type-Options"] == "nosniff"
    assert got["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert got["Cache-Control"].startswith("private")
    assert got.content == PNG
    assert refusal(bo.get(f"files/{file['id']}/other.html")) == "not_found"


@pytest.mark.parametrize(
    ("content", "name", "type_"),
    [
        (PDF, "a.pdf", "application/pdf"),
        (HTML, "a.txt", "text/plain; charset=utf-8"),
        (zipped(), "a.zip", "application/zip"),
    ],
)
def test_what_is_no_image_is_saved_and_never_shown(ana: Person, content: bytes, name: str, type_: str) -> None:
    make_room("lobby", owner=ana)
    file = send(ana, "lobby", content, name, "").json()["file"]
    got = ana.get(f"files/{file['id']}/{name}")
    assert got["Content-Type"] == type_
    assert got["Content-Disposition"] == f'attachment; filename="{name}"'
    assert got["X-Content-Type-Options"] == "nosniff"


def test_files_are_closed_like_their_rooms(ana: Person, bo: Person) -> None:
    make_room("loft", "private", owner=ana, member=bo)
    file = send(ana, "loft").json()["file"]
    stranger = Person("cy")
    for path in (f"files/{file['id']}/pier.png", "files/unknown/pier.png"):
        assert (stranger.get(path).status_code, refusal(stranger.get(path))) == (404, "not_found")
    assert refusal(send(stranger, "loft")) == "not_found"
    assert bo.get(f"files/{file['id']}/pier.png").content == PNG
    ana.post("loft/remove", {"client": "bo"})
    assert refusal(bo.get(f"files/{file['id']}/pier.png")) == "not_found"


@pytest.mark.parametrize(
    ("content", "name", "type_"),
    [(HTML, "a.png", "image/png"), (SVG, "a.svg", "image/svg+xml"), (PNG, "a.pdf", "image/png")],
)
def test_lying_uploads_are_refused_and_nothing_is_kept(
    ana: Person, tmp_path: Path, content: bytes, name: str, type_: str
) -> None:
    make_room("lobby", owner=ana)
    response = send(ana, "lobby", content, name, type_)
    assert (response.status_code, refusal(response)) == (415, "unsupported_type")
    assert not Upload.objects.exists() and not [each for each in tmp_path.rglob("*") if each.is_file()]


def test_large_files_and_forms_that_are_none_are_refused(ana: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    make_room("lobby", owner=ana)
    monkeypatch.setattr(uploads, "SIZE_MOST_BYTES", 1000)
    response = send(ana, "lobby", b"x" * 1001, "a.txt", "text/plain")
    assert (response.status_code, refusal(response)) == (413, "too_large")
    response = send(ana, "lobby", b"x" * 100_000, "a.txt", "text/plain")
    assert (response.status_code, refusal(response)) == (413, "too_large")
    assert refusal(ana.browser.post("/chat/lobby/files", {"other": "x"})) == "bad_frame"
    for form in ("multipart/form-data; boundary=x", "multipart/form-data"):
        response = ana.browser.generic("POST", "/chat/lobby/files", b"--x\r\ngarbage", content_type=form)
        assert refusal(response) == "bad_frame"
    monkeypatch.setattr(uploads, "KEPT_MOST_BYTES", len(PNG) + 10)
    assert send(ana, "lobby").status_code == 201
    assert refusal(send(ana, "lobby")) == "conflict"


def test_messages_name_only_files_that_are_theirs_as_they_are(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=ana)
    make_room("hall", owner=ana)
    file = send(ana, "lobby").json()["file"]
    elsewhere = send(ana, "hall").json()["file"]
    theirs = send(bo, "lobby").json()["file"]
    lies = [{**file, "type": "application/pdf"}, {**file, "name": "x.html"}, {**file, "width": 9}, {**file, "size": 1}]
    for wrong in (elsewhere, theirs, {**file, "id": "unknown"}, *lies):
        response = ana.publish("lobby", {"event": "message", "data": {"text": "x", "files": [wrong]}})
        assert refusal(response) == "forbidden", wrong
        publishing._buckets.clear()
    ana.says("lobby", "x", files=[file])


def test_a_file_goes_with_its_message(
    ana: Person, bo: Person, tmp_path: Path, django_capture_on_commit_callbacks: Any
) -> None:
    make_room("lobby", owner=bo)
    kept, deleted, moderated, old = (send(ana, "lobby", name=f"{n}.png").json()["file"] for n in "abcd")
    serials = [ana.says("lobby", "x", files=[file]) for file in (old, deleted, moderated, kept)]
    ana.get("lobby/page")
    assert Upload.objects.filter(serial__in=serials).count() == 4
    with django_capture_on_commit_callbacks(execute=True):
        ana.does("lobby", "delete", of=serials[1])
        bo.post("lobby/delete-message", {"serial": serials[2]})
        prune(parse_channel("chat:lobby"), serials[0])
        ana.get("lobby/page")
    assert list(Upload.objects.values_list("id", flat=True)) == [kept["id"]]
    assert len([each for each in tmp_path.rglob("*") if each.is_file()]) == 1
    assert refusal(bo.get(f"files/{deleted['id']}/b.png")) == "not_found"


def test_files_go_with_their_room(ana: Person, tmp_path: Path, django_capture_on_commit_callbacks: Any) -> None:
    room = make_room("lobby", owner=ana)
    send(ana, "lobby")
    with django_capture_on_commit_callbacks(execute=True):
        room.delete()
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


def test_files_that_no_message_names_are_forgotten(ana: Person) -> None:
    make_room("lobby", owner=ana)
    send(ana, "lobby")
    Upload.objects.update(created=timezone.now() - uploads.ORPHAN_AGE)
    send(ana, "lobby", name="b.png")
    assert [each.name for each in Upload.objects.all()] == ["b.png"]


def test_who_is_muted_sends_no_files(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=ana)
    ana.post("lobby/mute", {"client": "bo", "minutes": 5})
    assert refusal(send(bo, "lobby")) == "forbidden"
