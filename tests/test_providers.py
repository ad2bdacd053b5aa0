"""Tokens of identity providers: whose keys are believed, when they are fetched, and who waits for that."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from realtime import limits, namespaces, providers, revocations, signing, tokens
from realtime.checks import check_identity_providers
from realtime.protocol.errors import ProtocolError
from realtime.tokens import verify_token, verify_token_in_thread
from tests.conftest import MS, aeventually, eventually
from tests.conversation import Peer, bearer, connected, stop_worker, token

ISSUER = "https://login.example"
AUDIENCE = "seriatim"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NEVER_S = 10_000


class Idp:
    """A provider's server, which answers as the test says."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"k1": ec.generate_private_key(ec.SECP256R1())}
        self.extra: list[object] = []
        self.fetches = 0
        self.answer: Callable[[BaseHTTPRequestHandler], None] = self.regular
        idp = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                idp.fetches += 1
                try:
                    idp.answer(self)
                except OSError:
                    pass  # who asked has gone

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()

    def jwk(self, kid: str) -> dict[str, Any]:
        key = self.keys[kid].public_key()
        kind, name = {"RSAPublicKey": ("RSA", "RS256"), "Ed25519PublicKey": ("OKP", "EdDSA")}.get(
            type(key).__name__, ("EC", "ES256")
        )
        kinds: dict[str, Any] = {
            "RSA": jwt.algorithms.RSAAlgorithm,
            "OKP": jwt.algorithms.OKPAlgorithm,
            "EC": jwt.algorithms.ECAlgorithm,
        }
        made: dict[str, Any] = kinds[kind].to_jwk(key, as_dict=True)
        made.pop("key_ops", None)
        return {**made, "kid": kid, "alg": name, "use": "sig"}

    def regular(self, request: BaseHTTPRequestHandler) -> None:
        self.say(request, json.dumps({"keys": [*self.extra, *map(self.jwk, self.keys)]}).encode())

    def hold(self) -> threading.Event:
        """Answers only when the event is set."""
        held = threading.Event()

        def answer(request: BaseHTTPRequestHandler) -> None:
            held.wait(20_000 * MS)
            self.regular(request)

        self.answer = answer
        return held

    def say(self, request: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    def token(self, kid: str = "k1", *, key: Any = None, alg: str = "ES256", **claims: Any) -> str:
        given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ana", "exp": int(time.time()) + 600, **claims}
        said = {name: value for name, value in given.items() if value is not None}
        return jwt.PyJWS().encode(json.dumps(said).encode(), key or self.keys[kid], alg, headers={"kid": kid})

    def end(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(autouse=True)
def no_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rows of keys and revocations have tests of their own; most here ask no database."""
    tokens.reset_caches()
    if request.node.get_closest_marker("django_db") is None:
        for module in (limits, revocations, signing):
            monkeypatch.setattr(module.mirror, "load", lambda: None)
    yield
    tokens.reset_caches()


@pytest.fixture
def debug() -> Iterator[None]:
    """Without it nothing is fetched but by https."""
    with override_settings(DEBUG=True):
        yield


@pytest.fixture
def idp(debug: None, realtime_settings: Callable[..., None]) -> Iterator[Idp]:
    found = Idp()
    realtime_settings(IDENTITY_PROVIDERS={ISSUER: {"jwks": found.url, "audience": AUDIENCE}}, JWKS_REFETCH_S=NEVER_S)
    yield found
    found.end()


def refusal(text: str) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        verify_token_in_thread(text, time.time())
    return caught.value


def provider() -> providers.Provider:
    return providers.all_providers()[ISSUER]


def settled() -> None:
    """No fetch is under way."""
    ended = threading.Event()
    provider().when_read(ended.set)
    assert ended.wait(10_000 * MS)


def allow_another(found: providers.Provider | None = None) -> None:
    """As if `JWKS_REFETCH_S` were over."""
    (found or provider())._tried_at = -NEVER_S - time.monotonic()


# ---------------------------------------------------------------- which tokens


@pytest.mark.parametrize(
    ("alg", "key"),
    [
        ("RS256", RSA_KEY),
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    ],
)
def test_a_token_of_the_provider_is_good(idp: Idp, alg: str, key: Any) -> None:
    idp.keys = {"k1": key}
    identity = verify_token_in_thread(idp.token(alg=alg, jti="j"), time.time())
    assert (identity.client, identity.kind, identity.jti, identity.capability) == ("ana", "token", "j", None)
    assert verify_token(idp.token(alg=alg), time.time()).client == "ana" and idp.fetches == 1


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "other"},
        {"aud": None},
        {"exp": 1000},
        {"exp": None},
        {"nbf": 9_000_000_000},
        {"sub": None},
        {"sub": "a b"},
        {"iss": "https://login.example/"},
        {"iss": None},
        {"iss": ["https://login.example"]},
    ],
)
def test_what_its_claims_must_say_is_compared(idp: Idp, claims: dict[str, Any]) -> None:
    assert refusal(idp.token(**claims)).code == "unauthorized"
    assert refusal(idp.token(key=ec.generate_private_key(ec.SECP256R1()))).code == "unauthorized", "another's signature"


def test_a_key_is_good_for_its_own_issuer_alone(idp: Idp, realtime_settings: Callable[..., None]) -> None:
    """Ours under its name, its under ours, and that of one provider under another's."""
    other = Idp()
    providers_: dict[str, Any] = {
        ISSUER: {"jwks": idp.url, "audience": AUDIENCE},
        "https://other.example": {"jwks": other.url, "audience": AUDIENCE},
    }
    realtime_settings(IDENTITY_PROVIDERS=providers_)
    assert verify_token_in_thread(other.token(iss="https://other.example"), time.time()).client == "ana"
    assert refusal(idp.token(iss="https://other.example")).code == "unauthorized"
    assert (
        refusal(idp.token(kid="k1", key=idp.keys["k1"], iss="https://nobody.example", aud=None)).code == "unauthorized"
    )
    ours = jwt.decode(token(), options={"verify_signature": False})
    assert refusal(idp.token(**ours, iss=None, aud=None)).code == "unauthorized"
    secret = tokens._signing_keys()["default"].sign
    assert refusal(idp.token("default", key=secret, alg="HS256")).code == "unauthorized"
    other.end()


def test_a_public_key_is_no_secret(idp: Idp) -> None:
    """The classic: HS256 with what the provider publishes, as the token's algorithm and as the set's."""
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    idp.keys["k2"] = RSA_KEY
    idp.extra = [{"kty": "oct", "kid": "k3", "k": "c2VjcmV0" * 8, "alg": "HS256"}]
    text = idp.token("k2", key=RSA_KEY, alg="RS256")
    assert verify_token_in_thread(text, time.time()).client == "ana"
    by_hand = jwt.api_jws.PyJWS()
    by_hand._algorithms["HS256"].prepare_key = lambda key: key  # type: ignore[method-assign]
    payload = json.dumps(jwt.decode(text, options={"verify_signature": False})).encode()
    assert refusal(by_hand.encode(payload, pem, "HS256", headers={"kid": "k2"})).code == "unauthorized"
    assert refusal(idp.token("k3", key="secret" * 8, alg="HS256")).code == "unauthorized"
    assert refusal(idp.token("k2", key=RSA_KEY, alg="RS512")).code == "unauthorized"


def test_only_algorithms_that_the_site_names_are_taken(idp: Idp, realtime_settings: Callable[..., None]) -> None:
    given = {"jwks": idp.url, "audience": AUDIENCE, "algorithms": ["ES256"]}
    realtime_settings(IDENTITY_PROVIDERS={ISSUER: given})
    idp.keys["k2"] = RSA_KEY
    assert verify_token_in_thread(idp.token(), time.time()).client == "ana"
    assert refusal(idp.token("k2", alg="RS256")).code == "unauthorized"


def test_keys_for_other_purposes_and_weak_ones_are_passed_over(idp: Idp) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    idp.keys["weak"] = weak
    good = idp.jwk("k1")
    spoilt: list[dict[str, Any]] = [
        {"use": "enc"},
        {"alg": "ES384"},
        {"key_ops": ["sign"]},
        {"d": "AA"},
        {"x": "AA"},
        {"kid": 5},
        {"crv": "P-384"},
    ]
    idp.extra = [{**good, "kid": f"bad{index}", **each} for index, each in enumerate(spoilt)] + [None, 5, [], {}]
    assert verify_token_in_thread(idp.token(), time.time()).client == "ana"
    assert set(provider()._keys) == {"k1"}


def test_what_a_token_says_of_rights_counts_only_where_the_site_says_so(
    idp: Idp, realtime_settings: Callable[..., None]
) -> None:
    given = {"jwks": idp.url, "audience": AUDIENCE, "prefix": "login|"}
    text = idp.token(cap={"*": ["*"]})
    for capability, allowed in ((None, None), ({"a:*": ["subscribe"]}, False), ("token", True)):
        realtime_settings(
            IDENTITY_PROVIDERS={ISSUER: given if capability is None else {**given, "capability": capability}}
        )
        identity = verify_token_in_thread(text, time.time())
        assert identity.client == "login|ana"
        found = identity.capability
        assert (None if found is None else found.allows("b:1", "admin")) is allowed


def test_a_token_cannot_name_an_api_key_of_ours(idp: Idp) -> None:
    text = jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "sub": "ana", "exp": int(time.time()) + 600, tokens.KEY_CLAIM: "abc"},
        idp.keys["k1"],
        "ES256",
        headers={"kid": "k1"},
    )
    assert verify_token_in_thread(text, time.time()).key_id is None


