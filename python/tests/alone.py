"""Checks the wheel in an environment that has nothing else; run by `cargo xtask test`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from importlib.metadata import distributions

import httppubsub
import httppubsubclient.client
import httppubsubclient.config
from httppubsub import testing


async def main() -> None:
    others = {it.name for it in distributions()} - {"httppubsub", "pip", "setuptools"}
    assert not others, others
    assert httppubsubclient.client.HttpPubSubClient is httppubsub.HttpPubSubClient
    async with testing.broadcaster() as broadcaster:
        send_auth, receive_auth = httppubsub.get_auth_config_from_file(broadcaster.secrets)
        config = httppubsubclient.config.HttpPubSubConfig(
            broadcasters=[broadcaster.url],
            bind={"type": "uvicorn", "address": "127.0.0.1", "port": 0},
            send_auth=send_auth,
            receive_auth=receive_auth,
        )
        async with (
            httppubsub.HttpPubSubClient(config) as client,
            client.subscribe_exact(b"a") as subscription,
        ):
            assert (await client.notify(topic=b"a", data=b"hello")).notified == 1
            message = await anext(aiter(subscription))
            assert message.data.read() == b"hello"
    try:
        httppubsub.HttpPubSubConfig(bind={"type": "manual", "callback": print}, host="http://me")
    except httppubsub.ConfigError as error:
        assert "httppubsub[fastapi]" in str(error)
    else:
        raise AssertionError("there is no FastAPI here")
    assert "fastapi" not in sys.modules
    subprocess.run(
        [sys.executable, "-m", "httppubsub", "--version"], check=True, stdout=subprocess.DEVNULL
    )


asyncio.run(main())
