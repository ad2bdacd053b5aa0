"""Files of messages: what they truly are, how they are kept, and that they go with their message.

Nothing that a client says about a file is believed: its type is what its bytes are, and a name that claims another one
is refused. Only images whose structure was read to the end are shown inline; HTML and SVG are never taken, since a
browser would run what is in them.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Final

from django.core.files.storage import default_storage
from django.db import transaction
from django.db.models import Sum
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.utils import timezone

from chat.models import Upload

SIZE_MOST_BYTES: Final = 10 * 1024 * 1024
"""Of one file: a photograph of a telephone fits, a film does not. It is examined in memory."""
KEPT_MOST_BYTES: Final = 500 * 1024 * 1024
"""Of one person, all rooms together: what one may fill of the operator's disk."""
PIXELS_MOST: Final = 50_000_000
"""Of an image: a browser needs four bytes for each, whatever the file's size."""
NAME_CHARS: Final = 100
ORPHAN_AGE: Final = timedelta(days=1)
ORPHANS_AT_ONCE: Final = 20

INLINE: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

SUFFIXES: Final = {
    "image/png": ("png",),
    "image/jpeg": ("jpg", "jpeg"),
    "image/gif": ("gif",),
    "image/webp": ("webp",),
    "application/pdf": ("pdf",),
    "application/zip": ("zip",),
    "text/plain": ("txt", "md", "csv", "log"),
}

_NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\\/:*?\"<>|\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")


class Unsupported(Exception):
    """The file is of no type that is taken, or not of the one that it claims; says why."""


@dataclass(frozen=True, slots=True)
class Examined:
    type: str
    width: int | None = None
    height: int | None = None


def examine(content: bytes, name: str, claimed: str) -> Examined:
    """What the file is. Raises `Unsupported` where that is nothing that is taken, or not what it claims to be."""
    found = _image(content) or _other(content)
    if found is None:
        raise Unsupported(
            "Only PNG, JPEG, GIF and WebP images, PDF, ZIP and plain text are taken, and only whole files."
        )
    suffix = PurePosixPath(name).suffix[1:].lower()
    if suffix not in SUFFIXES[found.type]:
        raise Unsupported(f"The file is {found.type}, but its name ends in “.{suffix}”.")
    claimed = claimed.partition(";")[0].strip().lower()
    # What a browser says comes from the name as well; for text it has many words.
    vague = ("", "application/octet-stream", "application/x-zip-compressed")
    if (
        claimed not in vague
        and claimed != found.type
        and not (found.type == "text/plain" and claimed.startswith("text/"))
    ):
        raise Unsupported(f"The file is {found.type}, but was sent as {claimed[:64]}.")
    return found


def clean_name(name: str) -> str:
    """A name without folders and without characters that a system or a reader could take for something else."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    name = _NO_NAME.sub("", name).strip(". ")
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        return name[:NAME_CHARS] or "file"
    return f"{stem[: NAME_CHARS - len(suffix) - 1] or 'file'}.{suffix}" if len(suffix) < 16 else name[:NAME_CHARS]


def kept_bytes(client: str) -> int:
    """How much is kept for somebody. Forgets some of his files that no message has named for a day."""
    orphans = Upload.objects.filter(client=client, serial=None, created__lt=timezone.now() - ORPHAN_AGE)
    Upload.objects.filter(pk__in=list(orphans.values_list("pk", flat=True)[:ORPHANS_AT_ONCE])).delete()
    return int(Upload.objects.filter(client=client).aggregate(sum=Sum("size"))["sum"] or 0)


@receiver(post_delete, sender=Upload)
def _forget_content(instance: Upload, **_: object) -> None:
    """What is stored for a row goes with it when that is committed, also when a room is deleted."""
    name = instance.file.name
    if name:
        transaction.on_commit(lambda: default_storage.delete(name))


# ---------------------------------------------------------------- what bytes are


def _other(content: bytes) -> Examined | None:
    if content.startswith(b"%PDF-") and b"%%EOF" in content[-2048:]:
        return Examined("application/pdf")
    if content.startswith((b"PK\x03\x04", b"PK\x05\x06")) and b"PK\x05\x06" in content[-65_557:]:
        return Examined("application/zip")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return Examined("text/plain") if content and not _NO_TEXT.search(text) else None


def _image(content: bytes) -> Examined | None:
    """An image whose structure is whole, with its size in pixels."""
    for type_, size_of in (
        ("image/png", _png_size),
        ("image/jpeg", _jpeg_size),
        ("image/gif", _gif_size),
        ("image/webp", _webp_size),
    ):
        try:
            size = size_of(content)
        except (struct.error, IndexError):  # cut off
            size = None
        if size is not None:
            width, height = size
            return Examined(type_, width, height) if 0 < width * height <= PIXELS_MOST else None
    return None


def _png_size(content: bytes) -> tuple[int, int] | None:
    """Chunks with right checksums from IHDR to IEND, and nothing behind (ISO/IEC 15948 §5)."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    at, size, has_data = 8, None, False
    while True:
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        (checksum,) = struct.unpack_from(">I", content, end - 4)
        if zlib.crc32(content[at + 4 : end - 4]) != checksum or (size is None) != (kind == b"IHDR"):
            return None
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", content, at + 8)
            size = width, height
        has_data |= kind == b"IDAT"
        at = end
        if kind == b"IEND":
            return size if has_data and at == len(content) else None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Segments up to the scan, one of them a frame header (ITU-T T.81 annex B); behind the end only padding."""
    if not content.startswith(b"\xff\xd8\xff") or not content.rstrip(b"\0\r\n ").endswith(b"\xff\xd9"):
        return None
    at, size = 2, None
    while True:
        while content[at + 1] == 0xFF:  # fill bytes
            at += 1
        if content[at] != 0xFF:
            return None
        marker = content[at + 1]
        (length,) = struct.unpack_from(">H", content, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", content, at + 5)
            size = width, height
        if marker == 0xDA:
            return size
        at += 2 + length


def _gif_size(content: bytes) -> tuple[int, int] | None:
    """Blocks from the screen to the trailer, and nothing but padding behind it; the largest of screen and images."""
    if not content.startswith((b"GIF87a", b"GIF89a")):
        return None
    width, height = struct.unpack_from("<HH", content, 6)
    at, has_image = 13 + _gif_table_bytes(content[10]), False
    while content[at] != 0x3B:
        if content[at] == 0x2C:
            left, top, wide, high = struct.unpack_from("<HHHH", content, at + 1)
            width, height = max(width, left + wide), max(height, top + high)
            at += 11 + _gif_table_bytes(content[at + 9])
            has_image = True
        elif content[at] == 0x21:
            at += 2
        else:
            return None
        while content[at]:  # sub-blocks
            at += 1 + content[at]
        at += 1
    return (width, height) if has_image and not content[at + 1 :].strip(b"\0") else None


def _gif_table_bytes(flags: int) -> int:
    """How long the table of colours is that a block may have behind it."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """RFC 9649: the header names the whole length."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return None
    (length,) = struct.unpack_from("<I", content, 4)
    if length + 8 != len(content):
        return None
    kind = content[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
