"""Each row of the table of errors, by its name."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from support import LISTEN, client_of, stub

from httppubsub import (
    AuthConfig,
    BindError,
    CannotReceiveError,
    ClosedError,
    CloseError,
    ConfigError,
    ConnectionAbandonedError,
    GlobTooLongError,
    HttpPubSubClient,
    HttpPubSubConfig,
    PubSubClient,
    PubSubError,
    PubSubInternalError,
    RequestAmbiguousError,
    RequestError,
    RequestNotSentError,
    RequestRefusedError,
    RequestRetriesExhaustedError,
    TooManyNotificationsError,
    TopicTooLongError,
    WebsocketPubSubClient,
    WebsocketPubSubConfig,
    _core,
)
from httppubsub.testing import TestBroadcaster


def client_at(*urls: str, **settings: Any) -> PubSubClient:
    return HttpPubSubClient(HttpPubSubConfig(broadcasters=urls, bind=LISTEN, passes=1, **settings))


def nobody() -> str:
    """Return a url at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.asyncio
async def test_refused() -> None:
    async with stub(403) as broadcaster, client_at(broadcaster.url) as client:
        with pytest.raises(RequestRefusedError) as raised:
            await client.notify(topic="a", data=b"")
        error = raised.value
        assert (error.status, error.reason) == (403, "as the test says")
        assert error.broadcaster == broadcaster.url
        assert isinstance(error, RequestError)
        assert isinstance(error, PubSubError)
        with pytest.raises(RequestRefusedError):
            await client.subscribe_exact("a").__aenter__()


@pytest.mark.asyncio
async def test_ambiguous() -> None:
    async with stub(0) as broadcaster:
        async with client_at(broadcaster.url, retry_ambiguous=False) as client:
            with pytest.raises(RequestAmbiguousError) as raised:
                await client.notify(topic="a", data=b"")
        assert raised.value.broadcaster == broadcaster.url
        assert isinstance(raised.value.__cause__, PubSubError)


@pytest.mark.asyncio
async def test_retries_exhausted() -> None:
    async with stub(503) as busy, client_at(busy.url) as client:
        with pytest.raises(RequestRetriesExhaustedError, match="status 503") as raised:
            await client.notify(topic="a", data=b"")
        assert raised.value.attempts == 1
        assert str(raised.value.__cause__) == "status 503: as the test says"
    async with client_at(nobody()) as client:
        with pytest.raises(RequestRetriesExhaustedError):
            await client.notify(topic="a", data=b"")


@pytest.mark.asyncio
async def test_not_sent() -> None:
    longer_than_a_header = AuthConfig.token("a" * 65_536)
    async with (
        stub(200) as broadcaster,
        client_at(broadcaster.url, send_auth=longer_than_a_header) as client,
    ):
        with pytest.raises(RequestNotSentError, match="65535 are allowed") as raised:
            await client.notify(topic="a", data=b"")
        assert raised.value.broadcaster == broadcaster.url
        assert broadcaster.requests == []


@pytest.mark.asyncio
async def test_too_long(broadcaster: TestBroadcaster) -> None:
    async with client_of("listen", broadcaster) as client:
        for error, subscription in (
            (TopicTooLongError, client.subscribe_exact(b"a" * 65_536)),
            (GlobTooLongError, client.subscribe_glob("a" * 65_536)),
        ):
            with pytest.raises(error) as raised:
                await subscription.__aenter__()
            assert isinstance(raised.value, ValueError)


