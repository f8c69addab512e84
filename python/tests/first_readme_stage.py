"""Runs the example of the first README with a broadcaster and a publisher beside it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import httppubsub
from httppubsub import testing


def example() -> str:
    readme = (Path(__file__).parent / "first-readme.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    if sys.version_info >= (3, 12):
        return str(block)
    # The one substitution: a quote inside an f-string of the same quote is a SyntaxError on 3.11.
    return str(block).replace("'utf-8'", '"utf-8"')


class Clock:
    """The time of the event loop, which the example measures its time-outs by.

    It stands still, unless the example is to time out, which then takes a moment: no machine is so
    busy that it times out where it is not to, and nobody waits for it.
    """

    def __init__(self) -> None:
        self.passed = 0.0
        self.since = time.monotonic()
        self.speed = 0

    def time(self) -> float:
        now = time.monotonic()
        self.passed += (now - self.since) * self.speed
        self.since = now
        return self.passed

    def go(self, speed: int) -> None:
        self.time()
        self.speed = speed


class Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.time = clock.time  # type: ignore[method-assign]


async def main(way: str, clock: Clock) -> None:
    # Of the broadcaster only failures: the example itself is to write nothing to stderr.
    async with testing.broadcaster("--log=error") as running:
        shutil.copy(running.secrets, "subscriber-secrets.json")
        Path("hello.txt").write_bytes(b"hello")
        os.environ["HTTPPUBSUB_BROADCASTER"] = running.url
        send_auth, receive_auth = httppubsub.get_auth_config_from_file(running.secrets)
        config = httppubsub.HttpPubSubConfig(
            send_auth=send_auth,
            receive_auth=receive_auth,
            bind={"type": "listen", "address": "127.0.0.1", "port": 0},
        )
        said: list[str] = []

        def count(*begin: str) -> int:
            return sum(it.startswith(begin) for it in said)

        def is_wanted() -> bool:
            """Say whether it waits for a message that it is to get."""
            steps = count("Subscribing")
            return count("Received") < steps and (way == "messages" or steps <= 3)

        def say(text: str) -> None:
            said.append(text)
            print(text, flush=True)
            steps = count("Subscribing")
            # Of the last two steps, those that end with silence.
            silences = max(0, steps - 3) if way == "silence" else int(count("Received") == 5)
            clock.go(20 if count("Timed", "Been") < silences else 0)

        async with httppubsub.HttpPubSubClient(config) as publisher:
            namespace: dict[str, Any] = {"asyncio": asyncio, "print": say}
            exec(compile(example(), "first-readme.md", "exec"), namespace)
            running_example = asyncio.ensure_future(namespace["main"]())
            # Somebody else is notified of what the example sends at its end.
            interested = publisher.subscribe_exact("foo/baz")
            async with contextlib.AsyncExitStack() as stack:
                if way == "messages":
                    await stack.enter_async_context(interested)
                taken = 0
                while not running_example.done():
                    if is_wanted() and count("Received") == taken:
                        result = await publisher.notify(topic="foo/bar", data=b"hello")
                        # It is not subscribed yet, or it will take it now.
                        taken += result.notified > 0
                    # Not by the clock, which may stand.
                    await asyncio.to_thread(time.sleep, 0.005)
                await running_example


if __name__ == "__main__":
    # In debug mode asyncio tells of every step that takes long, as on a busy machine.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    clock = Clock()
    with asyncio.Runner(loop_factory=lambda: Loop(clock)) as runner:
        runner.run(main(sys.argv[1], clock))
