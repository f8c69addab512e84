"""Runs the published broadcaster, lonelypss, on loopback.

Tells `ready` with its port and url once it accepts, runs until standard input ends or SIGTERM
comes, and tells `stopped` when everything is closed.
"""

from workarounds import use_a_sqlite_that_globs_blobs

use_a_sqlite_that_globs_blobs()

import argparse  # noqa: E402
import asyncio  # noqa: E402
import contextlib  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402

from auth import read_auth  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from lines import asked_to_leave, tell  # noqa: E402
from lonelypss.bknd.sweep_missed import sweep_missed  # noqa: E402
from lonelypss.config.config import (  # noqa: E402
    CompressionConfigFromParts,
    ConfigFromParts,
    GenericConfigFromValues,
    MissedRetryStandard,
    NotifySessionStandard,
    TracingConfigSimple,
)
from lonelypss.config.helpers.sqlite_db_config import SqliteDBConfig  # noqa: E402
from lonelypss.config.lifespan import setup_config, teardown_config  # noqa: E402
from lonelypss.middleware.config import ConfigMiddleware  # noqa: E402
from lonelypss.middleware.ws_receiver import WSReceiverMiddleware  # noqa: E402
from lonelypss.router import router  # noqa: E402
from lonelypss.util.ws_receiver import SimpleFanoutWSReceiver  # noqa: E402
from serving import Server, bind  # noqa: E402

MIB = 1024 * 1024


def configuration(args: argparse.Namespace) -> ConfigFromParts:
    """The generated configuration written out by hand (workaround b), with short waits."""
    return ConfigFromParts(
        auth=read_auth(args.secrets, args.replay_db),
        db=SqliteDBConfig(args.db or os.path.join(args.data, "subscriptions.db")),
        generic=GenericConfigFromValues(
            message_body_spool_size=10 * MIB,
            outgoing_http_timeout_total=args.delivery_timeout,
            outgoing_http_timeout_connect=None,
            outgoing_http_timeout_sock_read=args.delivery_timeout,
            outgoing_http_timeout_sock_connect=60,
            websocket_accept_timeout=60,
            websocket_max_pending_sends=255,
            websocket_max_unprocessed_receives=255,
            websocket_large_direct_send_timeout=0.3,
            websocket_send_max_unacknowledged=3,
            websocket_minimal_headers=not args.expanded_headers,
            sweep_missed_interval=args.sweep_interval,
        ),
        # Small, because of workaround e.
        missed=MissedRetryStandard(
            expo_factor=1, expo_base=2, expo_max=2, max_retries=2, constant=0, jitter=0
        ),
        compression=CompressionConfigFromParts(
            compression_allowed=args.compression,
            compression_dictionary_by_id={},
            outgoing_max_ws_message_size=args.max_message_size,
            allow_training=False,
            compression_min_size=32,
            compression_trained_max_size=16 * 1024,
            compression_training_low_watermark=100 * 1024,
            compression_training_high_watermark=10 * MIB,
            compression_retrain_interval_seconds=3600,
            decompression_max_window_size=8 * MIB,
        ),
        tracing=TracingConfigSimple(),
        notify_session=NotifySessionStandard(),
    )


async def run(args: argparse.Namespace) -> None:
    os.makedirs(args.data, exist_ok=True)
    listener = bind(args.host, args.port)
    port = listener.getsockname()[1]
    url = f"http://{args.host}:{port}"

    config = configuration(args)
    fanout = SimpleFanoutWSReceiver(
        receiver_url=url + "/v1/receive_for_websockets",
        recovery=url + "/v1/missed_for_websockets",
        db=config,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        await setup_config(config)
        try:
            async with fanout, sweep_missed(config):
                yield
        finally:
            await teardown_config(config)

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(ConfigMiddleware, config=config)
    app.add_middleware(WSReceiverMiddleware, ws_receiver=fanout)
    app.include_router(router)
    app.router.redirect_slashes = False

    server = Server(app)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    accepting = asyncio.create_task(server.accepting.wait())
    await asyncio.wait([serving, accepting], return_when=asyncio.FIRST_COMPLETED)
    if not server.accepting.is_set():
        await serving
        raise SystemExit("the broadcaster did not start")
    tell("ready", port=port, url=url)

    leaving = asyncio.create_task(asked_to_leave())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.cancel)
    await asyncio.wait([serving, leaving], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    tell("stopped")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--data", required=True, help="folder for its databases")
    parser.add_argument("--db", help="the subscriptions; default DATA/subscriptions.db")
    parser.add_argument("--secrets", help="broadcaster-secrets.json; none: no authorization")
    parser.add_argument(
        "--replay-db",
        default=":memory:",
        help="where spent hmac codes are kept; in memory unless a file is named",
    )
    parser.add_argument("--delivery-timeout", type=float, default=30, help="seconds")
    parser.add_argument("--sweep-interval", type=float, default=1, help="seconds")
    parser.add_argument("--expanded-headers", action="store_true", help="over websockets")
    parser.add_argument("--compression", action="store_true", help="over websockets")
    parser.add_argument("--max-message-size", type=int, default=16 * MIB)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(run(arguments()))
