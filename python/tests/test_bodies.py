"""Bodies as real `io` objects, in memory and in files."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import shutil
import tarfile
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from support import client_of

from httppubsub import ClosedError, Message

if TYPE_CHECKING:
    from httppubsub.testing import TestBroadcaster


async def received(broadcaster: TestBroadcaster, data: bytes, spool_above: int) -> Message:
    async with (
        client_of("listen", broadcaster, spool_above=spool_above) as client,
        client.subscribe_exact("a") as subscription,
    ):
        await client.notify(topic="a", data=data)
        return await anext(aiter(subscription))


@pytest.mark.asyncio
@pytest.mark.parametrize("spool_above", [0, 1024 * 1024])
async def test_a_body_is_a_real_file(broadcaster: TestBroadcaster, spool_above: int) -> None:
    data = bytes(range(256)) * 100
    message = await received(broadcaster, data, spool_above)
    # The client is closed by now, and the message lives.
    is_in_memory = isinstance(message.data, io.BytesIO)
    assert is_in_memory == (spool_above > 0)
    assert message.data is message.data
    assert (message.size, message.sha512) == (len(data), hashlib.sha512(data).digest())
    assert abs(datetime.now(UTC) - message.received) < timedelta(minutes=1)
    assert repr(message) == "<Message on b'a', 25600 bytes>"
    assert message.data.read(3) == data[:3]
    assert message.data.tell() == 3
    buffer = bytearray(5)
    assert message.data.readinto(buffer) == 5  # type: ignore[attr-defined]
    assert buffer == data[3:8]
    assert message.data.seek(-4, io.SEEK_END) == len(data) - 4
    assert message.data.read() == data[-4:]
    assert message.data.read(1) == b""
    message.data.seek(0)
    copied = io.BytesIO()
    shutil.copyfileobj(message.data, copied)
    assert copied.getvalue() == data
    assert await message.bytes() == data
    with pytest.raises(ValueError, match="negative|before the start|whence"):
        message.data.seek(-1)


@pytest.mark.asyncio
@pytest.mark.parametrize("spool_above", [0, 1024 * 1024])
async def test_libraries_read_it(broadcaster: TestBroadcaster, spool_above: int) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        entry = tarfile.TarInfo("inside")
        entry.size = 7
        tar.addfile(entry, io.BytesIO(b"content"))
    message = await received(broadcaster, archive.getvalue(), spool_above)
    with tarfile.open(fileobj=message.data) as tar:
        inside = tar.extractfile("inside")
        assert inside is not None
        assert inside.read() == b"content"
    message = await received(broadcaster, b'{"a": [1, 2]}', spool_above)
    assert json.load(message.data) == {"a": [1, 2]}


@pytest.mark.asyncio
async def test_a_body_lives_as_long_as_it_is_referenced_and_can_be_closed(
    broadcaster: TestBroadcaster,
) -> None:
    message = await received(broadcaster, b"hello", 0)
    data = message.data
    del message
    gc.collect()
    assert data.read() == b"hello"
    data.close()
    data.close()
    with pytest.raises(ValueError, match="closed"):
        data.read()
    message = await received(broadcaster, b"hello", 0)
    message.data.close()
    with pytest.raises(ClosedError):
        await message.bytes()