@pytest.mark.parametrize(
    "given",
    [
        "https://x",
        {},
        {"jwks": "https://x"},
        {"jwks": "http://login.example/jwks", "audience": "a"},
        {"jwks": "http://127.0.0.1/jwks", "audience": "a"},
        {"jwks": "file:///etc/passwd", "audience": "a"},
        {"jwks": "https://user:secret@x/jwks", "audience": "a"},
        {"jwks": "https://x", "audience": ""},
        {"jwks": "https://x", "audience": "a", "algorithms": ["HS256"]},
        {"jwks": "https://x", "audience": "a", "algorithms": []},
        {"jwks": "https://x", "audience": "a", "capability": {"a*b": ["subscribe"]}},
        {"jwks": "https://x", "audience": "a", "keys": 1},
    ],
)
def test_a_provider_that_cannot_be_trusted_so_is_refused_at_start(
    realtime_settings: Callable[..., None], given: object
) -> None:
    """http to this machine is for DEBUG alone."""
    realtime_settings(IDENTITY_PROVIDERS={ISSUER: given})
    with pytest.raises(ImproperlyConfigured):
        providers.check()
    assert [found.id for found in check_identity_providers()] == ["realtime.E019"]


# ---------------------------------------------------------------- rotation and time


def test_a_new_key_of_the_provider_is_fetched_when_it_is_first_seen(idp: Idp) -> None:
    old = idp.token()
    verify_token_in_thread(old, time.time())
    idp.keys["k2"] = ec.generate_private_key(ec.SECP256R1())
    assert refusal(idp.token("k2")).code == "unauthorized", "the last answer, which did not have it, was just now"
    allow_another()
    assert verify_token_in_thread(idp.token("k2"), time.time()).client == "ana"
    assert verify_token_in_thread(old, time.time()).client == "ana"
    assert idp.fetches == 2


