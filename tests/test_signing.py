"""Signing keys in the database: their states, their rotation while tokens are used, and how they are kept."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.db import IntegrityError
from django.test import override_settings

from realtime import desk, namespaces, signing, tokens
from realtime.models import Act, SigningKey
from realtime.protocol.errors import ProtocolError
from tests.conversation import connected, in_thread, stop_worker, token

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    tokens.reset_caches()
    yield
    namespaces.reset()
    tokens.reset_caches()


@pytest_asyncio.fixture
async def one_worker() -> AsyncIterator[None]:
    yield
    await stop_worker()


def made(algorithm: str = "HS256", *, old: bool = True) -> str:
    row = desk.generate_key(algorithm, actor="shell")
    if old:
        SigningKey.objects.filter(pk=row.pk).update(created=row.created - timedelta(seconds=signing.KNOWN_AFTER_S))
    return row.kid


def kid_of(text: str) -> str:
    return str(jwt.get_unverified_header(text)["kid"])


def good(text: str) -> bool:
    try:
        tokens.verify_token(text, time.time())
    except ProtocolError:
        return False
    return True


@pytest.mark.parametrize("algorithm", tokens.ALGORITHMS)
def test_a_key_goes_from_new_to_current_to_retiring_to_retired(algorithm: str) -> None:
    first, second = made(algorithm), made(algorithm)
    assert kid_of(token()) == "default", "a new key does not sign"
    desk.make_key_current(first, actor="shell")
    old = token()
    assert kid_of(old) == first and good(old)
    desk.make_key_current(second, actor="shell")
    new = token()
    assert kid_of(new) == second and good(new) and good(old), "no valid token is cut by a rotation"
    assert dict(SigningKey.objects.values_list("kid", "state")) == {first: "retiring", second: "current"}
    desk.retire_key(first, actor="shell")
    assert good(new) and not good(old)
    assert [act.act for act in Act.objects.order_by("pk")][-2:] == ["make signing key current", "retire signing key"]


def test_a_key_that_others_may_not_know_yet_does_not_sign() -> None:
    with pytest.raises(signing.TooEarly):
        desk.make_key_current(made(old=False), actor="shell")
    assert kid_of(token()) == "default"
    assert not Act.objects.filter(act="make signing key current").exists()


def test_there_is_one_current_key() -> None:
    desk.make_key_current(made(), actor="shell")
    with pytest.raises(IntegrityError):
        SigningKey.objects.create(kid="x", algorithm="HS256", state="current")


def test_a_retiring_key_ends_by_itself() -> None:
    first, second = made(), made()
    desk.make_key_current(first, actor="shell")
    text = token()
    desk.make_key_current(second, actor="shell")
    row = SigningKey.objects.get(kid=first)
    assert row.retires is not None
    SigningKey.objects.filter(kid=first).update(retires=row.retires - timedelta(days=31))
    signing.mirror.refresh()
    assert not good(text)


def test_what_signs_is_not_in_the_database_in_clear() -> None:
    for algorithm in tokens.ALGORITHMS:
        kid = made(algorithm)
        given = signing.known()[0][kid]
        row = SigningKey.objects.get(kid=kid)
        assert (given.get("secret") or given["private_key"]) not in row.material
        assert "PRIVATE" not in row.material
    with override_settings(SECRET_KEY="another-secret" * 5):
        signing.mirror.refresh(now=True)
        assert signing.known() == ({}, None), "encrypted with a key that is gone"
    with override_settings(SECRET_KEY="another-secret" * 5, SECRET_KEY_FALLBACKS=["only-for-tests-" + "k" * 40]):
        signing.mirror.refresh(now=True)
        assert len(signing.known()[0]) == 4


def test_the_public_key_of_somebody_else_verifies_and_never_signs() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    signing.import_public("EdDSA", "theirs", public)
    theirs = jwt.encode({"sub": "ana", "exp": time.time() + 60}, private, algorithm="EdDSA", headers={"kid": "theirs"})
    assert good(theirs)
    with pytest.raises(ValueError, match="cannot sign"):
        signing.make_current("theirs")
    signing.import_public("RS256", "unfit", public)
    assert good(theirs), "a row that cannot be used keeps nobody out"


def test_a_key_of_the_settings_is_not_replaced_by_a_row_of_its_name() -> None:
    signing.generate("HS256", "default")
    assert good(token())


async def test_connections_that_rest_on_a_retired_key_end_and_others_go_on(one_worker: None) -> None:
    kid = await in_thread(made)
    default = token()
    await in_thread(desk.make_key_current, kid, actor="shell")
    text: Any = await in_thread(token)
    assert kid_of(text) == kid
    async with connected(text=text) as doomed, connected(text=default) as other:
        await in_thread(desk.make_key_current, await in_thread(made), actor="shell")
        await doomed.nothing_else()
        await in_thread(desk.retire_key, kid, actor="shell")
        code, _, before = await doomed.closed()
        assert code == 4401 and "retired" in before[-1]["message"]
        await other.nothing_else()
