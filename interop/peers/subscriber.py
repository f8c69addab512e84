"""Runs the published client as a subscriber with a webhook.

Tells `ready` once it is subscribed and listens, `message` for each message, `receiving` when the
client says that it may have missed something, `done` after `--count` messages or `--timeout`
seconds, and `left` when it has unsubscribed. The end of standard input makes it leave earlier.
The job `{"refuse": n}` makes it turn the next n deliveries away; it tells `refusing`.
"""

from workarounds import use_a_sqlite_that_globs_blobs

use_a_sqlite_that_globs_blobs()

import argparse  # noqa: E402
import asyncio  # noqa: E402
import hashlib  # noqa: E402

from client import (  # noqa: E402
    Webhook,
    add_websocket_arguments,
    http_client,
    websocket_client,
)
from lines import jobs, tell  # noqa: E402
from serving import bind  # noqa: E402

BODY_BYTES_SHOWN = 4096
"""Bodies up to this size are printed; of larger ones only length and digest."""


def describe(message) -> dict:
    """Reads a message to its end, a piece at a time."""
    digest = hashlib.sha512()
    size = 0
    shown = b""
    while piece := message.data.read(64 * 1024):
        digest.update(piece)
        size += len(piece)
        if size <= BODY_BYTES_SHOWN:
            shown += piece
    fields = {
        "topic_hex": message.topic.hex(),
        "bytes": size,
        "sha512": digest.hexdigest(),
    }
    if size <= BODY_BYTES_SHOWN:
        fields["body_hex"] = shown.hex()
    return fields


async def collect(messages, count: int) -> None:
    """Tells each message, and returns after `count` of them, 0 meaning never.

    The client confirms a delivery when the next message is asked for, so the last one is followed
    by one more question, which the caller cancels.
    """
    seen = 0
    enough = asyncio.Event()

    async def take() -> None:
        nonlocal seen
        async for message in messages:
            tell("message", **describe(message))
            seen += 1
            if seen == count:
                enough.set()

    taking = asyncio.create_task(take())
    waiting = asyncio.create_task(enough.wait())
    try:
        done, _ = await asyncio.wait(
            [taking, waiting], return_when=asyncio.FIRST_COMPLETED
        )
        if taking in done:
            taking.result()
    finally:
        for task in (taking, waiting):
            task.cancel()
        await asyncio.gather(taking, waiting, return_exceptions=True)


async def obey(webhook: Webhook) -> None:
    """Does its jobs until it is asked to leave."""
    async for job in jobs():
        webhook.refusals = job["refuse"]
        tell("refusing")


async def run(args: argparse.Namespace) -> None:
    listener = bind(args.bind_host, args.bind_port)
    address = f"http://{args.bind_host}:{listener.getsockname()[1]}"
    webhook = Webhook(listener)
    begun = asyncio.Event()

    async def on_receiving() -> None:
        # The first call says that it is subscribed.
        if begun.is_set():
            tell("receiving")
        begun.set()

    if args.ws:
        address = "websocket:"
        entering = websocket_client(args)
    else:
        entering = http_client(
            broadcasters=args.broadcaster,
            secrets=args.secrets,
            host=address,
            webhook=webhook,
            resubscribe_interval=args.resubscribe_interval,
            timeout=args.request_timeout,
        )
    async with entering as client:
        if not args.ws:
            await webhook.accepting.wait()
        exact = [bytes.fromhex(it) for it in args.exact_hex]
        exact += [it.encode() for it in args.exact]
        async with client.subscribe(
            exact=exact, glob=args.glob, on_receiving=on_receiving
        ) as subscription:
            messages = await subscription.messages()
            collecting = asyncio.create_task(collect(messages, args.count))
            await begun.wait()
            tell(
                "ready",
                receive_url=address + "/v1/receive",
                recovery_url=address + "/v1/recover",
            )
            leaving = asyncio.create_task(obey(webhook))
            done, _ = await asyncio.wait(
                [collecting, leaving],
                timeout=args.timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            reason = (
                "count" if collecting in done else "asked" if leaving in done else "timeout"
            )
            for task in (collecting, leaving):
                if task not in done:
                    task.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            if collecting in done:
                collecting.result()
            tell("done", reason=reason)
    tell("left")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broadcaster", action="append", required=True, metavar="URL")
    parser.add_argument("--secrets", help="subscriber-secrets.json; none: no authorization")
    parser.add_argument("--bind-host", default="127.0.0.1")
    parser.add_argument("--bind-port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--exact", action="append", default=[], metavar="TOPIC")
    parser.add_argument("--exact-hex", action="append", default=[], metavar="HEX")
    parser.add_argument("--glob", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--count", type=int, default=0, help="0: until told to leave")
    parser.add_argument("--timeout", type=float, default=180, help="seconds")
    parser.add_argument("--resubscribe-interval", type=float, default=300, help="seconds")
    parser.add_argument("--request-timeout", type=float, default=60, help="seconds")
    add_websocket_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(run(arguments()))
