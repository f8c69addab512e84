"""Subscribing and receiving: what arrives, in which order of marks, and what is never lost."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import struct
import urllib.request
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest
from support import KINDS, PATIENCE, client_of, text_of

from httppubsub import ClosedError, Message, testing

if TYPE_CHECKING:
    from pathlib import Path

    from httppubsub.testing import TestBroadcaster


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_missed_between_entering_and_iterating(
    kind: str, broadcaster: TestBroadcaster
) -> None:
    async with client_of(kind, broadcaster) as client, client.subscribe_exact("a") as subscription:
        assert (await client.notify(topic="a", data=b"1")).notified == 1
        # The iterator may be dropped and taken again.
        assert await text_of(await subscription.messages()) == "1"
        await client.notify(topic="a", data=b"2")
        async for message in subscription:
            assert message.topic == b"a"
            assert await message.bytes() == b"2"
            break


@pytest.mark.asyncio
async def test_awaited_an_iterator_is_itself(broadcaster: TestBroadcaster) -> None:
    async with (
        client_of("listen", broadcaster) as client,
        client.subscribe_exact("a") as subscription,
    ):
        iterator = subscription.__aiter__()
        assert await iterator is iterator
        # Without suspending.
        with pytest.raises(StopIteration):
            iterator.__await__().send(None)
        assert asyncio.iscoroutine(waiting := iterator.__anext__())
        waiting.close()


@pytest.mark.asyncio
async def test_the_storm_of_cancellations_loses_nothing(broadcaster: TestBroadcaster) -> None:
    number = 500
    async with (
        client_of("listen", broadcaster) as client,
        client.subscribe_exact("a") as subscription,
    ):

        async def publish() -> None:
            for at in range(number):
                await client.notify(topic="a", data=str(at).encode())

        publishing = asyncio.create_task(publish())
        taken: set[int] = set()
        given_up = 0
        ways = 0
        messages = aiter(subscription)
        async with asyncio.timeout(PATIENCE):
            while len(taken) < number:
                ways += 1
                message: Message | None = None
                if ways % 3 == 0:
                    task = asyncio.ensure_future(messages.__anext__())
                    await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                    message = None if task.cancelled() else task.result()
                elif ways % 3 == 1:
                    with contextlib.suppress(TimeoutError):
                        message = await asyncio.wait_for(anext(messages), 0.0002)
                else:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.0002):
                            message = await anext(messages)
                if message is None:
                    given_up += 1
                else:
                    taken.add(int(await message.bytes()))
        await publishing
        assert taken == set(range(number))
        assert given_up > 0
        assert subscription.gaps == 0


@pytest.mark.asyncio
async def test_a_time_out_yields_none_and_zero_looks_without_waiting(
    broadcaster: TestBroadcaster,
) -> None:
    async with (
        client_of("listen", broadcaster) as client,
        client.subscribe_exact("a") as subscription,
    ):
        short = await subscription.with_timeout(0.01)
        assert await anext(short) is None
        await client.notify(topic="a", data=b"1")
        at_once = subscription.with_timeout(0)
        message = await anext(at_once)
        assert message is not None
        assert message.data.read() == b"1"
        assert await anext(at_once) is None
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="more than 0"):
                subscription.with_timeout(wrong)


@pytest.mark.asyncio
async def test_the_second_task_that_waits_is_refused(broadcaster: TestBroadcaster) -> None:
    async with (
        client_of("listen", broadcaster) as client,
        client.subscribe_exact("a") as subscription,
    ):
        first = asyncio.ensure_future(text_of(aiter(subscription)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(aiter(subscription))
        await client.notify(topic="a", data=b"1")
        assert await first == "1"


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_interests_come_and_go(kind: str, broadcaster: TestBroadcaster) -> None:
    async with client_of(kind, broadcaster) as client, client.subscribe_multi() as subscription:
        assert (await client.notify(topic="a", data=b"nobody")).notified == 0
        await subscription.subscribe_exact(b"a")
        await subscription.subscribe_glob("b*")
        messages = aiter(subscription)
        for topic in ("a", "bc"):
            assert (await client.notify(topic=topic, data=topic.encode())).notified == 1
            assert await text_of(messages) == topic
        await subscription.unsubscribe_exact("a")
        await subscription.unsubscribe_glob("b*")
        for topic in ("a", "bc"):
            assert (await client.notify(topic=topic, data=b"")).notified == 0
        with pytest.raises(ValueError, match="not subscribed"):
            await subscription.unsubscribe_exact("a")
        with pytest.raises(ValueError, match="not subscribed"):
            await subscription.unsubscribe_glob("b*")


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_leaving_unsubscribes_and_throws_away_what_waits(
    kind: str, broadcaster: TestBroadcaster
) -> None:
    async with client_of(kind, broadcaster) as client:
        async with client.subscribe_exact("a") as subscription:
            assert (await client.notify(topic="a", data=b"1")).notified == 1
        assert (await client.notify(topic="a", data=b"2")).notified == 0
        with pytest.raises(StopAsyncIteration):
            await anext(aiter(subscription))
        with pytest.raises(ClosedError):
            await subscription.subscribe_exact("b")
        with pytest.raises(RuntimeError, match="once"):
            await subscription.__aenter__()


@pytest.mark.asyncio
async def test_entering_that_is_cancelled_leaves_nothing_subscribed(
    broadcaster: TestBroadcaster,
) -> None:
    async with client_of("listen", broadcaster) as client:
        for steps in range(5):
            entering = asyncio.ensure_future(client.subscribe_exact("a").__aenter__())
            for _ in range(steps):
                await asyncio.sleep(0)
            entering.cancel()
            await asyncio.wait([entering])
        async with asyncio.timeout(PATIENCE):
            while (await client.notify(topic="a", data=b"1")).notified:
                await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_callbacks_run_at_the_start_and_after_gaps_before_any_later_message(
    broadcaster: TestBroadcaster,
) -> None:
    said: list[str] = []

    async def receiving() -> None:
        await asyncio.sleep(0)
        said.append("receiving")

    async with (
        client_of("listen", broadcaster, queue_max=2) as client,
        client.subscribe_exact(
            "a", on_receiving=receiving, on_gap=lambda: said.append("gap")
        ) as subscription,
    ):
        for text in (b"1", b"2", b"3", b"4"):
            await client.notify(topic="a", data=text)
        messages = aiter(subscription)
        for _ in range(2):
            said.append(await text_of(messages))
        assert subscription.gaps == 0
        assert await anext(subscription.with_timeout(0)) is None
        assert said == ["receiving", "1", "2", "receiving", "gap"]
        assert subscription.gaps == 1
        await client.notify(topic="a", data=b"5")
        assert await text_of(messages) == "5"


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_that_cannot_be_held_is_a_gap(
    kind: str, broadcaster: TestBroadcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "of-files"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    async with (
        client_of("notify", broadcaster) as publisher,
        client_of(kind, broadcaster, spool_above=0) as client,
        client.subscribe_exact("a") as subscription,
    ):
        folder.rmdir()
        result = await publisher.notify(topic="a", data=b"1")
        # Over a websocket a message is confirmed when it waits for it.
        assert result.notified == (1 if kind == "websocket" else 0)
        async with asyncio.timeout(PATIENCE):
            while subscription.gaps == 0:
                assert await anext(subscription.with_timeout(0.01)) is None
        folder.mkdir()
        async with asyncio.timeout(PATIENCE):
            while (await publisher.notify(topic="a", data=b"2")).notified == 0:
                await asyncio.sleep(0.01)
        assert await text_of(aiter(subscription)) == "2"


@pytest.mark.asyncio
async def test_a_callback_that_fails_or_is_cancelled_runs_again(
    broadcaster: TestBroadcaster,
) -> None:
    attempts = 0

    async def receiving() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise KeyError("not now")
        if attempts == 2:
            await asyncio.get_running_loop().create_future()

    async with (
        client_of("listen", broadcaster) as client,
        client.subscribe_exact("a", on_receiving=receiving) as subscription,
    ):
        await client.notify(topic="a", data=b"1")
        messages = aiter(subscription)
        with pytest.raises(KeyError, match="not now"):
            await anext(messages)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(messages), 0.01)
        assert await text_of(messages) == "1"
        assert attempts == 3


@pytest.mark.asyncio
async def test_a_broadcaster_that_is_gone_is_a_gap_also_before_the_first_message() -> None:
    said: list[str] = []
    async with (
        testing.broadcaster(auth="none") as first,
        testing.broadcaster(auth="none") as second,
        client_of(
            "websocket",
            first,
            broadcasters=[
                {"host": first.url, "priority": 1},
                {"host": second.url, "priority": 2},
            ],
        ) as client,
        client.subscribe_exact("a", on_gap=lambda: said.append("gap")) as subscription,
    ):
        await first.stop()
        async with asyncio.timeout(PATIENCE):
            while subscription.gaps == 0:
                assert await anext(subscription.with_timeout(0.05)) is None
        assert (await client.notify(topic="a", data=b"1")).notified == 1
        said.append(await text_of(aiter(subscription)))
        assert said == ["gap", "1"]


@pytest.mark.asyncio
async def test_callbacks_run_in_the_task_of_the_caller(broadcaster: TestBroadcaster) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[tuple[object, str]] = []

    def receiving() -> None:
        seen.append((asyncio.current_task(), variable.get()))

    async with (
        client_of("listen", broadcaster) as client,
        client.subscribe_exact("a", on_receiving=receiving) as subscription,
    ):
        variable.set("set")
        assert await anext(subscription.with_timeout(0)) is None
        assert seen == [(asyncio.current_task(), "set")]


@pytest.mark.asyncio
async def test_a_message_that_nobody_has_room_for_is_not_confirmed(
    broadcaster: TestBroadcaster,
) -> None:
    async with (
        client_of("listen", broadcaster, queue_max=1) as client,
        client.subscribe_exact("a") as subscription,
    ):
        assert (await client.notify(topic="a", data=b"1")).notified == 1
        assert (await client.notify(topic="a", data=b"2")).notified == 0
        assert await text_of(aiter(subscription)) == "1"


@pytest.mark.asyncio
async def test_a_subscription_is_entered_before_it_is_used(broadcaster: TestBroadcaster) -> None:
    async with client_of("listen", broadcaster) as client:
        subscription = client.subscribe_multi()
        with pytest.raises(RuntimeError, match="not entered"):
            await anext(aiter(subscription))
        with pytest.raises(RuntimeError, match="not entered"):
            await subscription.subscribe_exact("a")
        with pytest.raises(TypeError, match="lists"):
            client.subscribe(exact="a")
        with pytest.raises(TypeError, match="a glob is a str"):
            client.subscribe_glob(b"a*")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a topic is bytes or a str"):
            client.subscribe_exact(1)  # type: ignore[arg-type]


def deliver(port: int, topic: bytes, line: bytes, number: int) -> None:
    """Post what a broadcaster would, without authorization."""
    identifier = b"hps1" + line + struct.pack(">Q", number)
    body = b"\0\0" + struct.pack(">H", len(topic)) + topic
    body += bytes([len(identifier)]) + identifier + struct.pack(">Q", 0)
    digest = b64encode(hashlib.sha512(b"").digest()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/receive",
        data=body,
        headers={"Repr-Digest": f"sha-512={digest}"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert answer.status == 200


@pytest.mark.asyncio
@pytest.mark.parametrize("patience", [0.05, None])
async def test_a_number_that_does_not_come_is_a_gap_unless_gaps_are_not_looked_for(
    patience: float | None,
) -> None:
    async with (
        testing.broadcaster(auth="none") as broadcaster,
        client_of("listen", broadcaster, gap_patience=patience) as client,
        client.subscribe_exact("a") as subscription,
    ):
        await client.notify(topic="a", data=b"1")
        message = await anext(aiter(subscription))
        assert message.number is not None
        assert message.number.number == 1
        address = client.local_address
        assert address is not None
        line = b"another!"
        for number in (1, 2, 4):
            await asyncio.to_thread(deliver, address[1], b"a", line, number)
        numbers = []
        messages = subscription.with_timeout(1.0)
        while (message_or_none := await anext(messages)) is not None:
            assert message_or_none.number is not None
            assert message_or_none.number.line == "YW5vdGhlciE"
            numbers.append(message_or_none.number.number)
        assert numbers == [1, 2, 4]
        # One for the line that is new, and one for the hole.
        assert subscription.gaps == (0 if patience is None else 2)