def test_a_key_that_the_provider_took_back_or_exchanged_is_good_no_more(idp: Idp) -> None:
    text = idp.token()
    identity = verify_token_in_thread(text, time.time())
    for keys in ({"k2": idp.keys["k1"]}, {"k1": ec.generate_private_key(ec.SECP256R1())}):
        idp.keys = keys
        allow_another()
        provider()._read_at = -NEVER_S - time.monotonic()
        providers.refresh()
        settled()
        assert tokens.refusal_of(identity, time.time()) is not None
        assert refusal(text).code == "unauthorized"


def test_keys_are_fetched_again_when_they_are_old_and_nobody_waits_for_that(
    idp: Idp, realtime_settings: Callable[..., None]
) -> None:
    verify_token_in_thread(idp.token(), time.time())
    provider()._read_at = time.monotonic() - 601
    allow_another()
    held = idp.hold()
    assert verify_token(idp.token(jti="2"), time.time()).client == "ana"
    eventually(lambda: idp.fetches == 2)
    held.set()
    settled()
    assert provider().age_s is not None and provider().age_s < 600  # type: ignore[operator]  # it was just read


# ---------------------------------------------------------------- a provider that is away, slow, or answers nonsense


def redirect(idp: Idp) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda request: idp.say(request, b"", 302, Location=idp.url + "?again")


