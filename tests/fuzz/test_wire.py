"""The fuzzer for some seconds; `python -m tests.fuzz.wire` goes on for longer, and weighs the server."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.processes import ServerProcess
from tests.fuzz.wire import bearers_of, fuzz

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]


def test_nonsense_is_answered_and_nobody_else_notices() -> None:
    with ServerProcess() as server:
        figures = asyncio.run(fuzz(server, 2, 11, bearers=bearers_of(server)))
    assert not figures.faults, figures.faults
    assert figures.frames > 10 and figures.requests > 5, str(figures)
