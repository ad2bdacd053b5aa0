"""Tokens, API keys and sessions: what is accepted, what is refused, and that the reason is told without a secret."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.models import Session
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import Client, RequestFactory
from django.utils import timezone

from realtime import limits, revocations, signing, tokens
from realtime.delivery.capability import Capability
from realtime.models import ApiKey
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ClientId
from realtime.tokens import (
    Identity,
    SessionEnd,
    client_id_of,
    create_api_key,
    identity_from_cookies,
    identity_from_session,
    issue_token,
    revoke_api_key,
    session_still_valid,
    verify_api_key,
    verify_token,
)

NOW_S = 1_800_000_000.0
SECRET: str = django_settings.REALTIME["SIGNING_KEYS"]["default"]["secret"]
CLAIMS = {"sub": "ana", "exp": NOW_S + 600, "cap": {"*": ["*"]}}


@pytest.fixture(autouse=True)
def fresh_caches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tokens.reset_caches()
    # Rows of keys and revocations have tests of their own; here nothing may ask the database.
    for module in (limits, revocations, signing):
        monkeypatch.setattr(module.mirror, "load", lambda: None)
    yield
    tokens.reset_caches()


def mint(secret: Any = SECRET, alg: str = "HS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    """A good token at `NOW_S`; a claim given as `...` is left out."""
    claims = {"sub": "ana", "exp": NOW_S + 600, "iat": NOW_S, "cap": {"*": ["*"]}, **changes}
    claims = {name: value for name, value in claims.items() if value is not ...}
    return jwt.encode(claims, secret, alg, headers=headers)


def by_hand(header: dict[str, Any], claims: Any, signature: bytes = b"") -> str:
    """A token that no library would make."""

    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    return ".".join((part(json.dumps(header).encode()), part(json.dumps(claims).encode()), part(signature)))


def signed_by_hand(header: dict[str, Any], secret: str, digest: str) -> str:
    """Signed with HMAC whatever the library thinks of the secret."""
    unsigned = by_hand(header, CLAIMS).rpartition(".")[0]
    signature = hmac.new(secret.encode(), unsigned.encode(), digest).digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def refusal(text: str, now_s: float = NOW_S) -> ProtocolError:
    """Asserts that a token is refused, by what a client may hear."""
    with pytest.raises(ProtocolError) as caught:
        verify_token(text, now_s)
    error = caught.value
    assert error.code == "unauthorized"
    assert SECRET not in f"{error.message} {error.remedy}"
    return error


# ---------------------------------------------------------------- accepted


def test_a_good_token_is_an_identity() -> None:
    identity = verify_token(mint(jti="j1", nbf=NOW_S), NOW_S)
    assert identity == Identity(
        ClientId("ana"), Capability.parse({"*": ["*"]}), "token", NOW_S + 600, "j1", NOW_S, kid="default"
    )


def test_a_token_without_cap_has_no_capability_and_an_empty_one_allows_nothing() -> None:
    assert verify_token(mint(cap=...), NOW_S).capability is None
    assert verify_token(mint(cap={}), NOW_S).capability == Capability.parse({})


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW_S - 9},
        {"nbf": NOW_S + 9},
        {"iat": NOW_S + 9},
        {"iat": ...},
        {"exp": NOW_S + 0.5},
        {"sub": "s" * 126 + "!~"},
        {"cap": {"x": ["fly", "publish"]}},
        {"cap": {"x": []}},
        {"iss": "anybody"},
        {"unknown": {"deep": [1]}},
    ],
)
def test_tokens_at_the_edge_are_accepted(claims: dict[str, Any]) -> None:
    assert verify_token(mint(**claims), NOW_S).client


def test_kid_names_the_key_and_default_when_absent() -> None:
    assert verify_token(mint(headers={"kid": "default"}), NOW_S) == verify_token(mint(), NOW_S)


def test_a_token_is_verified_again_by_the_clock_though_its_signature_is_remembered() -> None:
    text = mint(exp=NOW_S + 5, nbf=NOW_S)
    assert verify_token(text, NOW_S) is verify_token(text, NOW_S + 14)
    assert "expired" in refusal(text, NOW_S + 15).message
    assert "not valid before" in refusal(text, NOW_S - 11).message


def test_a_changed_key_forgets_verified_tokens(realtime_settings: Callable[..., None]) -> None:
    text = mint()
    verify_token(text, NOW_S)
    realtime_settings(SIGNING_KEYS={"default": {"alg": "HS256", "secret": "t" * 32}})
    assert "signature" in refusal(text).message


# ---------------------------------------------------------------- refused

BAD_CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "expired by the leeway": ({"exp": NOW_S - 10}, "expired 10 s ago"),
    "expired": ({"exp": NOW_S - 3600}, "expired 3600 s ago"),
    "no exp": ({"exp": ...}, "no exp"),
    "exp null": ({"exp": None}, "no exp"),
    "exp a text": ({"exp": str(int(NOW_S) + 600)}, "exp claim"),
    "exp true": ({"exp": True}, "exp claim"),
    "exp negative": ({"exp": -1}, "exp claim"),
    "exp huge": ({"exp": 1e300}, "exp claim"),
    "exp in milliseconds of the far future": ({"exp": 1e16}, "exp claim"),
    "nbf ahead": ({"nbf": NOW_S + 11}, "not valid before"),
    "nbf a list": ({"nbf": [1]}, "nbf claim"),
    "iat ahead": ({"iat": NOW_S + 3600}, "issued 3600 s from now"),
    "iat a text": ({"iat": "now"}, "iat claim"),
    "no sub": ({"sub": ...}, "sub claim"),
    "sub null": ({"sub": None}, "sub claim"),
    "sub a number": ({"sub": 7}, "sub claim"),
    "sub empty": ({"sub": ""}, "sub claim"),
    "sub of 129": ({"sub": "s" * 129}, "sub claim"),
    "sub with a space": ({"sub": "a b"}, "sub claim"),
    "sub with a line feed": ({"sub": "a\nb"}, "sub claim"),
    "sub that ends in a line feed": ({"sub": "ab\n"}, "sub claim"),
    "sub not ASCII": ({"sub": "zoë"}, "sub claim"),
    "sub DEL": ({"sub": "a\x7f"}, "sub claim"),
    "cap a list": ({"cap": ["*"]}, "cap claim"),
    "cap null": ({"cap": None}, "cap claim"),
    "cap a text": ({"cap": "*"}, "cap claim"),
    "operations a text": ({"cap": {"*": "publish"}}, "cap claim"),
    "operations an object": ({"cap": {"*": {"publish": True}}}, "cap claim"),
    "operation a number": ({"cap": {"*": [1]}}, "cap claim"),
    "aud where none is expected": ({"aud": "somebody-else"}, "audience"),
    "aud empty where none is expected": ({"aud": []}, "audience"),
    "jti a number": ({"jti": 5}, "jti claim"),
}


@pytest.mark.parametrize(("claims", "said"), BAD_CLAIMS.values(), ids=BAD_CLAIMS)
def test_a_bad_claim_is_refused_with_its_reason(claims: dict[str, Any], said: str) -> None:
    # Signed without the library's own checks of what it encodes.
    payload = {"sub": "ana", "exp": NOW_S + 600, "cap": {"*": ["*"]}, **claims}
    payload = {name: value for name, value in payload.items() if value is not ...}
    text = jwt.api_jws.encode(json.dumps(payload).encode(), SECRET, "HS256")
    assert said in refusal(text).message


RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

BAD_TOKENS: dict[str, str] = {
    "nothing": "",
    "garbage": "abc.def.ghi",
    "two parts": "abc.def",
    "five parts": "a.b.c.d.e",
    "not ASCII": "é.é.é",
    "NUL": "\x00.\x00.\x00",
    "alg none": by_hand({"alg": "none", "typ": "JWT"}, CLAIMS),
    "alg nOnE": by_hand({"alg": "nOnE", "typ": "JWT"}, CLAIMS),
    "alg absent": by_hand({"typ": "JWT"}, CLAIMS),
    "alg null": by_hand({"alg": None}, CLAIMS),
    "alg a list": by_hand({"alg": ["HS256"]}, CLAIMS),
    "HS256 without a signature": by_hand({"alg": "HS256"}, CLAIMS),
    "HS512 with the right secret": signed_by_hand({"alg": "HS512"}, SECRET, "sha512"),
    "HS384 with the right secret": signed_by_hand({"alg": "HS384", "kid": "default"}, SECRET, "sha384"),
    "another secret": mint(secret="x" * 40),
    "RS256 under the kid of a secret": mint(secret=RSA_KEY, alg="RS256"),
    "unknown kid": mint(headers={"kid": "nobody"}),
    "kid a path": mint(headers={"kid": "../../../dev/null"}, secret="x" * 40),
    "kid SQL": mint(headers={"kid": "x' OR 1=1 --"}),
    "kid empty": mint(headers={"kid": ""}),
    "kid null": by_hand({"alg": "HS256", "kid": None}, CLAIMS),
    "kid a number": by_hand({"alg": "HS256", "kid": 5}, CLAIMS),
    "kid a list": by_hand({"alg": "HS256", "kid": ["default"]}, CLAIMS),
    "header a list": by_hand([1], CLAIMS),  # type: ignore[arg-type]  # meant
    "claims a list": jwt.api_jws.encode(b"[1]", SECRET, "HS256"),
    "claims not JSON": jwt.api_jws.encode(b"{", SECRET, "HS256"),
    "claims with NaN": jwt.api_jws.encode(b'{"sub":"ana","exp":NaN}', SECRET, "HS256"),
    "claims not UTF-8": jwt.api_jws.encode(b'{"sub":"\xff"}', SECRET, "HS256"),
    "claims nested deeply": jwt.api_jws.encode(b"[" * 2500, SECRET, "HS256"),
    "unknown crit": by_hand({"alg": "HS256", "crit": ["exp"], "exp": 1}, CLAIMS),
    "payload detached": by_hand({"alg": "HS256", "b64": False, "crit": ["b64"]}, CLAIMS),
    "too long": mint(pad="x" * 4096),
    "too long in bytes": "é" * 2100,
}


@pytest.mark.parametrize("text", BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_a_bad_token_is_refused(text: str) -> None:
    refusal(text)


def test_a_header_nested_deeply_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 2900 + b"]" * 100).rstrip(b"=").decode()
    refusal(f"{deep}.e30.e30")


def test_a_hostile_kid_is_not_repeated() -> None:
    assert "dev" not in refusal(mint(headers={"kid": "../../../dev/null"})).message
    assert "nobody" in refusal(mint(headers={"kid": "nobody"})).message


def test_size_is_checked_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_key_for", lambda _: pytest.fail("looked into the token"))
    assert "longer than 4096" in refusal("x" * 4097).message


def test_exactly_4096_bytes_are_accepted() -> None:
    short = len(mint(pad=""))
    padded = next(
        text for n in range(2600, 3000) if len(text := mint(pad="x" * n)) in (4095, 4096) and short < len(text)
    )
    assert verify_token(padded, NOW_S).client == "ana"


# ---------------------------------------------------------------- audience, issuer, keys


def test_a_configured_audience_must_be_named(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(TOKEN_AUDIENCE="seriatim")
    assert verify_token(mint(aud="seriatim"), NOW_S).client == "ana"
    assert verify_token(mint(aud=["other", "seriatim"]), NOW_S).client == "ana"
    for aud in (..., "other", [], ["other"], {"seriatim": 1}, 5):
        text = jwt.api_jws.encode(
            json.dumps({**CLAIMS, **({} if aud is ... else {"aud": aud})}).encode(), SECRET, "HS256"
        )
        assert "aud" in refusal(text).message


def test_a_configured_issuer_must_be_named(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(TOKEN_ISSUER="https://issuer")
    assert verify_token(mint(iss="https://issuer"), NOW_S).client == "ana"
    for iss in (..., "other"):
        assert "iss" in refusal(mint(iss=iss)).message


def pem(key: Any, private: bool) -> str:
    if private:
        raw = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    else:
        raw = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return bytes(raw).decode()


KEYS = {
    "RS256": RSA_KEY,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.mark.parametrize("alg", KEYS)
def test_every_algorithm_verifies_with_the_public_key_alone(alg: str, realtime_settings: Callable[..., None]) -> None:
    realtime_settings(SIGNING_KEYS={"k": {"alg": alg, "public_key": pem(KEYS[alg], private=False)}})
    assert verify_token(mint(secret=KEYS[alg], alg=alg, headers={"kid": "k"}), NOW_S).client == "ana"
    with pytest.raises(ProtocolError, match="no key to sign"):
        issue_token("ana")


@pytest.mark.parametrize("alg", KEYS)
def test_a_public_key_is_never_a_secret(alg: str, realtime_settings: Callable[..., None]) -> None:
    """RS/HS confusion: signed with HMAC, the public key's text as its secret."""
    public = pem(KEYS[alg], private=False)
    realtime_settings(SIGNING_KEYS={"default": {"alg": alg, "public_key": public}})
    text = signed_by_hand({"alg": "HS256", "kid": "default"}, public, "sha256")
    assert f"must be signed with {alg}" in refusal(text).message


