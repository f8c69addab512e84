"""Measures the Python package next to the published client and the Rust client, in one run.

`cargo xtask bench python` runs this with what was built for release. Each subject takes its turn
with a broadcaster of its own; figures are medians of turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from httppubsub import testing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WORKER = str(Path(__file__).parent / "worker.py")
MIB = 1024 * 1024


@dataclass
class Subject:
    """Somebody who is measured."""

    name: str
    command: list[str]
    kind: str
    messages: int
    figures: list[dict[str, float]] = field(default_factory=list)

    def microseconds(self) -> float:
        """Return the processor time of a message."""
        return statistics.median(it["cpu"] / it["messages"] * 1e6 for it in self.figures)

    def rate(self) -> float:
        """Return messages per second."""
        return statistics.median(it["messages"] / it["seconds"] for it in self.figures)

    def resident(self) -> float:
        """Return the most memory beyond what was resident before, in MiB."""
        return max(it["resident"] for it in self.figures) / MIB


@contextlib.asynccontextmanager
async def started(
    command: list[str], task: str, broadcaster: testing.TestBroadcaster, *options: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker, and yield it when it is ready."""
    process = await asyncio.create_subprocess_exec(
        *command,
        task,
        f"--url={broadcaster.url}",
        f"--secrets={broadcaster.secrets}",
        *options,
        stdout=subprocess.PIPE,
    )
    try:
        await event(process, "ready")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


async def event(process: asyncio.subprocess.Process, name: str) -> dict[str, float]:
    """Return the next event of a worker, which must be this one."""
    if process.stdout is None:
        raise RuntimeError("its standard output is a pipe")
    said = json.loads(await process.stdout.readline() or '{"event": "the end"}')
    if said["event"] != name:
        raise RuntimeError(f"{said} instead of {name!r}")
    return dict(said)


async def receive(subject: Subject, publisher: list[str], *options: str) -> None:
    """Measure a subscriber. The publisher is the same for all."""
    async with testing.broadcaster("--log=error") as broadcaster:
        number = f"--messages={subject.messages}"
        own = [f"--kind={subject.kind}", number]
        sends = started(publisher, "send", broadcaster, "--kind=notify", number, *options)
        async with started(subject.command, "receive", broadcaster, *own) as subscriber, sends:
            subject.figures.append(await event(subscriber, "done"))


async def notify(subject: Subject) -> None:
    """Measure a publisher to whom nobody listens."""
    async with testing.broadcaster("--log=error") as broadcaster:
        options = [f"--kind={subject.kind}", f"--messages={subject.messages}"]
        async with started(subject.command, "send", broadcaster, *options) as publisher:
            subject.figures.append(await event(publisher, "done"))


def import_seconds(python: str, statement: str) -> float:
    """Return the time of a process that only imports something."""
    took = []
    for _ in range(11):
        begun = time.perf_counter()
        subprocess.run([python, "-c", statement], check=True)
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


class Bars:
    """What is to be reached, and whether it is."""

    def __init__(self) -> None:
        """Begin with none."""
        self.rows: list[tuple[str, float, str, float, bool]] = []

    def at_least(self, what: str, got: float, bar: float) -> None:
        """Add one that is reached by more."""
        self.rows.append((what, got, ">=", bar, got >= bar))

    def at_most(self, what: str, got: float, bar: float) -> None:
        """Add one that is reached by less."""
        self.rows.append((what, got, "<=", bar, got <= bar))


async def main() -> int:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", help="the Python that has lonelypsc")
    parser.add_argument("--rust", help="the program of benchmarks, for the Rust client")
    parser.add_argument("--wheel", help="the wheel")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--mib", type=int, default=1024, help="size of the large message")
    arguments = parser.parse_args()
    own = [sys.executable, WORKER]
    theirs = [arguments.published, WORKER, "--published"]
    rust = [arguments.rust, "python-yardstick"]
    many, few = arguments.messages, max(2, arguments.messages // 8)
    http = [
        Subject("Rust, listener", rust, "listen", many),
        Subject("ours, listener", own, "listen", many),
        Subject("ours, FastAPI", own, "manual", few),
        Subject("published", theirs, "listen", few),
    ]
    paced = [
        Subject("Rust, websocket", rust, "websocket", max(2, many // 20)),
        Subject("ours, websocket", own, "websocket", max(2, many // 20)),
        Subject("published, websocket", theirs, "websocket", max(2, many // 20)),
    ]
    publishers = [
        Subject("ours, notify", own, "notify", many),
        Subject("published, notify", theirs, "notify", few),
    ]
    large = [
        Subject("ours, large message", own, "listen", 2),
        Subject("published, large message", theirs, "listen", 2),
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large"
        with open(file, "wb") as content:
            content.truncate(arguments.mib * MIB)
        for _ in range(arguments.turns):
            for subject in http:
                await receive(subject, own)
            for subject in paced:
                await receive(subject, own, "--rate=400")
            for subject in publishers:
                await notify(subject)
            for subject in large:
                await receive_large(subject, own, str(file))
    bars = Bars()
    rust_http, listener, manual, published = http
    per_message = published.microseconds()
    bars.at_least("receive, processor time", per_message / listener.microseconds(), 8)
    bars.at_least("receive, rate", listener.rate() / published.rate(), 4)
    bars.at_most("receive, to the Rust client", ratio(listener, rust_http), 1.3)
    bars.at_least("receive by FastAPI", per_message / manual.microseconds(), 1.3)
    bars.at_least("receive by websocket", ratio(paced[2], paced[1]), 4)
    bars.at_least("notify", ratio(publishers[1], publishers[0]), 15)
    bars.at_least("large message", ratio(large[1], large[0]), 3)
    bars.at_most("large message, MiB resident", large[0].resident(), 64)
    own_import = import_seconds(sys.executable, "import httppubsub")
    their_import = import_seconds(arguments.published, "import lonelypsc.http_client")
    bars.at_most("import", own_import / their_import, 0.3)
    bars.at_most("wheel, MB", Path(arguments.wheel).stat().st_size / 1e6, 12)
    print("\nsubject                     messages/s   us/message   MiB resident")
    for subject in [*http, *paced, *publishers, *large]:
        print(
            f"{subject.name:<26} {subject.rate():>11.0f} {subject.microseconds():>12.1f} "
            f"{subject.resident():>14.0f}"
        )
    print("\nbar                               reached        of")
    for what, got, sign, bar, is_reached in bars.rows:
        print(f"{what:<30} {got:>10.2f} {sign:>4} {bar:>6}  {'' if is_reached else 'MISSED'}")
    return 0 if all(row[-1] for row in bars.rows) else 1


def ratio(one: Subject, other: Subject) -> float:
    """Return how many times the processor time of the other one this one takes."""
    return one.microseconds() / other.microseconds()


async def receive_large(subject: Subject, publisher: list[str], file: str) -> None:
    """Measure a subscriber of one large message, after a small one that begins the measurement."""
    async with testing.broadcaster("--log=error") as broadcaster:
        own = [f"--kind={subject.kind}", f"--messages={subject.messages}"]
        async with started(subject.command, "receive", broadcaster, *own) as subscriber:
            for options in (["--messages=1"], [f"--file={file}"]):
                sends = started(publisher, "send", broadcaster, "--kind=notify", *options)
                async with sends as sending:
                    await event(sending, "done")
            subject.figures.append(await event(subscriber, "done"))


sys.exit(asyncio.run(main()))
