"""Golden vectors of the wire, read by the server's tests and by those of the SDKs. See README.md beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def load(name: str) -> list[dict[str, Any]]:
    """All vectors of one file, in order."""
    vectors: list[dict[str, Any]] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return vectors


def each(name: str) -> pytest.MarkDecorator:
    """Runs a test once per vector; the argument is `vector`."""
    return pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in load(name)])
