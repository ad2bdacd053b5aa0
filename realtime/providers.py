"""Identity providers of others, whose tokens are taken: their public keys, fetched from where they publish them (JWKS).

`REALTIME["IDENTITY_PROVIDERS"]` names them by issuer. A token's `iss` picks the provider and its `kid` one of that
provider's keys, from memory: whoever verifies never waits here. What is not known is fetched in a thread of its own,
one at a time for each provider, and `KeyAwaited` says whom to ask when that is over. The last reading is what is
believed, also about keys that it does not have: another fetch for those begins `JWKS_REFETCH_S` after it at the
earliest, however many tokens name keys that do not exist. While a provider is away, its keys go on.
docs/how-to/trust-an-identity-provider.md, docs/decisions/0016-an-unknown-key-waits-for-one-fetch.md.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from jwt import PyJWTError
from jwt.algorithms import Algorithm, get_default_algorithms

from realtime import counting
from realtime.conf import settings
from realtime.delivery.capability import Capability
from realtime.protocol.errors import ProtocolError

__all__ = [
    "ALGORITHMS",
    "Key",
    "KeyAwaited",
    "Provider",
    "check",
    "is_foreign",
    "knows",
    "named",
    "on_change",
    "refresh",
]

logger = logging.getLogger("realtime.providers")

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
"""Those with two keys. HS256 is none of them: its key signs, and what a provider publishes is no secret."""

KEYS_MOST: Final = 100
RSA_BITS_LEAST: Final = 2048
RSA_BITS_MOST: Final = 8192
"""Verifying with a larger one costs milliseconds of an event loop."""

WAITING_MOST: Final = 10_000
"""Who waits for one fetch; whoever comes after them is told to come back."""

_FIELDS: Final = {"jwks", "audience", "algorithms", "prefix", "capability"}
_algorithms: Final[dict[str, Algorithm]] = get_default_algorithms()


class Unfit(Exception):
    """What a provider answered is no set of keys, or it did not answer. The text has nothing secret."""


@dataclass(frozen=True, slots=True)
class Key:
    """One of a provider's keys."""

    name: str
    """What `Identity.kid` says: the start of a hash of key and id, and the issuer. Another key under the same id has
    another name, and no kid of this site's own keys has an @."""
    algorithm: str
    public: Any = field(repr=False)