def test_the_first_key_that_can_sign_issues_and_all_verify(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(
        SIGNING_KEYS={
            "partner": {"alg": "ES256", "public_key": pem(KEYS["ES256"], private=False)},
            "new": {"alg": "EdDSA", "private_key": pem(KEYS["EdDSA"], private=True)},
            "old": {"alg": "HS256", "secret": SECRET},
        }
    )
    text, expires_at_s = issue_token("ana", {"x": ["publish"]}, 60, NOW_S)
    assert jwt.get_unverified_header(text)["kid"] == "new"
    assert verify_token(text, NOW_S).expires_at_s == expires_at_s == NOW_S + 60
    assert verify_token(mint(headers={"kid": "old"}), NOW_S).client == "ana"
    assert verify_token(mint(secret=KEYS["ES256"], alg="ES256", headers={"kid": "partner"}), NOW_S).client == "ana"
    # The key of one is not that of another, though both are known.
    refusal(mint(secret=KEYS["EdDSA"], alg="EdDSA", headers={"kid": "partner"}))


BAD_KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "short secret": ({"k": {"alg": "HS256", "secret": "s" * 31}}, "31 bytes"),
    "no secret": ({"k": {"alg": "HS256"}}, "0 bytes"),
    "algorithm none": ({"k": {"alg": "none", "secret": "s" * 32}}, "alg"),
    "HS512": ({"k": {"alg": "HS512", "secret": "s" * 64}}, "alg"),
    "a PEM as a secret": ({"k": {"alg": "HS256", "secret": pem(RSA_KEY, private=False)}}, "cannot be read"),
    "a secret for RS256": ({"k": {"alg": "RS256", "secret": "s" * 32}}, "no `secret`"),
    "no key": ({"k": {"alg": "RS256"}}, "public_key"),
    "no PEM": ({"k": {"alg": "RS256", "public_key": "abc"}}, "cannot be read"),
    "the private key as the public one": ({"k": {"alg": "ES256", "public_key": pem(KEYS["ES256"], True)}}, "private"),
    "EC key for RS256": ({"k": {"alg": "RS256", "public_key": pem(KEYS["ES256"], False)}}, ""),
    "RSA key for EdDSA": ({"k": {"alg": "EdDSA", "public_key": pem(RSA_KEY, False)}}, ""),
    "another curve": (
        {"k": {"alg": "ES256", "public_key": pem(ec.generate_private_key(ec.SECP384R1()), False)}},
        "",
    ),
    "key id with a slash": ({"../k": {"alg": "HS256", "secret": "s" * 32}}, "key id"),
    "no dict": ({"k": "secret"}, "dict"),
}


