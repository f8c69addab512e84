from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest_asyncio

from httppubsub import testing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# A shell that began the tests in the background has them ignore it, and so would the programs that
# they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest_asyncio.fixture
async def broadcaster() -> AsyncIterator[testing.TestBroadcaster]:
    async with testing.broadcaster() as running:
        yield running