class KeyAwaited(ProtocolError):
    """A fetch is under way that may bring the key: ask again after `provider.when_read`, or pass this on."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(
            "unavailable", "The keys of the token's issuer are not here yet.", remedy="Try again.", retry_after_ms=1000
        )
        self.provider = provider


class Provider:
    """One issuer, and what was last read of its keys. Any thread; no method waits for the provider."""

    def __init__(self, issuer: str, given: object) -> None:
        where = f"REALTIME['IDENTITY_PROVIDERS'][{issuer!r}]"
        if not isinstance(given, Mapping):
            raise ImproperlyConfigured(f"{where} must be a dict with `jwks` and `audience`.")
        unknown = set(given) - _FIELDS
        if unknown:
            raise ImproperlyConfigured(f"{where} has {', '.join(sorted(map(str, unknown)))}, which nobody knows here.")
        if not issuer:
            raise ImproperlyConfigured(f"{where}: the name must be what tokens say as `iss`.")
        self.issuer = issuer
        self.url = _checked_url(where, given.get("jwks"))
        self.audience = given.get("audience")
        if not isinstance(self.audience, str) or not self.audience:
            raise ImproperlyConfigured(
                f"{where} needs `audience`: without it tokens would be taken that the provider made for other sites."
            )
        self.algorithms = tuple(given.get("algorithms", ALGORITHMS))
        if not self.algorithms or not set(self.algorithms) <= set(ALGORITHMS):
            raise ImproperlyConfigured(f"{where}: `algorithms` must be a list of {', '.join(ALGORITHMS)}.")
        self.prefix = given.get("prefix", "")
        if not isinstance(self.prefix, str) or len(self.prefix) > 64:
            raise ImproperlyConfigured(f"{where}: `prefix` must be a text of at most 64 characters.")
        self.trusts_cap = given.get("capability") == "token"
        """Whether the claim `cap` counts: who can have it put into tokens then says what they may do."""
        self.capability: Capability | None = None
        """What every client of the provider may do; None: the namespaces decide."""
        if not self.trusts_cap and given.get("capability") is not None:
            try:
                self.capability = Capability.parse(given["capability"])
            except ValueError as error:
                raise ImproperlyConfigured(f'{where}: `capability` must be "token" or a capability.') from error
        self._lock = threading.Lock()
        self._keys: Mapping[str, Key] = {}
        self._names: frozenset[str] = frozenset()
        self._read_at: float | None = None
        """When the keys in memory were answered, by `time.monotonic`; None never."""
        self._tried_at = -math.inf
        """When the last attempt ended."""
        self._fetching_since: float | None = None
        self._failing = False
        self._waiting: list[Callable[[], None]] = []

    # ------------------------------------------------------------------ asking

    def key(self, kid: object) -> Key | None:
        """The provider's key of this id; None when its last answer does not have it. `KeyAwaited` when a fetch may
        bring it, and `unavailable` when nobody can say."""
        self.refresh()
        found = self._keys.get(kid) if isinstance(kid, str) else None
        if found is not None or not isinstance(kid, str):
            return found
        if self._begin(settings.JWKS_REFETCH_S):
            raise KeyAwaited(self)
        if self._failing or self._read_at is None or self._fetching_since is not None:
            raise ProtocolError(
                "unavailable",
                "The keys of the token's issuer cannot be fetched.",
                remedy="Try again later.",
                retry_after_ms=1000 * settings.JWKS_REFETCH_S,
            )
        return None

    def knows(self, name: str) -> bool:
        """Whether the key is one of the provider's; also while nothing was ever read, when nobody can say."""
        return self._read_at is None or name in self._names

    @property
    def age_s(self) -> float | None:
        """Since the keys in memory were answered."""
        return None if self._read_at is None else time.monotonic() - self._read_at

    def refresh(self) -> None:
        """Has the keys fetched when they are due, and does not wait for that."""
        due = self._failing or self._read_at is None or time.monotonic() - self._read_at >= settings.JWKS_MAX_AGE_S
        if due:
            self._begin(settings.JWKS_REFETCH_S)

    def when_read(self, callback: Callable[[], None]) -> None:
        """Calls when the fetch under way has ended, in its thread; at once when there is none."""
        with self._lock:
            wait = self._is_fetching() and len(self._waiting) < WAITING_MOST
            if wait:
                self._waiting.append(callback)
        if not wait:
            callback()

    # ------------------------------------------------------------------ fetching

    def _is_fetching(self) -> bool:
        """Whether a fetch is under way that may still be in time."""
        since = self._fetching_since
        return since is not None and time.monotonic() - since < settings.JWKS_TIMEOUT_S

    def _begin(self, after_s: float) -> bool:
        """Begins a fetch unless one is under way, or one ended less than `after_s` ago. Whether one is under way."""
        with self._lock:
            if self._fetching_since is not None:
                return self._is_fetching()
            if time.monotonic() - self._tried_at < after_s:
                return False
            self._fetching_since = time.monotonic()
        threading.Thread(target=self._fetch, name="seriatim-jwks", daemon=True).start()
        return True

    def _fetch(self) -> None:
        keys: dict[str, Key] | None = None
        reason = ""
        try:
            keys = parse(fetch(self.url, settings.JWKS_TIMEOUT_S, settings.JWKS_MAX_BYTES), self)
        except Unfit as error:
            reason = str(error)
        except Exception as error:  # whatever it is, the keys of before go on and the next attempt comes
            logger.exception("Fetching the keys of %s failed.", self.issuer)
            reason = type(error).__name__
        counting.jwks_fetches.add("failed" if keys is None else "read")
        changed = False
        with self._lock:
            now = time.monotonic()
            if keys is not None:
                names = frozenset(key.name for key in keys.values())
                changed = names != self._names
                self._keys, self._names, self._read_at = keys, names, now
            failed_before, self._failing = self._failing, keys is None
            self._tried_at, self._fetching_since = now, None
            waiting, self._waiting = self._waiting, []
        if keys is None and not failed_before:
            logger.warning("The keys of %s cannot be fetched, those known go on: %s", self.issuer, reason)
        elif keys is not None and (failed_before or changed):
            logger.info("%s has %d keys.", self.issuer, len(keys))
        for each in [*(list(_listeners) if changed else []), *waiting]:
            try:
                each()
            except Exception:  # the fault of one must not leave the others waiting
                logger.exception("A listener for keys of %s failed.", self.issuer)


