"""Beginning and end: of clients, loops, threads and processes."""

from __future__ import annotations

import asyncio
import gc
import http.client
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from support import LISTEN, PATIENCE, client_of, stub, text_of

from httppubsub import ConnectionStatus, HttpPubSubClient, HttpPubSubConfig, RequestError, testing

if TYPE_CHECKING:
    from httppubsub.testing import TestBroadcaster

HERE = os.path.dirname(os.path.abspath(__file__))


async def run_script(
    script: str,
    broadcaster: TestBroadcaster,
    *,
    until: str | None = None,
    patience: float = PATIENCE,
) -> tuple[int, str, str]:
    """Run a program of its own; interrupt it when it says `until`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error",
        "-c",
        textwrap.dedent(script),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": HERE,
            "SECRETS": broadcaster.secrets,
            "HTTPPUBSUB_BROADCASTER": broadcaster.url,
        },
    )
    assert process.stdout is not None
    before = b""
    async with asyncio.timeout(patience):
        if until is not None:
            before = await process.stdout.readuntil(until.encode())
            process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (before + out).decode(), err.decode()


HEAD = """
import asyncio, logging, os, sys, gc
from types import SimpleNamespace
from support import client_of
broadcaster = SimpleNamespace(
    url=os.environ["HTTPPUBSUB_BROADCASTER"], secrets=os.environ["SECRETS"]
)
# In debug mode asyncio tells of every step that takes long, as on a busy machine.
logging.getLogger("asyncio").setLevel(logging.ERROR)
"""


@pytest.mark.asyncio
async def test_the_address_is_told_and_names_are_resolved(broadcaster: TestBroadcaster) -> None:
    bind: Any = {"type": "uvicorn", "address": "localhost", "port": 0}
    config = HttpPubSubConfig(bind=bind, broadcasters=[broadcaster.url])
    async with HttpPubSubClient(config) as client:
        assert client.local_address is not None
        address, port = client.local_address
        assert address in ("127.0.0.1", "::1")
        assert client.receive_url is not None
        assert client.receive_url.endswith(f":{port}/v1/receive")
        # It accepts by now.
        _, writer = await asyncio.open_connection(address, port)
        writer.close()
        assert client.status is ConnectionStatus.OK
    assert client.status.value == "abandoned"


@pytest.mark.asyncio
async def test_importing_starts_nothing(broadcaster: TestBroadcaster) -> None:
    script = """
    import os, sys, threading
    before = set(os.listdir("/dev/fd"))
    import httppubsub, httppubsubclient.client, httppubsubclient.config
    assert threading.active_count() == 1
    if os.path.exists("/proc/self/task"):
        assert len(os.listdir("/proc/self/task")) == 1
    assert set(os.listdir("/dev/fd")) == before
    assert "fastapi" not in sys.modules and "uvicorn" not in sys.modules
    """
    assert await run_script(script, broadcaster) == (0, "", "")


@pytest.mark.asyncio
async def test_the_exception_of_the_body_is_never_hidden(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with stub(503) as broadcaster:
        config = HttpPubSubConfig(broadcasters=[broadcaster.url], bind=LISTEN, passes=1)

        async def use() -> None:
            async with HttpPubSubClient(config) as client:
                broadcaster.statuses = [0]
                with pytest.raises(RequestError):
                    await client.subscribe_exact("a").__aenter__()
                broadcaster.statuses = [503]
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await use()
    assert any("may be left" in record.getMessage() for record in caplog.records)


@pytest.mark.asyncio
async def test_closing_waits_no_longer_than_it_may() -> None:
    asked, silent = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await silent.wait()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = "http://{}:{}".format(*server.sockets[0].getsockname())
    config = HttpPubSubConfig(broadcasters=[url], bind=LISTEN, close_timeout=0.05)
    async with asyncio.timeout(PATIENCE):
        async with HttpPubSubClient(config) as client:
            subscribing = asyncio.ensure_future(client.subscribe_exact("a").__aenter__())
            await asked.wait()
        # The client does not know whether it is subscribed, and waits no longer to hear.
        subscribing.cancel()
        await asyncio.wait([subscribing])
    silent.set()
    server.close()


@pytest.mark.asyncio
async def test_a_client_belongs_to_its_loop(broadcaster: TestBroadcaster) -> None:
    async with (
        client_of("listen", broadcaster) as client,
        client.subscribe_exact("a") as subscription,
    ):

        def elsewhere() -> list[str]:
            async def use() -> list[str]:
                said = []
                for use in (
                    client.notify(topic="a", data=b""),
                    anext(aiter(subscription)),
                    subscription.subscribe_exact("b"),
                    client.close(),
                ):
                    try:
                        await use
                    except RuntimeError as error:
                        said.append(str(error))
                return said

            return asyncio.run(use())

        said = await asyncio.to_thread(elsewhere)
        assert said == ["a client belongs to the event loop in which it was entered"] * 4


@pytest.mark.asyncio
async def test_two_loops_in_two_threads(broadcaster: TestBroadcaster) -> None:
    async def exchange(topic: str) -> None:
        async with (
            client_of("listen", broadcaster) as client,
            client.subscribe_exact(topic) as subscription,
        ):
            messages = aiter(subscription)
            for at in range(50):
                await client.notify(topic=topic, data=str(at).encode())
                assert await text_of(messages) == str(at)

    failures: list[BaseException] = []

    def run(topic: str) -> None:
        try:
            asyncio.run(exchange(topic))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(topic,)) for topic in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert not failures


@pytest.mark.asyncio
async def test_a_client_that_is_not_closed_stops_when_it_is_collected(
    broadcaster: TestBroadcaster,
) -> None:
    client: Any = client_of("listen", broadcaster)
    await client.__aenter__()
    address = client.local_address
    # What earlier tests left is not what is looked for.
    gc.collect()
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031
        del client
        gc.collect()
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection(*address)
            except OSError:
                break
            writer.close()
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_loops_that_end_with_work_under_way_leave_nothing(
    broadcaster: TestBroadcaster,
) -> None:
    script = (
        HEAD
        + """
