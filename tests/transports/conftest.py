"""A worker of its own for each test, and nothing that another test left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from realtime import authorization, budgets, namespaces, tokens
from realtime.transports import frames
from tests.conversation import stop_worker


@pytest.fixture(autouse=True)
def fresh(transactional_db: None) -> Iterator[None]:
    namespaces.reset()
    tokens.reset_caches()
    budgets.reset()
    frames._reached.clear()
    yield
    authorization._remembered.clear()
    namespaces.reset()
    tokens.reset_caches()


@pytest_asyncio.fixture(autouse=True)
async def one_worker(fresh: None) -> AsyncIterator[None]:
    yield
    await stop_worker()
