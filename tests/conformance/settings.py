"""The echo's settings: messages as large as the suite's, everything compressed that may be."""

from __future__ import annotations

from tests.settings import *  # noqa: F403  (the whole module is wanted)
from tests.settings import REALTIME

REALTIME = {**REALTIME, "MAX_FRAME_BYTES": 16 << 20, "DEFLATE_MIN_BYTES": 1}
