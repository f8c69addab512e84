"""How a peer and its test talk: one JSON object a line, events out, jobs in.

The end of standard input asks a peer to leave in good order. It also comes when the test process
dies, so that no peer outlives its test.
"""

import asyncio
import json
import sys
from typing import AsyncIterator

JOB_BYTES_MAX = 16 * 1024 * 1024
"""Longest line a peer reads, in bytes."""


def tell(event: str, **fields) -> None:
    """Prints one event, at once."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


async def jobs() -> AsyncIterator[dict]:
    """Yields each job as it comes in, and ends when standard input ends."""
    reader = asyncio.StreamReader(limit=JOB_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        if line.strip():
            yield json.loads(line)


async def asked_to_leave() -> None:
    """Returns when standard input has ended; what was read until then is dropped."""
    async for _ in jobs():
        pass
