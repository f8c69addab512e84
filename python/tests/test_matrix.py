"""Each transport with each authorization, and each way to say what is sent."""

from __future__ import annotations

import hashlib
import io
import tempfile
from typing import TYPE_CHECKING, Literal

import pytest
from support import KINDS, client_of, text_of

from httppubsub import testing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


async def parts() -> AsyncIterator[bytes]:
    yield b"by "
    yield b""
    yield b"stream"


@pytest.mark.asyncio
@pytest.mark.parametrize("auth", ["none", "token", "hmac"])
@pytest.mark.parametrize("kind", KINDS)
async def test_messages_arrive_however_they_are_sent(
    kind: str, auth: Literal["none", "token", "hmac"], tmp_path: Path
) -> None:
    on_disk = tmp_path / "message"
    on_disk.write_bytes(b"by path")
    async with (
        testing.broadcaster(auth=auth) as broadcaster,
        client_of(kind, broadcaster) as client,
        client.subscribe_exact(b"a/b", "a/c") as exact,
        client.subscribe_glob("b/*") as glob,
    ):
        exact_messages, glob_messages = aiter(exact), aiter(glob)

        async def arrived(want: str) -> None:
            assert await text_of(exact_messages) == want

        result = await client.notify(topic=b"a/b", data=b"by data")
        assert (result.notified, result.bytes) == (1, 7)
        assert result.sha512 == hashlib.sha512(b"by data").digest()
        await arrived("by data")
        await client.notify(topic="a/c", data=memoryview(bytearray(b"by view")))
        await arrived("by view")
        await client.notify(topic="a/c", path=on_disk)
        await arrived("by path")
        await client.notify(topic="a/c", sync_file=io.BytesIO(b"by object"))
        await arrived("by object")
        await client.notify(topic="a/c", stream=parts(), length=9)
        await arrived("by stream")
        with tempfile.TemporaryFile() as file:
            file.write(b"skip by file")
            file.seek(5)
            await client.notify(topic="a/c", sync_file=file)
            assert file.tell() == 12
        await arrived("by file")
        with open(on_disk, "rb") as opened:
            assert opened.read(3) == b"by "
            await client.notify(topic="a/c", sync_file=opened, length=4)
            assert opened.read() == b""
        await arrived("path")
        await client.notify(topic="b/z", data=b"by glob")
        assert await text_of(glob_messages) == "by glob"
