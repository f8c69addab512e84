"""The Python in the documents is run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import PATIENCE

import httppubsub
from httppubsub import HttpPubSubClient, HttpPubSubConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from httppubsub.testing import TestBroadcaster

ROOT = Path(__file__).parents[2]


def blocks(document: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


SUBSCRIBER, PUBLISHER, LIFESPAN, SERVE, FIXTURE, *OTHERS = blocks("docs/python.md")
README = blocks("README.md")


def test_every_block_is_run() -> None:
    assert OTHERS == []
    assert len(README) == 1


@contextlib.asynccontextmanager
async def program(block: str, broadcaster: TestBroadcaster, folder: Path) -> AsyncIterator[Any]:
    """Run a block as a program of its own, which is interrupted at the end."""
    secrets = folder / "httppubsub-data"
    secrets.mkdir(exist_ok=True)
    shutil.copy(broadcaster.secrets, secrets / "subscriber-secrets.json")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        "-c",
        block,
        cwd=folder,
        env={**os.environ, "HTTPPUBSUB_BROADCASTER": broadcaster.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


@pytest.mark.asyncio
@pytest.mark.parametrize("subscriber", [SUBSCRIBER, *README], ids=["manual", "README"])
async def test_the_first_programs(
    subscriber: str, broadcaster: TestBroadcaster, tmp_path: Path
) -> None:
    async with asyncio.timeout(PATIENCE), program(subscriber, broadcaster, tmp_path) as subscribed:
        said = ""
        # Until the other program has subscribed.
        while not said.startswith("1 "):
            async with program(PUBLISHER, broadcaster, tmp_path) as publisher:
                said = (await publisher.stdout.read()).decode()
            assert said in ("0 subscribers have it\n", "1 subscribers have it\n")
        assert await subscribed.stdout.readline() == b"b'builds/7' b'ready'\n"


@pytest.mark.asyncio
async def test_a_client_in_a_fastapi_application() -> None:
    namespace: dict[str, Any] = {}
    exec(compile(LIFESPAN, "docs/python.md", "exec"), namespace)
    app = namespace["app"]
    async with namespace["lifespan"](app):
        assert namespace["clients"]["client"].receive_url == (
            "http://10.0.0.7:8000/pubsub/v1/receive"
        )
        assert app.url_path_for("receive") == "/pubsub/v1/receive"


@pytest.mark.asyncio
async def test_uvicorn_with_settings_of_ones_own() -> None:
    namespace: dict[str, Any] = {}
    # On a port that is free.
    exec(compile(SERVE.replace("port=3002", "port=0"), "docs/python.md", "exec"), namespace)
    bind: Any = {"type": "manual", "callback": namespace["serve"]}
    config = HttpPubSubConfig(bind=bind, host="http://127.0.0.1:3002")
    async with HttpPubSubClient(config) as client:
        # It begins to serve.
        for _ in range(10):
            await asyncio.sleep(0)
        # Raises if it had ended before.
        await client.close()


@pytest.mark.asyncio
async def test_the_fixture_for_tests_of_ones_own(tmp_path: Path) -> None:
    test = """
import httppubsub, pytest

@pytest.mark.asyncio
async def test_one(broadcaster):
    send_auth, receive_auth = httppubsub.get_auth_config_from_file(broadcaster.secrets)
    config = httppubsub.HttpPubSubConfig(
        broadcasters=[broadcaster.url], send_auth=send_auth, receive_auth=receive_auth
    )
    async with httppubsub.HttpPubSubClient(config) as client:
        assert (await client.notify(topic="a", data=b"")).notified == 0
"""
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function")
    (tmp_path / "conftest.py").write_text(FIXTURE)
    (tmp_path / "test_one.py").write_text(test)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


def test_names_in_the_manual_are_there() -> None:
    manual = (ROOT / "docs/python.md").read_text()
    for name in set(re.findall(r"`(\w+(?:Error|Config|Client))`", manual)):
        assert hasattr(httppubsub, name) or name.startswith("PubSubRequest"), name
