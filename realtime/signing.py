"""Signing keys in the database, beside those of `REALTIME["SIGNING_KEYS"]`: they are exchanged while all run.

A key is new (every worker verifies with it, nobody signs), current (tokens are signed with it), retiring (verifies what
it signed, until `retires`) or retired (nothing of it is good any more). All workers hear of a change and read the few
rows again. Secrets and private keys are stored encrypted with a key made of `SECRET_KEY`: a copy of the database alone
signs nothing. docs/how-to/rotate-signing-keys.md.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from django.conf import settings as django_settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from realtime import elsewhere
from realtime.conf import settings
from realtime.elsewhere import after_commit
from realtime.mirror import Glance, Mirror
from realtime.models import SigningKey

__all__ = ["Given", "generate", "import_public", "known", "make_current", "mirror", "retire"]

logger = logging.getLogger("realtime.signing")

Given = Mapping[str, str]
"""A key in the shape of `REALTIME["SIGNING_KEYS"]`."""

KNOWN_AFTER_S: Final = 5.0
"""How old a key must be before it signs: by then every worker verifies with it, the slowest too."""


class TooEarly(ValueError):
    """Not every worker knows the key yet."""


# ---------------------------------------------------------------- asking


def known() -> tuple[Mapping[str, Given], str | None]:
    """The keys that verify, by kid, and the kid of the one that signs. Safe on an event loop; the same object until
    something changed."""
    return mirror.current()


def _read() -> tuple[Mapping[str, Given], str | None]:
    found: dict[str, Given] = {}
    signs: str | None = None
    for row in _rows():
        try:
            found[row.kid] = _given(row)
        except InvalidToken:
            logger.error("The signing key %s was encrypted with another SECRET_KEY and cannot be used.", row.kid)
            continue
        if row.state == SigningKey.State.CURRENT:
            signs = row.kid
    return found, signs


def _rows(now: datetime | Now | None = None) -> QuerySet[SigningKey]:
    valid = SigningKey.objects.using(settings.DATABASE).exclude(state=SigningKey.State.RETIRED)
    return valid.filter(Q(retires__isnull=True) | Q(retires__gt=now or datetime.now(UTC))).order_by("pk")


def _rows_by_the_database() -> QuerySet[SigningKey]:
    """The same at whatever time it is asked."""
    return _rows(Now())


def _given(row: SigningKey) -> Given:
    given = {"alg": row.algorithm}
    if row.algorithm == "HS256":
        given["secret"] = _decrypted(row.material)
    else:
        given["public_key"] = row.public_key
        if row.material:
            given["private_key"] = _decrypted(row.material)
    return given


mirror: Final = Mirror[tuple[Mapping[str, Given], str | None]](
    "Signing keys", _read, ({}, None), glance=Glance(_rows_by_the_database)
)
"""What `known` gives."""


# ---------------------------------------------------------------- changing


def generate(algorithm: str, kid: str | None = None) -> SigningKey:
    """Makes a new key, which verifies from now on and signs when it is made current."""
    public = ""
    if algorithm == "HS256":
        material = secrets.token_urlsafe(48)
    else:
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
        if algorithm == "RS256":
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        elif algorithm == "ES256":
            key = ec.generate_private_key(ec.SECP256R1())
        elif algorithm == "EdDSA":
            key = ed25519.Ed25519PrivateKey.generate()
        else:
            raise ValueError(f"{algorithm} is none of the algorithms.")
        material = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return _made(algorithm, kid, public, _encrypted(material))


def import_public(algorithm: str, kid: str, public_key: str) -> SigningKey:
    """Takes the public key (PEM) of somebody who signs tokens himself. It verifies and never signs."""
    serialization.load_pem_public_key(public_key.encode())
    return _made(algorithm, kid, public_key, "")


def _made(algorithm: str, kid: str | None, public: str, material: str) -> SigningKey:
    with transaction.atomic(using=settings.DATABASE):
        row = SigningKey.objects.using(settings.DATABASE).create(
            kid=kid or f"k{secrets.token_hex(6)}", algorithm=algorithm, public_key=public, material=material
        )
        _changed()
    return row


def make_current(kid: str) -> None:
    """Has tokens signed with this key from now on; the one before retires when the last token it signed is over, after
    `REVOCATIONS_KEPT_S`. ValueError for a key that cannot sign; `TooEarly` while workers may not know it."""
    now = datetime.now(UTC)
    with transaction.atomic(using=settings.DATABASE):
        rows = {row.kid: row for row in SigningKey.objects.using(settings.DATABASE).select_for_update().order_by("pk")}
        row = rows[kid]
        if not row.material or row.state in (SigningKey.State.RETIRING, SigningKey.State.RETIRED):
            raise ValueError(f"The key {kid} cannot sign: it is {row.state}, or somebody else's.")
        if (now - row.created).total_seconds() < KNOWN_AFTER_S:
            raise TooEarly(f"The key {kid} is too young: give all workers {KNOWN_AFTER_S:.0f} s to hear of it.")
        for other in rows.values():
            if other.state == SigningKey.State.CURRENT and other.kid != kid:
                other.state = SigningKey.State.RETIRING
                other.retires = now + timedelta(seconds=settings.REVOCATIONS_KEPT_S)
                other.save(using=settings.DATABASE)
        row.state = SigningKey.State.CURRENT
        row.save(using=settings.DATABASE)
        _changed()


def retire(kid: str) -> None:
    """Ends a key at once: every token it signed is refused, and connections that rest on one end."""
    with transaction.atomic(using=settings.DATABASE):
        SigningKey.objects.using(settings.DATABASE).filter(kid=kid).update(
            state=SigningKey.State.RETIRED, retires=datetime.now(UTC)
        )
        _changed()


def _changed() -> None:
    after_commit(mirror.stale, using=settings.DATABASE)
    elsewhere.tell("signing_keys", {}, using=settings.DATABASE)


# ---------------------------------------------------------------- at rest


def _fernet() -> MultiFernet:
    given = [django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS]
    return MultiFernet(
        [
            Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"seriatim signing key " + str(each).encode()).digest()))
            for each in given
        ]
    )


def _encrypted(text: str) -> str:
    return _fernet().encrypt(text.encode()).decode()


def _decrypted(text: str) -> str:
    return _fernet().decrypt(text.encode()).decode()
