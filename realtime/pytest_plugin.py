"""Fixtures for projects that test with pytest-django; pytest finds them by the entry point of the package.

Imports nothing of Django at the top: pytest loads plugins before there are settings, and in every project.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from realtime.testing import CapturedPublishes, LiveServer


@pytest.fixture
def realtime_server(transactional_db: None) -> Iterator[LiveServer]:
    """The project under the real server, for this test alone: `.url`, `.websocket_url`."""
    from realtime import namespaces
    from realtime.testing import LiveServer

    namespaces.reset()
    with LiveServer() as server:
        yield server


@pytest.fixture
def realtime_published(db: None) -> Iterator[CapturedPublishes]:
    """What the test published, in order, without a worker; see `realtime.testing.captured_publishes`."""
    from realtime.testing import captured_publishes

    with captured_publishes() as captured:
        yield captured
