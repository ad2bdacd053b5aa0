"""Chance for ids and backoff, from the operating system.

Not `random.random`: processes that were forked share its state, and would give different messages the same ids.
"""

from __future__ import annotations

import random
from typing import Final

from seriatim_client.backoff import Random

strong_random: Final[Random] = random.SystemRandom().random
