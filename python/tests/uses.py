"""Uses of the package whose types mypy and basedpyright check; nothing runs this."""

from __future__ import annotations

import asyncio
from typing import BinaryIO, assert_type

from httppubsub import (
    AuthConfig,
    HttpPubSubClient,
    HttpPubSubConfig,
    Message,
    MessageIterator,
    NotifyResult,
    PubSubClient,
    Subscription,
    WebsocketPubSubClient,
    WebsocketPubSubConfig,
    get_auth_config_from_file,
)
from httppubsubclient.config import HttpPubSubBindManualConfig, HttpPubSubBindUvicornConfig


async def use() -> None:
    send_auth, receive_auth = get_auth_config_from_file("secrets.json")
    assert_type(send_auth, AuthConfig)
    bind = HttpPubSubBindUvicornConfig(type="uvicorn", address="0.0.0.0", port=3002)
    manual = HttpPubSubBindManualConfig(type="manual", callback=lambda router: router.routes)
    HttpPubSubConfig(bind=manual, host="http://me")
    config = HttpPubSubConfig(
        bind=bind, host="http://me", send_auth=send_auth, receive_auth=receive_auth
    )
    websocket: PubSubClient = WebsocketPubSubClient(WebsocketPubSubConfig())
    del websocket
    async with HttpPubSubClient(config) as client:
        assert_type(client, HttpPubSubClient)
        async with client.subscribe_exact(b"a", "b") as subscription:
            assert_type(subscription, Subscription)
            async for message in subscription:
                assert_type(message, Message)
                assert_type(message.data, BinaryIO)
                assert_type(await message.bytes(), bytes)
            assert_type(await subscription.messages(), MessageIterator[Message])
            sub_iter = await subscription.__aiter__()
            task = asyncio.create_task(sub_iter.__anext__())
            assert_type(task.result(), Message)
            async for maybe in subscription.with_timeout(5):
                assert_type(maybe, Message | None)
            async for maybe in await subscription.with_timeout(5):
                assert_type(maybe, Message | None)
        result = await client.notify(topic=b"a", data=b"b")
        assert_type(result, NotifyResult)
        assert_type(result.notified, int)
