"""Seriatim: realtime channels for Django.

Every channel is a log in the database; a subscriber is a position in it. This package is the platform, a reusable
Django app. It stays import-light on purpose: `realtime.protocol` and `realtime.delivery` are usable without Django.
The design is explained in docs/explanation/architecture.md.
"""

from __future__ import annotations

__version__ = "0.1.0"