@pytest.mark.parametrize(("keys", "said"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_bad_key_is_refused_without_quoting_it(
    keys: dict[str, Any], said: str, realtime_settings: Callable[..., None]
) -> None:
    realtime_settings(SIGNING_KEYS=keys)
    with pytest.raises(ImproperlyConfigured) as caught:
        tokens.check_signing_keys()
    assert said in str(caught.value)
    assert "sss" not in str(caught.value) and "BEGIN" not in str(caught.value)


def test_without_keys_every_token_is_refused(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(SIGNING_KEYS={})
    assert "no key" in refusal(mint()).message


# ---------------------------------------------------------------- issuing


def test_an_issued_token_verifies_here(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(TOKEN_AUDIENCE="us", TOKEN_ISSUER="me")
    text, expires_at_s = issue_token("ana", {"chat:*": ["publish"]}, 59.5, NOW_S)
    identity = verify_token(text, NOW_S)
    assert (identity.client, identity.expires_at_s, expires_at_s) == ("ana", NOW_S + 60, NOW_S + 60)
    assert identity.capability is not None and identity.capability.allows("chat:x", "publish")
    assert issue_token("ana", None, 60, NOW_S)[0] != issue_token("ana", None, 60, NOW_S)[0], "jti differs"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("",), "bad_frame"),
        (("a b",), "bad_frame"),
        (("ana", {"*": "publish"}), "bad_frame"),
        (("ana", None, 0), "bad_frame"),
        (("ana", None, float("nan")), "bad_frame"),
        (("ana", None, 1e18), "bad_frame"),
        (("ana", {f"channel-{i}": ["publish"] for i in range(300)}), "too_large"),
    ],
)
def test_what_cannot_be_issued_is_refused(arguments: tuple[Any, ...], code: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        issue_token(*arguments)
    assert caught.value.code == code


def test_the_lifetime_is_bounded_by_not_after() -> None:
    assert issue_token("ana", None, 3600, NOW_S, not_after_s=NOW_S + 60.7)[1] == NOW_S + 60


def test_the_command_issues_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("issue_token", "ana", cap='{"x":["publish"]}', ttl=60)
    text = capsys.readouterr().out
    identity = verify_token(text.strip(), time.time())
    assert identity.client == "ana" and text.count("\n") == 1
    with pytest.raises(CommandError, match="JSON"):
        call_command("issue_token", "ana", cap="{")


# ---------------------------------------------------------------- API keys


def key_refusal(text: str, now_s: float | None = None) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        verify_api_key(text, time.time() if now_s is None else now_s)
    assert caught.value.code == "unauthorized"
    return caught.value


@pytest.mark.django_db
def test_a_key_is_an_identity_and_only_its_hash_is_kept() -> None:
    row, text = create_api_key("backend", {"x": ["publish"]})
    identity = verify_api_key(text, time.time())
    assert (identity.client, identity.kind, identity.key_id) == ("backend", "key", row.key_id)
    assert identity.capability == Capability.parse({"x": ["publish"]})
    secret = text.split("_", 2)[2]
    assert len(secret) >= 43 and secret not in str(ApiKey.objects.filter(pk=row.pk).values().get())


@pytest.mark.django_db
def test_bad_keys_are_refused() -> None:
    row, text = create_api_key("backend")
    other = create_api_key("other")[1]
    wrong = f"ser_{row.key_id}_{other.split('_', 2)[2]}"
    for bad in ("", "ser_", "ser_nobody_0123456789", f"ser_{'a' * 12}_{'b' * 43}", wrong, text + "x", text[:-1]):
        key_refusal(bad)
    assert verify_api_key(text, time.time()).client == "backend"


@pytest.mark.django_db
def test_a_key_expires_and_is_revoked_at_once() -> None:
    row, text = create_api_key("backend", expires=timezone.now() + timedelta(hours=1))
    now_s = time.time()
    verify_api_key(text, now_s)
    assert "expired" in key_refusal(text, now_s + 3601).message
    revoke_api_key(row)
    assert "revoked" in key_refusal(text, now_s).message


@pytest.mark.django_db
def test_a_key_saved_or_deleted_in_this_process_is_read_anew() -> None:
    row, text = create_api_key("backend")
    verify_api_key(text, time.time())
    row.capability = {}
    row.save()
    assert verify_api_key(text, time.time()).capability == Capability.parse({})
    row.delete()
    key_refusal(text)


@pytest.mark.django_db
def test_a_known_key_costs_no_query_while_it_is_fresh(django_assert_num_queries: Any) -> None:
    _, text = create_api_key("backend")
    now_s = time.time()
    verify_api_key(text, now_s)
    with django_assert_num_queries(0):
        for _ in range(100):
            verify_api_key(text, now_s, 3600.0)
    with django_assert_num_queries(1):
        verify_api_key(text, now_s, 0.0)


@pytest.mark.django_db
def test_last_use_is_written_at_most_once_a_minute(django_assert_num_queries: Any) -> None:
    row, text = create_api_key("backend")
    now_s = time.time()

    def last_used() -> float:
        row.refresh_from_db()
        assert row.last_used is not None
        return row.last_used.timestamp()

    verify_api_key(text, now_s)
    assert last_used() == pytest.approx(now_s)
    verify_api_key(text, now_s + 59)
    assert last_used() == pytest.approx(now_s)
    verify_api_key(text, now_s + 61)
    assert last_used() == pytest.approx(now_s + 61)


@pytest.mark.django_db
def test_a_worker_refreshes_all_known_keys_in_one_query_and_writes_for_them(django_assert_num_queries: Any) -> None:
    made = [create_api_key(f"backend-{i}") for i in range(3)]
    now_s = time.time()
    tokens.refresh_api_keys(now_s)
    for _, text in made:
        verify_api_key(text, now_s)
    assert ApiKey.objects.filter(last_used=None).count() == 3, "left to the worker"
    tokens.refresh_api_keys(now_s + 1)
    assert ApiKey.objects.filter(last_used=None).count() == 0
    with django_assert_num_queries(1):
        tokens.refresh_api_keys(now_s + 2)
    ApiKey.objects.filter(pk=made[0][0].pk).update(revoked=True)
    tokens.refresh_api_keys(now_s + 3)
    assert "revoked" in key_refusal(made[0][1], now_s).message


@pytest.mark.django_db
def test_unknown_keys_are_remembered_for_a_moment_too(django_assert_num_queries: Any) -> None:
    text = f"ser_{'a' * 12}_{'b' * 43}"
    key_refusal(text)
    with django_assert_num_queries(0):
        key_refusal(text)


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["", "a b", "zoë", "n" * 65])
def test_the_name_of_a_key_is_a_client_id(name: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        create_api_key(name)


@pytest.mark.django_db
def test_the_command_prints_the_key_alone(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("create_api_key", "contract", cap='{"*":["*"]}', expires=1)
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out.count("\n") == 1
    identity = verify_api_key(captured.out.strip(), time.time())
    assert identity.capability == Capability.parse({"*": ["*"]})
    assert identity.expires_at_s == pytest.approx(time.time() + 86_400, abs=60)
    for bad in ({"cap": "{"}, {"cap": "[]"}, {"expires": 0}):
        with pytest.raises(CommandError):
            call_command("create_api_key", "other", **bad)
    call_command("create_api_key", "plain")
    identity = verify_api_key(capsys.readouterr().out.strip(), time.time())
    assert identity.capability is not None and not identity.capability.allows("x", "admin")
    assert identity.capability.allows("x", "publish")


# ---------------------------------------------------------------- sessions


@pytest.fixture
def ana(db: None) -> Any:
    return get_user_model().objects.create_user("ana", password="one")


def logged_in(user: Any) -> str:
    client = Client()
    client.force_login(user)
    key = client.session.session_key
    assert key is not None
    return key


def test_a_session_is_an_identity_that_ends_with_it(ana: Any) -> None:
    key = logged_in(ana)
    identity = identity_from_session(key, time.time())
    assert identity is not None and (identity.client, identity.kind, identity.capability) == ("ana", "session", None)
    assert identity.expires_at_s == Session.objects.get(pk=key).expire_date.timestamp()
    assert key not in repr(identity)
    assert identity == identity_from_cookies(f"a=b; {django_settings.SESSION_COOKIE_NAME}={key}", time.time())
    assert session_still_valid(identity)
    assert identity_from_session(key, identity.expires_at_s) is None


def test_what_is_no_session_is_nobody(ana: Any) -> None:
    empty = Client().session
    empty.save()
    assert empty.session_key is not None
    for key in ("", "x", "nobody" * 6, "a\x00b" * 8, "é" * 32, empty.session_key):
        assert identity_from_session(key, time.time()) is None
    for header in ("", "a=b", "sessionid=", "\x00"):
        assert identity_from_cookies(header, time.time()) is None


@pytest.mark.parametrize("end", ["logout", "password", "inactive", "deleted", "expired"])
def test_a_session_that_ended_is_noticed(end: str, ana: Any) -> None:
    client = Client()
    client.force_login(ana)
    key = client.session.session_key
    assert key is not None
    identity = identity_from_session(key, time.time())
    assert identity is not None
    if end == "logout":
        client.logout()
    elif end == "password":
        ana.set_password("two")
        ana.save()
    elif end == "inactive":
        ana.is_active = False
        ana.save()
    elif end == "deleted":
        ana.delete()
    else:
        Session.objects.filter(pk=key).update(expire_date=timezone.now() - timedelta(seconds=1))
    assert not session_still_valid(identity)
    assert identity_from_session(key, time.time()) is None


def test_a_session_of_another_backend_is_nobody(ana: Any, settings: Any) -> None:
    key = logged_in(ana)
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.RemoteUserBackend"]
    assert identity_from_session(key, time.time()) is None


def test_a_session_with_a_strange_user_is_nobody(ana: Any) -> None:
    client = Client()
    client.force_login(ana)
    session = client.session
    session[SESSION_KEY] = "not a number"
    session.save()
    assert identity_from_session(session.session_key or "", time.time()) is None


def test_a_rotated_secret_key_keeps_sessions_and_their_keys(ana: Any, settings: Any) -> None:
    key = logged_in(ana)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another-" * 8
    identity = identity_from_session(key, time.time())
    assert identity is not None and session_still_valid(identity)
    assert Session.objects.filter(pk=key).exists(), "cycling the key would log the browser out"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("username", "client"),
    [("ana", "ana"), ("a+b@c.d-e_f", "a+b@c.d-e_f"), ("~5", None), ("zoë", None), ("a b", None), ("u" * 129, None)],
)
def test_the_client_id_of_a_user(username: str, client: str | None) -> None:
    user = get_user_model()(pk=7, username=username)
    assert client_id_of(user) == (client or "~7")


def test_logging_out_and_changing_a_user_is_told(ana: Any, django_capture_on_commit_callbacks: Any) -> None:
    told: list[SessionEnd] = []
    stop = tokens.on_session_end(told.append)
    try:
        client = Client()
        client.force_login(ana)
        assert told == [], "logging in ends nothing"
        key = client.session.session_key
        client.logout()
        assert key is not None and key not in repr(told)
        assert told == [SessionEnd(tokens.hash_of_session(key), str(ana.pk), certain=True)]
        told.clear()
        with django_capture_on_commit_callbacks(execute=True):
            ana.set_password("two")
            ana.save()
        assert told == [SessionEnd(None, str(ana.pk), certain=False)]
    finally:
        stop()
    user_logged_out.send(sender=type(ana), request=RequestFactory().get("/"), user=ana)
    assert len(told) == 1
