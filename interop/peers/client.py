"""Builds the published client, lonelypsc, as both the subscriber and the notifier use it."""

import asyncio
import contextlib
import socket

import zstandard
from auth import read_auth
from fastapi import APIRouter, FastAPI
from lonelypsc.config.http_config import make_http_pub_sub_config
from lonelypsc.config.ws_config import make_websocket_pub_sub_config
from lonelypsc.http_client import HttpPubSubClient
from lonelypsc.ws_client import WebsocketPubSubClient
from lonelypsp.tracing.impl.simple.config import SimpleTracingConfig
from lonelypsp.tracing.impl.simple.db import SimpleTracingDBSidecar
from lonelypsp.tracing.impl.simple.root import SimpleTracingSubscriberRoot
from serving import Server

MIB = 1024 * 1024


class Webhook:
    """The client's listener, on a socket bound beforehand (workaround h)."""

    def __init__(self, listener: socket.socket | None) -> None:
        self.listener = listener
        self.accepting = asyncio.Event()
        self.refusals = 0
        """How many of the next deliveries are answered with 503 before the client sees them."""

    async def __call__(self, router: APIRouter) -> None:
        """Serves until cancelled; without a listener it only waits for that."""
        if self.listener is None:
            await asyncio.Event().wait()
            return
        app = FastAPI()
        app.include_router(router)
        app.router.redirect_slashes = False

        async def gate(scope, receive, send) -> None:
            if self.refusals > 0 and scope.get("path") == "/v1/receive":
                self.refusals -= 1
                await send({"type": "http.response.start", "status": 503, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            else:
                await app(scope, receive, send)

        server = Server(gate)
        server.accepting = self.accepting
        serving = asyncio.create_task(server.serve(sockets=[self.listener]))
        try:
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            await serving


@contextlib.asynccontextmanager
async def http_client(
    *,
    broadcasters: list[str],
    secrets: str | None,
    host: str,
    webhook: Webhook,
    resubscribe_interval: float,
    timeout: float,
):
    """Yields an entered client that talks HTTP in both directions."""
    tracing_config = SimpleTracingConfig()
    async with SimpleTracingDBSidecar(tracing_config, ":memory:") as traces:
        tracing = SimpleTracingSubscriberRoot(traces, tracing_config)
        config = make_http_pub_sub_config(
            bind={"type": "manual", "callback": webhook},
            host=host,
            broadcasters=[{"host": url} for url in broadcasters],
            # One, because of workaround d.
            outgoing_retries_per_broadcaster=1,
            message_body_spool_size=10 * MIB,
            outgoing_http_timeout_total=timeout,
            outgoing_http_timeout_connect=None,
            outgoing_http_timeout_sock_read=None,
            outgoing_http_timeout_sock_connect=60,
            outgoing_retry_ambiguous=True,
            auth=read_auth(secrets),
            tracing=tracing.stateless,
            resubscribe_interval=resubscribe_interval,
        )
        async with HttpPubSubClient(config) as client:
            yield client


def add_websocket_arguments(parser) -> None:
    """Adds what makes a peer hold a websocket instead."""
    parser.add_argument("--ws", action="store_true", help="over a websocket")
    parser.add_argument("--max-message-size", type=int, default=3 * MIB + MIB // 2)
    parser.add_argument("--no-compression", action="store_true")
    parser.add_argument("--expanded-headers", action="store_true")
    parser.add_argument("--connect-retries", type=int, default=2)
    parser.add_argument("--zstd-preset", metavar="ID:PATH", help="asked for at the start")


@contextlib.asynccontextmanager
async def websocket_client(args):
    """Yields an entered client that holds a websocket."""
    presets = {}
    if args.zstd_preset is not None:
        identifier, path = args.zstd_preset.split(":", 1)
        with open(path, "rb") as file:
            dictionary = zstandard.ZstdCompressionDict(file.read())
        dictionary.precompute_compress(level=5)
        presets[int(identifier)] = (dictionary, 5)
    config = make_websocket_pub_sub_config(
        broadcasters=[
            {"host": url.replace("http://", "ws://")} for url in args.broadcaster
        ],
        outgoing_initial_connect_retries=args.connect_retries,
        outgoing_min_reconnect_interval=1,
        max_websocket_message_size=args.max_message_size,
        websocket_open_timeout=60,
        websocket_close_timeout=5,
        websocket_heartbeat_interval=10,
        websocket_minimal_headers=not args.expanded_headers,
        max_sent_notifications=None,
        max_unsent_notifications=None,
        max_expected_acks=None,
        max_received=None,
        max_unsent_acks=None,
        allow_compression=not args.no_compression,
        compression_dictionary_by_id=presets,
        initial_compression_dict_id=next(iter(presets), None),
        allow_training_compression=not args.no_compression,
        decompression_max_window_size=0,
        auth=read_auth(args.secrets),
    )
    async with WebsocketPubSubClient(config) as client:
        yield client
