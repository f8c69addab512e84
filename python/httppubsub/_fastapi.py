"""The routes of a client for a FastAPI application. Nothing else imports FastAPI."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import Response

from httppubsub import _core

if TYPE_CHECKING:
    from starlette.requests import Request

    from httppubsub._bridge import LoopBridge


def router(client: _core.Client, bridge: LoopBridge) -> APIRouter:
    """Return a router with the two paths to which broadcasters post."""

    async def receive(request: Request) -> Response:
        return await _answer(client, bridge, "/v1/receive", request)

    async def recover(request: Request) -> Response:
        return await _answer(client, bridge, "/v1/recover", request)

    routes = APIRouter()
    # Not by decorators: FastAPI would look at the annotations, which are texts here.
    routes.add_route("/v1/receive", receive, methods=["POST"])
    routes.add_route("/v1/recover", recover, methods=["POST"])
    return routes


async def _answer(
    client: _core.Client, bridge: LoopBridge, path: str, request: Request
) -> Response:
    body, sender = _core.Body.of_parts()
    headers = list(request.headers.raw)
    answering = asyncio.ensure_future(
        bridge.run(lambda operation: client.answer(operation, path, headers, body))
    )
    try:
        async with contextlib.aclosing(request.stream()) as parts:
            async for part in parts:
                # A request that is refused is not read to its end.
                if answering.done():
                    break
                await bridge.send(sender, part)
        await bridge.finish(sender)
        status, answered, content = await answering
    except BaseException:
        sender.give_up()
        answering.cancel()
        await asyncio.wait([answering])
        raise
    response = Response(content, status)
    for name, value in answered:
        response.headers[name] = value.decode("latin-1")
    return response