@pytest.mark.asyncio
async def test_bind(broadcaster: TestBroadcaster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind: Any = {**LISTEN, "port": taken.getsockname()[1]}
        client = HttpPubSubClient(HttpPubSubConfig(bind=bind, broadcasters=[broadcaster.url]))
        with pytest.raises(BindError) as raised:
            await client.__aenter__()
        assert isinstance(raised.value, OSError)
        assert raised.value.errno is not None
    named: Any = {**LISTEN, "address": "name.invalid"}
    client = HttpPubSubClient(HttpPubSubConfig(bind=named, broadcasters=[broadcaster.url]))
    with pytest.raises(BindError, match=r"name\.invalid"):
        await client.__aenter__()


@pytest.mark.asyncio
async def test_cannot_receive(broadcaster: TestBroadcaster) -> None:
    async with client_of("notify", broadcaster) as client:
        with pytest.raises(CannotReceiveError):
            await client.subscribe_exact("a").__aenter__()


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["listen", "websocket"])
async def test_closed(kind: str, broadcaster: TestBroadcaster) -> None:
    client = client_of(kind, broadcaster)
    with pytest.raises(RuntimeError, match="not entered"):
        await client.notify(topic="a", data=b"")
    async with client, client.subscribe_exact("a") as subscription:
        await client.notify(topic="a", data=b"1")
        await client.close()
        await client.close()
        # What waits, and then the end.
        assert [await it.bytes() async for it in subscription] == [b"1"]
        with pytest.raises(ClosedError):
            await client.notify(topic="a", data=b"")
        with pytest.raises(ClosedError):
            await client.subscribe_exact("a").__aenter__()
        with pytest.raises(ClosedError):
            await subscription.subscribe_exact("b")
    with pytest.raises(RuntimeError, match="once"):
        await client.__aenter__()


@pytest.mark.asyncio
async def test_close_says_what_may_be_left() -> None:
    async with stub(503) as broadcaster:
        client = client_at(broadcaster.url)
        async with client:
            # An answer that is not one: it may be subscribed.
            with pytest.raises(RequestError):
                await client.subscribe_exact("a").__aenter__()
            broadcaster.statuses = [0]
            with pytest.raises(RequestError):
                await client.subscribe_exact("a").__aenter__()
            broadcaster.statuses = [503]
            with pytest.raises(CloseError, match="may be left") as raised:
                await client.close()
            assert raised.value.connections_cut_off == 0
            assert raised.value.unsubscribe
            assert all(isinstance(it, PubSubError) for it in raised.value.unsubscribe)


@pytest.mark.asyncio
async def test_connection_abandoned() -> None:
    config = WebsocketPubSubConfig(broadcasters=[nobody()], connect_retries=0, passes=1)
    async with WebsocketPubSubClient(config) as client:
        seen = [status.value async for status in client.statuses()]
        assert seen[-1] == "abandoned"
        assert client.connection_failure is not None
        for attempt in (
            client.notify(topic="a", data=b""),
            client.subscribe_exact("a").__aenter__(),
        ):
            with pytest.raises(ConnectionAbandonedError):
                await attempt


@pytest.mark.asyncio
async def test_a_subscription_ends_with_the_reason_when_the_websocket_is_given_up() -> None:
    from httppubsub import testing

    async with testing.broadcaster() as running:
        client = client_of("websocket", running, connect_retries=0)
        async with client, client.subscribe_exact("a") as subscription:
            await client.notify(topic="a", data=b"1")
            await running.stop()
            messages = aiter(subscription)
            assert await (await anext(messages)).bytes() == b"1"
            with pytest.raises(ConnectionAbandonedError, match=running.url):
                await anext(messages)


@pytest.mark.asyncio
async def test_too_many_notifications() -> None:
    config = WebsocketPubSubConfig(broadcasters=[nobody()], unsent_notifications_max=1)
    async with WebsocketPubSubClient(config) as client:
        notifying = {asyncio.ensure_future(client.notify(topic="a", data=b"")) for _ in range(2)}
        (refused,), (waiting,) = await asyncio.wait(notifying, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(TooManyNotificationsError) as raised:
            await refused
        assert raised.value.max == 1
        waiting.cancel()
        await asyncio.wait([waiting])


def test_a_panic_is_an_exception_that_programs_catch(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PubSubInternalError, match="please report it: on purpose"):
        _core.panic_on_purpose()
    assert "on purpose" in capfd.readouterr().err


def test_the_tree_of_exceptions() -> None:
    for error in (RequestNotSentError, ConnectionAbandonedError, TooManyNotificationsError):
        assert issubclass(error, RequestError)
    assert issubclass(ConfigError, ValueError)
    from httppubsubclient import client

    assert client.PubSubRequestAmbiguousError is RequestAmbiguousError
    assert client.PubSubRequestError is RequestError