def endless(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
    for _ in range(100_000):
        request.wfile.write(b" " * 65536)


def other_protocol(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"SSH-2.0\r\n\r\n")


def drip(request: BaseHTTPRequestHandler) -> None:
    for _ in range(10_000):
        request.wfile.write(b"H")
        time.sleep(0.05)


BAD: dict[str, Callable[[Idp], Callable[[BaseHTTPRequestHandler], None]]] = {
    "status": lambda idp: lambda request: idp.say(request, b'{"keys": []}', 500),
    "redirect": redirect,
    "no JSON": lambda idp: lambda request: idp.say(request, b"<html>"),
    "deep": lambda idp: lambda request: idp.say(request, b"[" * 100_000),
    "not an object": lambda idp: lambda request: idp.say(request, b"[]"),
    "keys are none": lambda idp: lambda request: idp.say(request, b'{"keys": "none"}'),
    "no keys": lambda idp: lambda request: idp.say(request, b'{"keys": []}'),
    "huge": lambda idp: lambda request: idp.say(request, b'{"keys": [' + b" " * 10_000_000 + b"]}"),
    "endless": lambda idp: endless,
    "hangs up": lambda idp: lambda request: None,
    "drips": lambda idp: drip,
}


@pytest.mark.parametrize("fault", BAD)
def test_whatever_a_provider_answers_its_known_keys_go_on(
    idp: Idp, fault: str, realtime_settings: Callable[..., None]
) -> None:
    realtime_settings(JWKS_TIMEOUT_S=1)
    text = idp.token()
    verify_token_in_thread(text, time.time())
    idp.answer = BAD[fault](idp)
    allow_another()
    error = refusal(idp.token("k2", key=ec.generate_private_key(ec.SECP256R1())))
    settled()
    assert error.code == "unavailable" and error.retry_after_ms, "nobody can say whether there is such a key"
    assert idp.fetches == 2, "and a redirect is not followed"
    assert verify_token(text, time.time()).client == verify_token(idp.token(jti="2"), time.time()).client == "ana"
    idp.answer = idp.regular
    eventually(lambda: provider()._fetching_since is None)
    allow_another()
    assert refusal(idp.token("k2", key=ec.generate_private_key(ec.SECP256R1()))).code == "unauthorized"


def test_a_provider_that_never_answered_is_asked_again_later(idp: Idp) -> None:
    idp.answer = BAD["hangs up"](idp)
    assert refusal(idp.token()).code == "unavailable"
    assert refusal(idp.token()).code == "unavailable" and idp.fetches == 1
    idp.answer = idp.regular
    allow_another()
    assert verify_token_in_thread(idp.token(), time.time()).client == "ana"


def test_a_thousand_invented_keys_cost_one_fetch(idp: Idp) -> None:
    verify_token_in_thread(idp.token(), time.time())
    stranger = ec.generate_private_key(ec.SECP256R1())
    allow_another()
    texts = [idp.token(secrets.token_urlsafe(12), key=stranger) for _ in range(1000)]
    codes = {refusal(text).code for text in texts}
    assert codes == {"unauthorized"} and idp.fetches == 2
    assert len(provider()._keys) == 1 and not provider()._waiting, "and nothing is remembered of them"
    assert verify_token(idp.token(), time.time()).client == "ana"


# ---------------------------------------------------------------- at the door


@pytest.fixture
async def fresh() -> Any:
    namespaces.reset()
    yield
    await stop_worker()
    namespaces.reset()


@pytest.mark.django_db(transaction=True)
async def test_a_handshake_waits_for_the_keys_and_nobody_else_does(idp: Idp, fresh: None) -> None:
    held = idp.hold()
    waiting = Peer(bearer(idp.token()))
    assert await waiting.connect()
    await aeventually(lambda: idp.fetches == 1)
    async with connected() as other:
        assert (await other.request("ping"))["type"] == "pong"
        assert not waiting.kept and waiting.communicator.output_queue.empty()
        held.set()
        assert (await waiting.read(type="ready"))["client"] == "ana"
    await waiting.leave()


@pytest.mark.django_db(transaction=True)
async def test_who_waited_in_vain_is_told_to_come_back_and_who_is_in_stays(
    idp: Idp, fresh: None, realtime_settings: Callable[..., None]
) -> None:
    realtime_settings(JWKS_TIMEOUT_S=1)
    idp.answer = drip
    waiting = Peer(bearer(idp.token()))
    assert await waiting.connect()
    code, reason, frames = await waiting.closed()
    assert (code, frames[-1]["code"]) == (4013, "unavailable") and reason.startswith("retry_after_ms=")
    async with connected() as inside:
        answer = await inside.request("auth", token=idp.token(sub="ana"))
        assert answer["code"] == "unavailable"
        assert (await inside.request("ping"))["type"] == "pong"


@pytest.mark.django_db(transaction=True)
async def test_a_key_taken_back_ends_the_connections_that_rest_on_it(idp: Idp, fresh: None) -> None:
    peer = Peer(bearer(idp.token()))
    assert await peer.connect()
    await peer.read(type="ready")
    idp.keys = {"k2": ec.generate_private_key(ec.SECP256R1())}
    provider()._read_at = -NEVER_S - time.monotonic()
    allow_another()
    code, _, _ = await asyncio.wait_for(peer.closed(), 10_000 * MS)
    assert code == 4401


@pytest.mark.django_db(transaction=True)
def test_rest_waits_for_the_keys(idp: Idp, client: Any) -> None:
    namespaces.reset()
    answer = client.get("/api/v1/channels/none:1/messages", headers={"authorization": f"Bearer {idp.token()}"})
    assert answer.status_code in (403, 404) and idp.fetches == 1
