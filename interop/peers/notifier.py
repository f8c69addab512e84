"""Runs the published client as a notifier.

With `--topic` or `--topic-hex` it sends that notification `--repeat` times and ends. Without, it
tells `ready` and takes one job a line from standard input:
`{"topic_hex": "...", "data_hex": "..."}`, or `"file": path`, or `"size": n, "seed": n` in the
place of `data_hex`, or `"count": n` there, which sends `0`, `1` and so on, all at once. Either
way it tells `notified` for each, or `failed` with the error's name.
"""

from workarounds import use_a_sqlite_that_globs_blobs

use_a_sqlite_that_globs_blobs()

import argparse  # noqa: E402
import asyncio  # noqa: E402
import hashlib  # noqa: E402
import random  # noqa: E402

from client import (  # noqa: E402
    Webhook,
    add_websocket_arguments,
    http_client,
    websocket_client,
)
from lines import jobs, tell  # noqa: E402


async def notify(client, job: dict) -> bool:
    """Sends one notification and tells how it went."""
    topic = bytes.fromhex(job["topic_hex"])
    digest = hashlib.sha512()
    try:
        if "file" in job:
            with open(job["file"], "rb") as file:
                digest = hashlib.file_digest(file, "sha512")
                size = file.seek(0, 2)
                file.seek(0)
                result = await client.notify(
                    trace_initializer=None, topic=topic, sync_file=file
                )
        else:
            if "size" in job:
                data = random.Random(job["seed"]).randbytes(job["size"])
            else:
                data = bytes.fromhex(job["data_hex"])
            digest.update(data)
            size = len(data)
            result = await client.notify(trace_initializer=None, topic=topic, data=data)
    except Exception as error:
        tell("failed", error=type(error).__name__, text=str(error))
        return False
    tell(
        "notified",
        subscribers=result.notified,
        bytes=size,
        sha512=digest.hexdigest(),
    )
    return True


async def run(args: argparse.Namespace) -> bool:
    if args.ws:
        entering = websocket_client(args)
    else:
        entering = http_client(
            broadcasters=args.broadcaster,
            secrets=args.secrets,
            # Never registered: a client that subscribes to nothing needs no address.
            host="http://127.0.0.1:1",
            webhook=Webhook(None),
            resubscribe_interval=300,
            timeout=args.request_timeout,
        )
    async with entering as client:
        if args.topic_hex is None:
            tell("ready")
            async for job in jobs():
                if "count" in job:
                    numbers = [str(number).encode() for number in range(job["count"])]
                    await asyncio.gather(
                        *(notify(client, {**job, "data_hex": it.hex()}) for it in numbers)
                    )
                else:
                    await notify(client, job)
            return True
        job = {"topic_hex": args.topic_hex, "seed": args.seed}
        if args.file is not None:
            job["file"] = args.file
        elif args.size is not None:
            job["size"] = args.size
        else:
            job["data_hex"] = args.data_hex
        accepted = [await notify(client, job) for _ in range(args.repeat)]
        return all(accepted)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broadcaster", action="append", required=True, metavar="URL")
    parser.add_argument("--secrets", help="subscriber-secrets.json; none: no authorization")
    parser.add_argument("--topic", help="the topic as text")
    parser.add_argument("--topic-hex", help="the topic in hex")
    parser.add_argument("--data-hex", default="", help="the message in hex")
    parser.add_argument("--file", help="the message is this file")
    parser.add_argument("--size", type=int, help="the message is that many random bytes")
    parser.add_argument("--seed", type=int, default=0, help="of the random bytes")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--request-timeout", type=float, default=60, help="seconds")
    add_websocket_arguments(parser)
    args = parser.parse_args()
    if args.topic is not None:
        args.topic_hex = args.topic.encode().hex()
    return args


if __name__ == "__main__":
    raise SystemExit(0 if asyncio.run(run(arguments())) else 1)
