"""A broadcaster for tests: the command that comes with the package, in memory, on a free port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from httppubsub._binary import find_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_START_SECONDS = 120

BINARY_VARIABLE = "HTTPPUBSUB_BINARY"
"""Names the command, where it is not the one that comes with the package."""


@dataclass(frozen=True)
class TestBroadcaster:
    """A running broadcaster."""

    __test__ = False

    url: str
    """The url at which it is reached."""

    secrets: str
    """Path of the secrets file for its subscribers."""

    _process: asyncio.subprocess.Process = field(repr=False)

    async def stop(self) -> None:
        """Stop it before its time, as a test of what follows needs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.communicate()


@contextlib.asynccontextmanager
async def broadcaster(
    *arguments: str,
    auth: Literal["none", "token", "hmac"] = "hmac",
) -> AsyncIterator[TestBroadcaster]:
    """Run a broadcaster while this is entered. ``arguments`` are further ones of ``serve``."""
    binary = os.environ.get(BINARY_VARIABLE) or find_binary()
    with tempfile.TemporaryDirectory(prefix="httppubsub-") as folder:
        setup = await asyncio.create_subprocess_exec(
            binary,
            "setup",
            f"--to-broadcasters-auth={auth}",
            f"--to-subscribers-auth={auth}",
            f"--dir={folder}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await setup.communicate()
        if setup.returncode != 0:
            why = said.decode(errors="replace")
            raise RuntimeError(f"`httppubsub setup` ended with status {setup.returncode}: {why}")
        serve = await asyncio.create_subprocess_exec(
            binary,
            "serve",
            "--listen=127.0.0.1:0",
            "--db=memory",
            f"--data={folder}",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                url = await _url(serve)
            running = TestBroadcaster(url, os.path.join(folder, "subscriber-secrets.json"), serve)
            yield running
        finally:
            await TestBroadcaster("", "", serve).stop()


async def _url(serve: asyncio.subprocess.Process) -> str:
    """Return where it says that it listens."""
    if serve.stdout is None:
        raise RuntimeError("its standard output is a pipe")
    while line := await serve.stdout.readline():
        _, found, address = line.decode().partition("listening on ")
        if found:
            return address.split()[0]
    raise RuntimeError(f"`httppubsub serve` ended with status {await serve.wait()}")
