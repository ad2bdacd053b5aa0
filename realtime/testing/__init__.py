"""For the tests of projects that use the platform: what was published, relaying by hand, a real server for sockets.

`captured_publishes` and `relay_now` work inside `TestCase`, where nothing ever commits and no worker runs.
`RealtimeLiveServerTestCase`, and the pytest fixture `realtime_server`, start the real server in a process of its own.
See docs/how-to/test-your-project.md.
"""

from __future__ import annotations

from realtime.testing.captured import (
    CapturedPublish,
    CapturedPublishes,
    CapturedSignal,
    captured_publishes,
    captured_signals,
    relay_now,
)
from realtime.testing.live import LiveServer, LiveServerError, RealtimeLiveServerTestCase

__all__ = [
    "CapturedPublish",
    "CapturedPublishes",
    "CapturedSignal",
    "LiveServer",
    "LiveServerError",
    "RealtimeLiveServerTestCase",
    "captured_publishes",
    "captured_signals",
    "relay_now",
]