def fetch(url: str, timeout_s: float, bytes_most: int) -> bytes:
    """What stands there. `Unfit` for whatever is not a plain answer in time: no redirect is followed, no proxy of the
    environment asked, nothing sent that tells more than that somebody asks."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    # The timeout of a socket holds for each byte by itself. Who drips them is cut off when the time is over.
    over = threading.Timer(timeout_s, _cut, [connection])
    over.daemon = True
    over.start()
    try:
        path = parts.path or "/"
        connection.request(
            "GET",
            f"{path}?{parts.query}" if parts.query else path,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close"},
        )
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise Unfit(f"HTTP status {answer.status}")
        body = answer.read(bytes_most + 1)
        # A body that ends before its time is cut off without an error where only so much of it was asked for.
        if answer.length:
            raise Unfit(f"more than {bytes_most} bytes" if len(body) > bytes_most else "half an answer")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unfit(f"no answer ({type(error).__name__})") from error
    finally:
        over.cancel()
        connection.close()
    if len(body) > bytes_most:
        raise Unfit(f"more than {bytes_most} bytes")
    return body


def _cut(connection: http.client.HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended by itself


def parse(body: bytes, provider: Provider) -> dict[str, Key]:
    """The keys that can be used, by id. Others are passed over: providers publish keys for other purposes beside.

    `Unfit` for what is no set of keys, and for one without any that can be used: an answer that would end every
    connection of the provider's clients is taken for its fault.
    """
    try:
        given = json.loads(body)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unfit("not a set of keys") from error
    if not isinstance(given, list):
        raise Unfit("not a set of keys")
    found: dict[str, Key] = {}
    for each in given[:KEYS_MOST]:
        key = _parse_key(each, provider)
        if key is not None:
            found.setdefault(each["kid"], key)
    if not found:
        raise Unfit("no key that can be used")
    return found


def _parse_key(given: object, provider: Provider) -> Key | None:
    if not isinstance(given, Mapping):
        return None
    kid = given.get("kid")
    algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}.get(str(given.get("kty")))
    if algorithm is None or algorithm not in provider.algorithms or given.get("alg", algorithm) != algorithm:
        return None
    if not isinstance(kid, str) or not 0 < len(kid) <= 256 or given.get("use", "sig") != "sig":
        return None
    if "d" in given:
        logger.error("%s publishes the private part of a key; that key is not taken.", provider.issuer)
        return None
    operations = given.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        public = cast("Any", _algorithms[algorithm]).from_jwk(dict(given))
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    match public:
        case rsa.RSAPublicKey():
            fit = RSA_BITS_LEAST <= public.key_size <= RSA_BITS_MOST
        case ec.EllipticCurvePublicKey():
            fit = public.curve.name == "secp256r1"
        case _:
            fit = isinstance(public, ed25519.Ed25519PublicKey)
    if not fit:
        return None
    whole = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) + kid.encode("utf-8", "replace")
    return Key(f"{hashlib.sha256(whole).hexdigest()[:16]}@{provider.issuer}", algorithm, public)


def _checked_url(where: str, url: object) -> str:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        fit = parts is not None and bool(parts.hostname) and parts.port != 0 and not parts.username
    except ValueError:
        fit = False
    if not fit or not isinstance(url, str) or parts is None:
        raise ImproperlyConfigured(f"{where} needs `jwks`, the address of the provider's keys.")
    if parts.scheme != "https" and not (parts.scheme == "http" and django_settings.DEBUG and _is_here(parts.hostname)):
        raise ImproperlyConfigured(f"{where}: `jwks` must begin with https://. (http to this machine, with DEBUG.)")
    return url


def _is_here(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


# ---------------------------------------------------------------- all of them

_providers: dict[str, Provider] | None = None
_listeners: list[Callable[[], None]] = []
_building = threading.Lock()


def all_providers() -> Mapping[str, Provider]:
    """By issuer. Raises `ImproperlyConfigured`."""
    global _providers
    found = _providers
    if found is None:
        with _building:
            found = _providers
            if found is None:
                given = settings.IDENTITY_PROVIDERS
                found = _providers = {issuer: Provider(issuer, each) for issuer, each in given.items()}
    return found


def check() -> None:
    """Raises `ImproperlyConfigured` with what to do; for the system checks at start."""
    for issuer, given in settings.IDENTITY_PROVIDERS.items():
        Provider(issuer, given)


def named(issuer: object) -> Provider | None:
    """The provider whose tokens say so."""
    return all_providers().get(issuer) if isinstance(issuer, str) else None


def is_foreign(kid: str) -> bool:
    """Whether `Identity.kid` is a key of a provider."""
    return "@" in kid


def knows(name: str) -> bool:
    """Whether the key, by `Identity.kid`, is still one of its provider's."""
    provider = all_providers().get(name.partition("@")[2])
    return provider is not None and provider.knows(name)


def refresh() -> None:
    """Has keys fetched that are due. For a worker, every second; waits for nothing."""
    for provider in all_providers().values():
        provider.refresh()


def oldest_s() -> float | None:
    """The age of the keys that were fetched longest ago; None where none were."""
    ages = [age_s for provider in all_providers().values() if (age_s := provider.age_s) is not None]
    return max(ages, default=None)


def on_change(listener: Callable[[], None]) -> Callable[[], None]:
    """Call `listener` after a provider answered with other keys, in the thread that fetched; returns what stops it."""
    _listeners.append(listener)

    def stop() -> None:
        if listener in _listeners:
            _listeners.remove(listener)

    return stop


def reset() -> None:
    """Forget everything (changed settings, tests)."""
    global _providers
    _providers = None
