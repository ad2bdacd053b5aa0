"""How a project's application is found, and which sockets are whose."""

from __future__ import annotations

from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from realtime import asgi, checks
from tests.conversation import HOST, no_django

plain = get_asgi_application()
given = asgi.get_application(no_django)


async def own_sockets(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The project's own application for sockets."""
    await receive()
    await send({"type": "websocket.accept", "subprotocol": "mine"})


def test_the_application_is_the_one_of_the_settings() -> None:
    with override_settings(ASGI_APPLICATION=f"{__name__}.given"):
        assert asgi.find_application() is given


def test_without_the_setting_djangos_own_is_put_behind_the_platform() -> None:
    with override_settings(ASGI_APPLICATION=None):
        assert callable(asgi.find_application())


def test_djangos_application_alone_is_refused_with_the_remedy() -> None:
    with (
        override_settings(ASGI_APPLICATION=f"{__name__}.plain"),
        pytest.raises(ImproperlyConfigured, match="get_application"),
    ):
        asgi.find_application()


async def test_sockets_at_other_paths_are_the_projects_own() -> None:
    peer = WebsocketCommunicator(asgi.get_application(no_django, websocket=own_sockets), "/mine", [HOST])
    assert await peer.connect() == (True, "mine")
    await peer.disconnect()


async def test_sockets_at_other_paths_are_refused_where_nobody_serves_them() -> None:
    peer = WebsocketCommunicator(given, "/mine", [HOST])
    accepted, _ = await peer.connect()
    assert not accepted


# -- checks of what a project sets ------------------------------------------------------------------------------------


def ids(found: list[Any]) -> list[str | None]:
    return [each.id for each in found]


def test_runserver_of_somebody_else_is_told_in_development() -> None:
    ours, static = "realtime", "django.contrib.staticfiles"
    with override_settings(DEBUG=True):
        with override_settings(INSTALLED_APPS=[static, ours]):
            assert ids(checks.check_order_of_apps()) == ["realtime.W005"]
        with override_settings(INSTALLED_APPS=[ours, static]):
            assert checks.check_order_of_apps() == []
    with override_settings(DEBUG=False, INSTALLED_APPS=[static, ours]):
        assert checks.check_order_of_apps() == []


def test_a_function_that_cannot_be_imported_is_told(realtime_settings: Any) -> None:
    assert checks.check_token_capability() == []
    realtime_settings(TOKEN_CAPABILITY="nowhere.at_all")
    assert ids(checks.check_token_capability()) == ["realtime.E016"]


def test_a_path_without_its_slash_is_told(realtime_settings: Any) -> None:
    assert checks.check_websocket_path() == []
    realtime_settings(WEBSOCKET_PATH="ws")
    assert ids(checks.check_websocket_path()) == ["realtime.E017"]
