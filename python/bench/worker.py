"""A subscriber or publisher that is measured: of this package, or with `--published` of lonelypsc.

Tells `ready` when it is subscribed, and what it took when it has done what it is to do. Every line
is a JSON object. The published client is made as the tests in `interop` make it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PEERS = Path(__file__).parents[2] / "interop/peers"
AT_ONCE = 16


def tell(event: str, **figures: float) -> None:
    """Print one event, at once."""
    print(json.dumps({"event": event, **figures}), flush=True)


def resident() -> int:
    """Return the most memory that was resident so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


class Meter:
    """Measures from the first message to the last."""

    def __init__(self) -> None:
        """Begin."""
        self.wall = time.perf_counter()
        self.cpu = time.process_time()

    def tell(self, messages: int, idle: int = 0) -> None:
        """Print what it took."""
        tell(
            "done",
            messages=messages,
            seconds=time.perf_counter() - self.wall,
            cpu=time.process_time() - self.cpu,
            resident=resident() - idle,
        )


@contextlib.asynccontextmanager
async def ours(kind: str, url: str, secrets: str) -> AsyncIterator[Any]:
    """Yield an entered client of this package."""
    import httppubsub

    send_auth, receive_auth = httppubsub.get_auth_config_from_file(secrets)
    shared: dict[str, Any] = {
        "broadcasters": [url],
        "send_auth": send_auth,
        "receive_auth": receive_auth,
        "timeout": None,
    }
    if kind == "websocket":
        config = httppubsub.WebsocketPubSubConfig(**shared)
        async with httppubsub.WebsocketPubSubClient(config) as client:
            yield client
        return
    bind: Any = None
    host = None
    if kind == "listen":
        bind = {"type": "listen", "address": "127.0.0.1", "port": 0}
    elif kind == "manual":
        # asyncio turns Nagle's algorithm off only where the protocol is named; left on, every
        # answer takes another 40 ms.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        bind = {"type": "manual", "callback": lambda router: serve(router, listener)}
        host = "http://{}:{}".format(*listener.getsockname())
    http = httppubsub.HttpPubSubConfig(bind=bind, host=host, queue_max=1_000_000, **shared)
    async with httppubsub.HttpPubSubClient(http) as client:
        yield client


async def serve(router: Any, listener: socket.socket) -> None:
    """Serve the router by uvicorn until this is cancelled."""
    import fastapi
    import uvicorn

    app = fastapi.FastAPI()
    app.include_router(router)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def published(kind: str, url: str, secrets: str) -> AsyncIterator[Any]:
    """Yield an entered client of lonelypsc."""
    sys.path.insert(0, str(PEERS))
    from workarounds import use_a_sqlite_that_globs_blobs  # type: ignore[import-not-found]

    use_a_sqlite_that_globs_blobs()
    import client as peers  # type: ignore[import-not-found]
    from serving import bind  # type: ignore[import-not-found]

    if kind == "websocket":
        parser = argparse.ArgumentParser()
        peers.add_websocket_arguments(parser)
        options = parser.parse_args(["--no-compression"])
        options.broadcaster, options.secrets = [url], secrets
        async with peers.websocket_client(options) as entered:
            yield entered
        return
    listener = bind("127.0.0.1", 0) if kind != "notify" else None
    webhook = peers.Webhook(listener)
    host = "http://127.0.0.1:1"
    if listener is not None:
        host = f"http://127.0.0.1:{listener.getsockname()[1]}"
    entering = peers.http_client(
        broadcasters=[url],
        secrets=secrets,
        host=host,
        webhook=webhook,
        resubscribe_interval=300,
        timeout=600,
    )
    async with entering as entered:
        if listener is not None:
            await webhook.accepting.wait()
        yield entered


async def receive(client: Any, arguments: argparse.Namespace) -> None:
    """Read messages, in pieces, and measure from the first of them on."""
    async with client.subscribe_exact(b"bench") as subscription:
        messages = subscription.messages()
        messages = await messages
        idle = resident()
        tell("ready")
        meter = None
        for _ in range(arguments.messages):
            message = await messages.__anext__()
            if meter is None:
                meter = Meter()
            while message.data.read(1024 * 1024):
                pass
        if meter is not None:
            meter.tell(arguments.messages - 1, idle)


async def send(client: Any, arguments: argparse.Namespace) -> None:
    """Notify: in step, or some at once."""
    tell("ready")
    options: dict[str, Any] = {}
    if arguments.published:
        options["trace_initializer"] = None
    if arguments.file is not None:
        with open(arguments.file, "rb") as file:
            await client.notify(topic=b"bench", sync_file=file, **options)
        tell("done")
        return
    left = arguments.messages
    data = b"x" * arguments.bytes

    async def some() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await client.notify(topic=b"bench", data=data, **options)

    loop = asyncio.get_running_loop()
    meter = Meter()
    if arguments.rate is None:
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    else:
        begun = loop.time()
        for at in range(arguments.messages):
            await asyncio.sleep(begun + at / arguments.rate - loop.time())
            await client.notify(topic=b"bench", data=data, **options)
    meter.tell(arguments.messages)


async def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["receive", "send"])
    parser.add_argument("--kind", choices=["listen", "manual", "websocket", "notify"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--secrets", required=True)
    parser.add_argument("--messages", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--rate", type=float, help="notifications per second, one after the other")
    parser.add_argument("--file", help="notify of this file, once")
    parser.add_argument("--published", action="store_true")
    arguments = parser.parse_args()
    make = published if arguments.published else ours
    async with make(arguments.kind, arguments.url, arguments.secrets) as client:
        await (receive if arguments.task == "receive" else send)(client, arguments)


asyncio.run(main())
