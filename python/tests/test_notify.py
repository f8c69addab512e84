"""What is sent, and what is refused before."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from support import client_of, text_of

from httppubsub import (
    DigestMismatchError,
    LengthMismatchError,
    MessageReadError,
    RequestRefusedError,
    TopicTooLongError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from httppubsub.testing import TestBroadcaster


@pytest.mark.asyncio
async def test_exactly_one_source_and_nothing_unknown(broadcaster: TestBroadcaster) -> None:
    async with client_of("notify", broadcaster) as client:

        async def refused(words: str, **arguments: Any) -> None:
            with pytest.raises(TypeError, match=words):
                await client.notify(topic="a", **arguments)

        await refused("exactly one")
        await refused("exactly one", data=b"", path="x")
        await refused("drop `trace_initializer`", data=b"", trace_initializer=b"x")
        await refused("`data` must be bytes", data="text")
        await refused("binary mode", sync_file=io.StringIO("text"))
        await refused("`length`", data=b"", length="1")

        async def texts() -> AsyncIterator[Any]:
            yield "text"

        await refused("made of bytes", stream=texts())

        class Text:
            def read(self, _: int) -> str:
                return "text"

        await refused("made of bytes", sync_file=Text())
        with pytest.raises(TypeError):
            await client.notify(b"a", b"x")  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="64 bytes"):
            await client.notify(topic="a", data=b"", sha512=b"short")
        with pytest.raises(TopicTooLongError):
            await client.notify(topic=b"a" * 65_536, data=b"")


@pytest.mark.asyncio
async def test_length_and_digest_must_be_right(
    broadcaster: TestBroadcaster, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    right, wrong = hashlib.sha512(b"hello").digest(), hashlib.sha512(b"hallo").digest()

    async def parts() -> AsyncIterator[bytes]:
        yield b"hello"

    def sources() -> list[dict[str, Any]]:
        return [{"data": b"hello"}, {"stream": parts()}, {"sync_file": io.BytesIO(b"hello")}]

    async with (
        client_of("listen", broadcaster) as client,
        client.subscribe_exact("a") as subscription,
    ):
        for length in (4, 6):
            for source in [*sources(), {"path": path}]:
                with pytest.raises(LengthMismatchError):
                    await client.notify(topic="a", length=length, **source)
        for source in sources():
            with pytest.raises(DigestMismatchError):
                await client.notify(topic="a", sha512=wrong, **source)
        # That of a real file is for the broadcaster to check.
        with pytest.raises(RequestRefusedError):
            await client.notify(topic="a", sha512=wrong, path=path)
        for source in [*sources(), {"path": path}]:
            result = await client.notify(topic="a", sha512=right, length=5, **source)
            assert result.sha512 == right
            assert await text_of(aiter(subscription)) == "hello"
        assert await anext(subscription.with_timeout(0)) is None


@pytest.mark.asyncio
async def test_what_cannot_be_read_is_told(broadcaster: TestBroadcaster, tmp_path: Path) -> None:
    async with client_of("notify", broadcaster) as client:
        with pytest.raises(MessageReadError) as raised:
            await client.notify(topic="a", path=tmp_path / "missing")
        assert isinstance(raised.value, OSError)
        assert raised.value.errno == 2
        closed = open(tmp_path / "file", "wb+")  # noqa: SIM115
        closed.close()
        with pytest.raises(MessageReadError):
            await client.notify(topic="a", sync_file=closed)
        with (
            open(tmp_path / "file", "ab") as only_written,
            pytest.raises(MessageReadError),
        ):
            await client.notify(topic="a", sync_file=only_written)

        async def broken() -> AsyncIterator[bytes]:
            yield b"begun"
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await client.notify(topic="a", stream=broken())


@pytest.mark.asyncio
async def test_a_pipe_and_a_file_closed_meanwhile_are_sent_whole(
    broadcaster: TestBroadcaster, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    async with (
        client_of("listen", broadcaster) as client,
        client.subscribe_exact("a") as subscription,
    ):
        reading, writing = os.pipe()

        def write() -> None:
            with open(writing, "wb") as pipe:
                for _ in range(100):
                    pipe.write(b"y" * 10_000)

        writer = threading.Thread(target=write)
        writer.start()
        with open(reading, "rb") as pipe:
            assert (await client.notify(topic="a", sync_file=pipe)).bytes == 1_000_000
        writer.join()
        assert await text_of(aiter(subscription)) == "y" * 1_000_000
        file = open(path, "rb")  # noqa: SIM115
        notifying = asyncio.ensure_future(client.notify(topic="a", sync_file=file))
        await asyncio.sleep(0)
        assert file.tell() == 3_000_000
        file.close()
        assert (await notifying).bytes == 3_000_000
        assert await text_of(aiter(subscription)) == "x" * 3_000_000


@pytest.mark.asyncio
async def test_the_buffer_is_copied_at_once(broadcaster: TestBroadcaster) -> None:
    async with (
        client_of("listen", broadcaster) as client,
        client.subscribe_exact("a") as subscription,
    ):
        buffer = bytearray(b"before")
        notifying = asyncio.ensure_future(client.notify(topic="a", data=buffer))
        await asyncio.sleep(0)
        buffer[:] = b"after!"
        await notifying
        assert await text_of(aiter(subscription)) == "before"


@pytest.mark.asyncio
async def test_progress_is_told_in_the_loop(broadcaster: TestBroadcaster) -> None:
    async with client_of("notify", broadcaster) as client:
        told: list[tuple[int, int]] = []

        def progress(sent: int, total: int) -> None:
            assert asyncio.get_running_loop() is not None
            told.append((sent, total))

        await client.notify(topic="a", data=b"x" * 100_000, progress=progress)
        assert told[-1] == (100_000, 100_000)


@pytest.mark.asyncio
async def test_a_cancelled_notification_is_not_sent(broadcaster: TestBroadcaster) -> None:
    async with (
        client_of("listen", broadcaster) as client,
        client.subscribe_exact("a") as subscription,
    ):
        reached = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x"
                reached.set()
                await asyncio.sleep(0)

        notifying = asyncio.ensure_future(client.notify(topic="a", stream=endless()))
        await reached.wait()
        notifying.cancel()
        await asyncio.wait([notifying])
        assert notifying.cancelled()
        await client.notify(topic="a", data=b"later")
        assert await text_of(aiter(subscription)) == "later"


@pytest.mark.asyncio
async def test_other_threads_run_while_a_file_is_read_and_sent(
    broadcaster: TestBroadcaster, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.truncate(64 * 1024 * 1024)
    async with client_of("notify", broadcaster) as client:
        notifying = asyncio.ensure_future(client.notify(topic="a", path=path))
        turns, latest, longest = 0, time.monotonic(), 0.0
        while not notifying.done():
            await asyncio.sleep(0)
            now = time.monotonic()
            turns, longest, latest = turns + 1, max(longest, now - latest), now
        assert (await notifying).bytes == 64 * 1024 * 1024
        # It took many turns, none of which waited for the file: hashing it alone takes longer.
        assert turns > 100
