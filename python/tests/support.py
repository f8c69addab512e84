"""What the tests share: clients of every kind, and a stub of a broadcaster."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import httppubsub
from httppubsub import (
    HttpPubSubClient,
    HttpPubSubConfig,
    PubSubClient,
    WebsocketPubSubClient,
    WebsocketPubSubConfig,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fastapi import APIRouter

    from httppubsub.testing import TestBroadcaster

PATIENCE = 180
"""Seconds after which a test gives up: longer than anything takes on a busy machine."""

KINDS = ("listen", "manual", "websocket")

LISTEN: Any = {"type": "listen", "address": "127.0.0.1", "port": 0}


def client_of(kind: str, broadcaster: TestBroadcaster, **settings: Any) -> PubSubClient:
    """Return a client of that kind, not entered yet."""
    send_auth, receive_auth = httppubsub.get_auth_config_from_file(broadcaster.secrets)
    shared: dict[str, Any] = {
        "broadcasters": [broadcaster.url],
        "send_auth": send_auth,
        "receive_auth": receive_auth,
        **settings,
    }
    if kind == "websocket":
        return WebsocketPubSubClient(WebsocketPubSubConfig(**shared))
    if kind == "listen":
        return HttpPubSubClient(HttpPubSubConfig(bind=LISTEN, **shared))
    if kind == "notify":
        return HttpPubSubClient(HttpPubSubConfig(**shared))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    bind: Any = {"type": "manual", "callback": served_by_uvicorn(listener)}
    host = f"http://127.0.0.1:{port}/pubsub#1"
    return HttpPubSubClient(HttpPubSubConfig(bind=bind, host=host, **shared))


def served_by_uvicorn(listener: socket.socket) -> Callable[[APIRouter], Any]:
    """Serve the router under a prefix, as a program of its own would."""
    import fastapi
    import uvicorn

    async def serve(router: APIRouter) -> None:
        app = fastapi.FastAPI()
        app.include_router(router, prefix="/pubsub")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.should_exit = True
            await serving
            raise

    return serve


async def text_of(messages: Any) -> str:
    """Return the text of the next message."""
    async with asyncio.timeout(PATIENCE):
        message = await anext(messages)
    return str(message.data.read(), "utf-8")


class Stub:
    """Answers every request with the next of its statuses, the last of them for ever."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[str] = []
        self.url = ""
        self.writers: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None] | None] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        self.tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                self.requests.append(lines[0])
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                await reader.readexactly(int(headers.get("content-length", "0")))
                status = self.statuses[0]
                if len(self.statuses) > 1:
                    del self.statuses[0]
                if status == 0:
                    # Read whole, and not answered.
                    break
                words = b"as the test says"
                writer.write(
                    b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%b" % (status, len(words), words)
                )
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def hang_up(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        for task in self.tasks:
            if task is not None:
                await task


@contextlib.asynccontextmanager
async def stub(*statuses: int) -> AsyncIterator[Stub]:
    """Run a stub of a broadcaster."""
    answers = Stub(*statuses)
    server = await asyncio.start_server(answers.answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    answers.url = f"http://{host}:{port}"
    try:
        yield answers
    finally:
        server.close()
        await answers.hang_up()