async def main():
    async with client_of("listen", broadcaster) as client:
        async with client.subscribe_exact("a") as subscription:
            tasks = [
                asyncio.ensure_future(client.notify(topic="a", data=b"x")) for _ in range(20)
            ]
            await anext(aiter(subscription))
            waiting = asyncio.ensure_future(anext(aiter(subscription)))
            # The end of the subscription is its result, which asyncio would report.
            waiting.add_done_callback(lambda it: it.cancelled() or it.exception())
    # None of them is awaited.

def usage():
    gc.collect()
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

asyncio.run(main())
asyncio.run(main())
before = usage()
for _ in range(100):
    asyncio.run(main())
after = usage()
assert after[0] <= before[0] + 4 and after[1] <= before[1] + 4, (before, after)
"""
    )
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("there is no /proc to count in")
    assert await run_script(script, broadcaster) == (0, "", "")


@pytest.mark.asyncio
async def test_a_program_may_exit_while_it_receives(broadcaster: TestBroadcaster) -> None:
    script = (
        HEAD
        + """
async def main():
    client = client_of("listen", broadcaster)
    await client.__aenter__()
    subscription = client.subscribe_exact("a")
    await subscription.__aenter__()
    asyncio.ensure_future(anext(aiter(subscription)))
    await client.notify(topic="a", data=b"x")
    sys.stdout.flush()
    sys.exit(7)

import warnings
warnings.simplefilter("ignore", ResourceWarning)
asyncio.run(main())
"""
    )
    status, _, err = await run_script(script, broadcaster)
    assert (status, err) == (7, "")


@pytest.mark.asyncio
async def test_an_interrupt_leaves_nothing_subscribed(broadcaster: TestBroadcaster) -> None:
    script = (
        HEAD
        + """
async def main():
    async with client_of("listen", broadcaster) as client:
        async with client.subscribe_exact("interrupted") as subscription:
            print("ready", flush=True)
            await anext(aiter(subscription))

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert await run_script(script, broadcaster, until="ready\n") == (
        0,
        "ready\ninterrupted\n",
        "",
    )
    async with client_of("notify", broadcaster) as client:
        assert (await client.notify(topic="interrupted", data=b"")).notified == 0


FORK = """
async def exchange(topic):
    async with client_of("listen", broadcaster) as client:
        async with client.subscribe_exact(topic) as subscription:
            await client.notify(topic=topic, data=b"hello")
            return await (await anext(aiter(subscription))).bytes()
"""


