from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from realtime.conf import keys, settings


def test_a_key_left_out_has_its_default() -> None:
    with override_settings(REALTIME={}):
        assert settings.HEARTBEAT_MS == 25_000
        assert settings.TOKEN_AUDIENCE is None
        assert settings.BLOCK_CACHE_BYTES == 32 * 1024 * 1024


def test_a_changed_setting_is_seen_at_once_and_given_back() -> None:
    before = settings.HOLD_MS
    with override_settings(REALTIME={"HOLD_MS": before + 1}):
        assert before + 1 == settings.HOLD_MS
    assert before == settings.HOLD_MS


def test_the_second_read_costs_a_plain_attribute() -> None:
    assert vars(settings)["HOLD_MS"] == settings.HOLD_MS


def test_an_unknown_key_is_refused_with_the_nearest_name() -> None:
    with (
        override_settings(REALTIME={"HEARTBEAT_S": 25}),
        pytest.raises(ImproperlyConfigured, match=r"'HEARTBEAT_S'.*'HEARTBEAT_MS'"),
    ):
        settings.load()


def test_an_unknown_key_like_no_other_points_to_the_list() -> None:
    with override_settings(REALTIME={"QQQ": 1}), pytest.raises(ImproperlyConfigured, match=r"settings\.md"):
        settings.load()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("HOLD_MS", "30"),
        ("HOLD_MS", -1),
        ("HOLD_MS", True),
        ("HOLD_MS", 1.5),
        ("HEARTBEAT_MS", 10),
        ("IDEMPOTENCY_MIN_S", 119),
        ("TOKEN_AUDIENCE", 3),
        ("TOKEN_ISSUER", ""),
        ("ORIGINS", "https://example.org"),
        ("SIGNING_KEYS", []),
        ("DATABASE", ""),
        ("PREFIX", None),
    ],
)
def test_a_value_of_the_wrong_type_or_size_is_refused(key: str, value: object) -> None:
    with override_settings(REALTIME={key: value}), pytest.raises(ImproperlyConfigured, match=key):
        settings.load()


def test_a_setting_that_is_no_dict_is_refused() -> None:
    with override_settings(REALTIME=[]), pytest.raises(ImproperlyConfigured, match="must be a dict"):
        settings.load()


@pytest.mark.parametrize("name", keys())
def test_every_key_carries_unit_and_reason(name: str) -> None:
    key = keys()[name]
    assert key.unit
    assert len(key.reason) > 20
    assert key.checked(key.default) == key.default


@pytest.mark.parametrize("name", [name for name, key in keys().items() if isinstance(key.default, int)])
def test_durations_and_sizes_have_the_unit_in_the_name(name: str) -> None:
    unit = keys()[name].unit.split()[0]
    suffix = {"milliseconds": "_MS", "seconds": "_S", "bytes": "BYTES"}.get(unit, "")
    assert name.endswith(suffix)
