"""Against the published packages: lonelypss as the broadcaster, lonelypsc as the other client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support import PATIENCE, client_of, text_of

from httppubsub import find_binary, testing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]

# The environment that the tests in `interop` make.
PYTHON = ROOT / "target/interop-venv/bin/python"

pytestmark = pytest.mark.skipif(
    not (PYTHON.parents[1] / "made-from").exists(),
    reason="the published packages are not installed: `cargo xtask test --only interop` does it",
)


class Peer:
    """A program of `interop/peers`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def hears(self, event: str) -> dict[str, Any]:
        """Return the next event of this name."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while line := await self.process.stdout.readline():
                said: dict[str, Any] = json.loads(line)
                if said["event"] == event:
                    return said
        raise AssertionError(f"it ended without {event!r}")


@contextlib.asynccontextmanager
async def peer(script: str, *arguments: str) -> AsyncIterator[Peer]:
    """Run a peer until this is left; it leaves when its standard input ends."""
    process = await asyncio.create_subprocess_exec(
        str(PYTHON),
        str(ROOT / "interop/peers" / script),
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        yield Peer(process)
    finally:
        async with asyncio.timeout(PATIENCE):
            # Without an input, Python 3.11 leaves its standard input open.
            await process.communicate(b"")


@contextlib.asynccontextmanager
async def published_broadcaster(folder: Path) -> AsyncIterator[Any]:
    """Run lonelypss with secrets of ours."""
    setup = await asyncio.create_subprocess_exec(
        os.environ.get(testing.BINARY_VARIABLE) or find_binary(),
        "setup",
        f"--dir={folder}",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert await setup.wait() == 0
    secrets = folder / "broadcaster-secrets.json"
    async with peer("broadcaster.py", f"--data={folder}", f"--secrets={secrets}") as broadcaster:
        ready = await broadcaster.hears("ready")
        yield SimpleNamespace(url=ready["url"], secrets=str(folder / "subscriber-secrets.json"))


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["listen", "manual", "websocket"])
async def test_the_published_broadcaster(kind: str, tmp_path: Path) -> None:
    async with published_broadcaster(tmp_path) as broadcaster:
        async with (
            client_of(kind, broadcaster) as client,
            client.subscribe(exact=["a"], glob=["b/*"]) as subscription,
        ):
            messages = aiter(subscription)
            large = "large " * 100_000
            for topic, text in (("a", "exact"), ("b/c", "glob"), ("a", large)):
                async with asyncio.timeout(PATIENCE):
                    result = await client.notify(topic=topic, data=text.encode())
                assert result.notified == 1
                assert await text_of(messages) == text
            await subscription.unsubscribe_exact("a")
            assert (await client.notify(topic="a", data=b"")).notified == 0
        async with client_of("notify", broadcaster) as other:
            assert (await other.notify(topic="b/c", data=b"")).notified == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_the_published_client(transport: str) -> None:
    async with testing.broadcaster() as broadcaster:
        options = ["--ws"] if transport == "websocket" else []
        options += [f"--broadcaster={broadcaster.url}", f"--secrets={broadcaster.secrets}"]
        async with (
            client_of("listen", broadcaster) as client,
            client.subscribe_glob("*/to-ours") as subscription,
            peer("subscriber.py", "--exact=ours/to-theirs", *options) as theirs,
        ):
            await theirs.hears("ready")
            result = await client.notify(topic="ours/to-theirs", data=b"hello")
            assert result.notified == 1
            message = await theirs.hears("message")
            assert bytes.fromhex(message["body_hex"]) == b"hello"
            async with peer(
                "notifier.py",
                "--topic=theirs/to-ours",
                f"--data-hex={b'hello back'.hex()}",
                *options,
            ) as notifier:
                assert (await notifier.hears("notified"))["subscribers"] == 1
            assert await text_of(aiter(subscription)) == "hello back"