@pytest.mark.asyncio
async def test_a_child_has_clients_of_its_own(broadcaster: TestBroadcaster) -> None:
    script = (
        HEAD
        + FORK
        + """
import traceback, warnings
from httppubsub import ClosedError
warnings.simplefilter("ignore", DeprecationWarning)

def in_child(client, subscription):
    for use in (lambda: client.status, lambda: subscription._core.poll()):
        try:
            use()
        except ClosedError as error:
            assert "fork" in str(error)
        else:
            raise AssertionError("it can be used")
    del client, subscription
    gc.collect()
    # No loop runs in this process.
    assert asyncio.run(exchange("child")) == b"hello"

async def main():
    async with client_of("listen", broadcaster) as client:
        async with client.subscribe_exact("parent") as subscription:
            child = os.fork()
            if child == 0:
                try:
                    in_child(client, subscription)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            await client.notify(topic="parent", data=b"still")
            assert await (await anext(aiter(subscription))).bytes() == b"still"

asyncio.run(main())
"""
    )
    assert await run_script(script, broadcaster) == (0, "", "")


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_multiprocessing(method: str, broadcaster: TestBroadcaster, tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        HEAD
        + FORK
        + f"""
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)

def child(topic):
    assert asyncio.run(exchange(topic)) == b"hello"

if __name__ == "__main__":
    # Once before, so that there are threads that a fork loses.
    child("parent")
    context = multiprocessing.get_context({method!r})
    processes = [context.Process(target=child, args=(f"child-{{at}}",)) for at in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
"""
    )
    script = f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"
    if method == "spawn":
        # A child imports the program again.
        run = f"subprocess.run([sys.executable, {str(program)!r}], check=True)"
        script = f"import subprocess, sys; {run}"
    status, _, err = await run_script(script, broadcaster)
    assert (status, err) == (0, "")


@pytest.mark.asyncio
async def test_uvloop(broadcaster: TestBroadcaster) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def exchange() -> str:
        async with (
            client_of("listen", broadcaster) as client,
            client.subscribe_exact("a") as subscription,
        ):
            await client.notify(topic="a", data=b"hello")
            return await text_of(aiter(subscription))

    def run() -> str:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(exchange())

    assert await asyncio.to_thread(run) == "hello"


@pytest.mark.asyncio
async def test_the_core_logs_to_logging(caplog: pytest.LogCaptureFixture) -> None:
    async with testing.broadcaster() as running:
        # A websocket that was open for less than a second is lost without a higher level.
        caplog.set_level(logging.DEBUG, "httppubsub")
        client = client_of("websocket", running)
        async with client, client.subscribe_exact("a"):
            await running.stop()
            async with asyncio.timeout(PATIENCE):
                while not any(it.name.startswith("httppubsub.client") for it in caplog.records):
                    await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_log_records_that_no_event_loop_takes_are_bounded_and_counted(
    broadcaster: TestBroadcaster, caplog: pytest.LogCaptureFixture
) -> None:
    posts, bound = 1_100, 1_000
    async with client_of("listen", broadcaster) as client:
        caplog.set_level(logging.DEBUG, "httppubsub")
        # With its result the core is told the level.
        async with client.subscribe_exact("a"):
            assert client.receive_url is not None
            netloc = urlsplit(client.receive_url).netloc
            connection = http.client.HTTPConnection(netloc, timeout=PATIENCE)
            # In the thread of the event loop, which takes nothing meanwhile.
            for _ in range(posts):
                connection.request("POST", "/v1/receive", b"")
                response = connection.getresponse()
                response.read()
                assert response.status >= 400
            connection.close()
    said = [it.getMessage() for it in caplog.records if it.name.startswith("httppubsub")]
    turned_away = sum("was turned away" in it for it in said)
    dropped = sum(int(it.split()[0]) for it in said if "log records were dropped" in it)
    assert turned_away <= bound
    assert turned_away + dropped >= posts


@pytest.mark.asyncio
async def test_a_server_of_a_manual_bind_that_ends_early_is_told(
    broadcaster: TestBroadcaster, caplog: pytest.LogCaptureFixture
) -> None:
    async def ends(router: object) -> None:
        raise KeyError("mine")

    bind: Any = {"type": "manual", "callback": ends}
    config = HttpPubSubConfig(bind=bind, host="http://127.0.0.1:1", broadcasters=[broadcaster.url])
    client = HttpPubSubClient(config)
    async with client:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(Exception, match="had ended"):
            await client.close()
    assert any("ended" in record.getMessage() for record in caplog.records)
