"""The site's settings with what no variable of its own can change: for servers that end-to-end tests start.

TEST_LAYER is the dotted path of a channel layer, TEST_REALTIME a JSON object of keys of `REALTIME`.
"""

from __future__ import annotations

import json
import os

from config.settings import *  # noqa: F403  (the whole module is wanted)
from config.settings import REALTIME

if _layer := os.environ.get("TEST_LAYER"):
    CHANNEL_LAYERS = {"default": {"BACKEND": _layer}}
REALTIME = {**REALTIME, **json.loads(os.environ.get("TEST_REALTIME", "{}"))}
