"""Clients and their subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import inspect
import io
import logging
import os
import stat
import tempfile
import warnings
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeAlias, TypeVar

from httppubsub import _core
from httppubsub._bridge import LoopBridge
from httppubsub._config import HttpPubSubConfig, WebsocketPubSubConfig, check_seconds
from httppubsub._data import Message, NotifyResult
from httppubsub._errors import (
    ClosedError,
    CloseError,
    ConnectionAbandonedError,
    LengthMismatchError,
    MessageReadError,
    PubSubError,
    RequestRefusedError,
)

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        AsyncIterator,
        Generator,
        Iterable,
    )
    from types import TracebackType
    from typing import Self

OnReceiving: TypeAlias = Callable[[], Awaitable[object] | object]

_logger = logging.getLogger("httppubsub")

_Item = TypeVar("_Item", Message, Message | None)

_READ_BYTES = 256 * 1024


class ConnectionStatus(enum.Enum):
    """The status of a client's connection."""

    OK = "ok"
    """Everything that was asked for is subscribed, and messages arrive."""

    LOST = "lost"
    """There is no connection, or not everything is confirmed yet: messages may be missed."""

    ABANDONED = "abandoned"
    """Nothing more is tried."""


class MessageIterator(Generic[_Item]):
    """The messages of a subscription. Awaited, it is itself."""

    __slots__ = ("_subscription", "_timeout")

    def __init__(self, subscription: Subscription, timeout: float | None) -> None:
        """Make one; programs iterate over a subscription."""
        self._subscription = subscription
        self._timeout = timeout

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Return itself, at once."""
        return self
        yield

    async def __anext__(self) -> _Item:
        """Return the next message, or ``None`` if there was none within the time-out."""
        subscription = self._subscription
        if subscription._is_awaited:
            raise RuntimeError("another task waits for a message of this subscription")
        subscription._is_awaited = True
        try:
            # What was taken out is returned without an await in between: no message is lost when
            # the caller is cancelled.
            if subscription._mark is None:
                event = subscription._poll()
                if type(event) is tuple:
                    return Message(*event)
            else:
                event = subscription._mark
            return await subscription._next(event, self._timeout)  # type: ignore[return-value]
        finally:
            subscription._is_awaited = False


class Subscription:
    """Topics and globs, and the messages on them; subscribed while it is entered."""

    def __init__(
        self,
        client: PubSubClient,
        interests: Iterable[tuple[bool, bytes]],
        on_receiving: OnReceiving | None,
        on_gap: OnReceiving | None,
    ) -> None:
        """Make one; programs call ``subscribe_exact`` and the like of a client."""
        self._client = client
        self._interests = list(interests)
        self._on_receiving = on_receiving
        self._on_gap = on_gap
        self._core: _core.Subscription | None = None
        # What was taken out when it was entered.
        self._first: object = None
        self._is_entered = False
        self._is_awaited = False
        self._waiter: asyncio.Future[bool] | None = None
        # What the callbacks are still to be told: `True` of a gap, `False` of the start.
        self._mark: bool | None = None
        self._gaps = 0

    @property
    def gaps(self) -> int:
        """Number of gaps so far: messages may have been missed there."""
        return self._gaps

    async def __aenter__(self) -> Self:
        """Subscribe. Messages that are published from now on are received."""
        if self._is_entered:
            raise RuntimeError("a subscription can be entered once")
        client = self._client._running()
        self._is_entered = True
        number = self._client._bridge.register(self)
        self._core = await self._client._run(
            lambda operation: client.subscribe(operation, number, self._interests)
        )
        # The mark of the start: while it waits, a gap would have no mark of its own.
        self._first = self._poll()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Unsubscribe. What waits is thrown away, and what goes wrong is logged."""
        core = self._core
        if core is None:
            return
        self._first = None
        try:
            async with asyncio.timeout(self._client._config.close_timeout):
                await self._client._bridge.run(core.close)
        except (PubSubError, TimeoutError) as error:
            if not (isinstance(error, ClosedError) or self._client._is_closing):
                _logger.warning("cannot unsubscribe: %s", str(error) or "the time was over")

    def __aiter__(self) -> MessageIterator[Message]:
        """Iterate over the messages. The iterator may be dropped and taken again."""
        return MessageIterator(self, None)

    def messages(self) -> MessageIterator[Message]:
        """Iterate over the messages, as the subscription itself does."""
        return MessageIterator(self, None)

    def with_timeout(self, seconds: float) -> MessageIterator[Message | None]:
        """Iterate over the messages, with ``None`` where none came within that time.

        The time runs from each ``__anext__``; 0 looks without waiting.
        """
        return MessageIterator(self, check_seconds("seconds", seconds, or_zero=True))

    async def subscribe_exact(self, topic: bytes | str) -> None:
        """Want this topic as well."""
        await self._add(is_glob=False, name=_topic(topic))

    async def subscribe_glob(self, glob: str) -> None:
        """Want the topics that match this glob as well."""
        await self._add(is_glob=True, name=_glob(glob))

    async def unsubscribe_exact(self, topic: bytes | str) -> None:
        """Want this topic no longer; ValueError if it was not subscribed."""
        await self._remove(is_glob=False, name=_topic(topic))

    async def unsubscribe_glob(self, glob: str) -> None:
        """Want this glob no longer; ValueError if it was not subscribed."""
        await self._remove(is_glob=True, name=_glob(glob))

    async def _add(self, *, is_glob: bool, name: bytes) -> None:
        core = self._entered()
        await self._client._run(lambda operation: core.add(operation, is_glob, name))

    async def _remove(self, *, is_glob: bool, name: bytes) -> None:
        core = self._entered()
        self._client._running()
        if not core.wants(is_glob, name):
            raise ValueError(f"it is not subscribed to {name!r}")
        await self._client._run(lambda operation: core.remove(operation, is_glob, name))

    def _entered(self) -> _core.Subscription:
        if self._core is None:
            raise RuntimeError("the subscription is not entered")
        self._client._check_loop()
        return self._core

    def _poll(self) -> object:
        core = self._core
        if core is None:
            raise RuntimeError("the subscription is not entered")
        self._client._check_loop()
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return core.poll()

    async def _next(self, event: object, seconds: float | None) -> Message | None:
        """Return the next message, of which ``event`` is the first sign."""
        loop = self._client._bridge.loop
        deadline = None if seconds is None else loop.time() + seconds
        is_over = False
        while True:
            if isinstance(event, bool):
                await self._tell(event)
            elif isinstance(event, tuple):
                return Message(*event)
            elif event is not None:
                self._raise_end(str(event))
            elif is_over:
                return None
            else:
                # What came in the last moment counts.
                is_over = not await self._sleep(deadline)
            event = self._poll()

    async def _tell(self, is_gap: bool) -> None:
        """Run the callbacks. If they fail, or are cancelled, they run again the next time."""
        if self._mark is None and is_gap:
            self._gaps += 1
        self._mark = is_gap
        callbacks = [self._on_receiving, self._on_gap if is_gap else None]
        for callback in callbacks:
            if callback is None:
                continue
            result = callback()
            if inspect.isawaitable(result):
                await result
        self._mark = None

    async def _sleep(self, deadline: float | None) -> bool:
        """Sleep until something waits, or until the deadline: ``False``."""
        loop = self._client._bridge.loop
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiter = waiter
        timer = None if deadline is None else loop.call_at(deadline, _give_up, waiter)
        try:
            return await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(True)

    def _raise_end(self, reason: str) -> None:
        if reason == "abandoned":
            core = self._client._core
            why = None if core is None else core.connection_failure()
            raise ConnectionAbandonedError(f"the websocket was given up: {why}")
        if reason == "refused":
            raise RequestRefusedError("broadcasters subscribe what this wants no more")
        raise StopAsyncIteration


def _give_up(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


class PubSubClient:
    """A client; runs while it is entered, in the event loop in which it is."""

    _config: HttpPubSubConfig | WebsocketPubSubConfig

    def __init__(self, config: HttpPubSubConfig | WebsocketPubSubConfig) -> None:
        """Make one. Nothing is begun before it is entered."""
        self._config = config
        self._core: _core.Client | None = None
        self._bridge: LoopBridge = None  # type: ignore[assignment]
        self._is_entered = False
        self._closing: asyncio.Task[None] | None = None
        self._server: asyncio.Future[object] | None = None

    async def __aenter__(self) -> Self:
        """Start. If the client listens, it accepts connections when this returns."""
        if self._is_entered:
            raise RuntimeError("a client can be entered once")
        self._is_entered = True
        self._bridge = LoopBridge.acquire(asyncio.get_running_loop())
        config = self._config
        try:
            self._core = await self._bridge.run(
                lambda operation: _core.start(self._bridge.core, operation, config._inner)
            )
            if isinstance(config, HttpPubSubConfig) and config._callback is not None:
                self._mount(config)
        except BaseException:
            if self._core is None:
                self._bridge.release()
            else:
                with contextlib.suppress(PubSubError):
                    await self.close()
            raise
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Close. What goes wrong is logged."""
        try:
            await self.close()
        except PubSubError as error:
            _logger.warning("%s", error)

    def __del__(self) -> None:
        """Stop, if it was not closed."""
        if self._core is not None and self._closing is None:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
            self._core = None
            self._bridge.release_from_anywhere()

    async def close(self) -> None:
        """Unsubscribe everything, and end all subscriptions; what waits there can be taken still.

        Waits at most the ``close_timeout`` of the configuration. Raises CloseError if something
        went wrong; the client is closed all the same.
        """
        if self._core is None:
            return
        self._check_loop()
        if self._closing is None:
            self._closing = self._bridge.loop.create_task(self._close(self._core))
        # A caller that is cancelled does not keep it from being closed.
        await asyncio.shield(self._closing)

    async def _close(self, core: _core.Client) -> None:
        try:
            timeout = self._config.close_timeout
            failure = None
            try:
                await self._bridge.run(lambda operation: core.close(operation, timeout))
            except CloseError as error:
                failure = error
            ended_early = await self._stop_server()
            if failure is not None:
                raise failure
            if ended_early is not None:
                raise CloseError(f"closed, but {ended_early}")
        finally:
            self._bridge.release()

    @property
    def status(self) -> ConnectionStatus:
        """The status of the connection; reached by HTTP, it is OK until the client is closed."""
        return ConnectionStatus(self._started().status())

    async def statuses(self) -> AsyncIterator[ConnectionStatus]:
        """Iterate over the status now and each change of it, until nothing more is tried."""
        core = self._started()
        statuses = core.statuses()
        while (name := await self._run(statuses.next)) is not None:
            yield ConnectionStatus(name)

    @property
    def connection_failure(self) -> str | None:
        """The broadcaster, and the reason why the websocket was lost; ``None`` if there is one."""
        return self._started().connection_failure()

    @property
    def local_address(self) -> tuple[str, int] | None:
        """The address and port that the client listens on itself."""
        return self._started().local_addr()

    @property
    def receive_url(self) -> str | None:
        """The url to which broadcasters deliver; ``None`` if there is none."""
        return self._started().receive_url()

    def subscribe_exact(
        self,
        topic: bytes | str,
        *topics: bytes | str,
        on_receiving: OnReceiving | None = None,
        on_gap: OnReceiving | None = None,
    ) -> Subscription:
        """Return a subscription to these topics, to be entered.

        ``on_receiving`` runs inside ``__anext__`` at the start and after each gap, before any later
        message; ``on_gap`` only after gaps.
        """
        exact = (topic, *topics)
        return self.subscribe(exact=exact, on_receiving=on_receiving, on_gap=on_gap)

    def subscribe_glob(
        self,
        glob: str,
        *globs: str,
        on_receiving: OnReceiving | None = None,
        on_gap: OnReceiving | None = None,
    ) -> Subscription:
        """Return a subscription to the topics that match one of these globs, to be entered."""
        return self.subscribe(glob=(glob, *globs), on_receiving=on_receiving, on_gap=on_gap)

    def subscribe_multi(
        self,
        *,
        on_receiving: OnReceiving | None = None,
        on_gap: OnReceiving | None = None,
    ) -> Subscription:
        """Return a subscription to nothing yet, to be entered; see its ``subscribe_exact``."""
        return self.subscribe(on_receiving=on_receiving, on_gap=on_gap)

    def subscribe(
        self,
        *,
        exact: Iterable[bytes | str] = (),
        glob: Iterable[str] = (),
        on_receiving: OnReceiving | None = None,
        on_gap: OnReceiving | None = None,
    ) -> Subscription:
        """Return a subscription to these topics and globs, to be entered."""
        if isinstance(exact, bytes | str) or isinstance(glob, str):
            raise TypeError("`exact` and `glob` are lists of topics and globs")
        interests = [(False, _topic(topic)) for topic in exact]
        interests += [(True, _glob(it)) for it in glob]
        return Subscription(self, interests, on_receiving, on_gap)

    async def notify(
        self,
        *,
        topic: bytes | str,
        data: bytes | bytearray | memoryview | None = None,
        sync_file: BinaryIO | None = None,
        path: str | os.PathLike[str] | None = None,
        stream: AsyncIterable[bytes] | None = None,
        length: int | None = None,
        sha512: bytes | None = None,
        progress: Callable[[int, int], object] | None = None,
        trace_initializer: None = None,
    ) -> NotifyResult:
        """Notify all subscribers of ``topic``, and return when the broadcaster has their answers.

        Exactly one of ``data``, ``sync_file`` (read from its position to its end), ``path`` and
        ``stream`` is the message. If ``length`` or ``sha512`` is given, the message must have it;
        the digest of a real file is checked by the broadcaster. ``progress`` is called in the event
        loop with the number of bytes that are on their way, and of all bytes.

        Cancelled, it is not sent, unless a broadcaster may have it already.
        """
        if trace_initializer is not None:
            raise TypeError("there is no tracing here: drop `trace_initializer`")
        given = [it for it in (data, sync_file, path, stream) if it is not None]
        if len(given) != 1:
            raise TypeError("give exactly one of `data`, `sync_file`, `path` and `stream`")
        if length is not None and (isinstance(length, bool) or not isinstance(length, int)):
            raise TypeError("`length` must be a number of bytes")
        if sha512 is not None and len(sha512) != 64:
            raise ValueError("a SHA-512 has 64 bytes")
        digest = None if sha512 is None else bytes(sha512)
        sending = _Sending(self, _topic(topic), length, digest, progress)
        self._running()
        if data is not None:
            return await sending.send_data(data)
        if sync_file is not None:
            return await sending.send_file(sync_file)
        if path is not None:
            return await sending.send_path(path)
        if stream is None:
            raise TypeError("there is nothing to send")
        return await sending.send_stream(stream)

    @property
    def _is_closing(self) -> bool:
        return self._closing is not None

    def _started(self) -> _core.Client:
        if self._core is None:
            raise RuntimeError("the client is not entered")
        return self._core

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._bridge.loop:
            raise RuntimeError("a client belongs to the event loop in which it was entered")

    def _running(self) -> _core.Client:
        core = self._started()
        self._check_loop()
        if self._closing is not None:
            raise ClosedError("the client is closed")
        return core

    async def _run(
        self,
        begin: Callable[[int], _core.Operation | None],
        report: Callable[[int, int], object] | None = None,
    ) -> Any:
        """Have the core do something for this client."""
        self._check_loop()
        try:
            return await self._bridge.run(begin, report)
        except ConnectionAbandonedError as error:
            # The core has one word for both.
            if self._closing is not None:
                raise ClosedError("the client is closed") from error
            raise

    def _mount(self, config: HttpPubSubConfig) -> None:
        """Hand the router to the program, and run what it returns."""
        from httppubsub._fastapi import router

        callback = config._callback
        if callback is None:
            return
        served = callback(router(self._started(), self._bridge))
        if inspect.isawaitable(served):
            self._server = asyncio.ensure_future(served)
            self._server.add_done_callback(self._server_ended)

    def _server_ended(self, server: asyncio.Future[object]) -> None:
        if self._closing is None:
            _logger.error("the server of a manual bind ended: %s", _why_ended(server))

    async def _stop_server(self) -> str | None:
        """Cancel what the program returned, and say so if it had ended before."""
        server = self._server
        if server is None:
            return None
        if server.done():
            return f"the server of the manual bind had ended: {_why_ended(server)}"
        server.cancel()
        await asyncio.wait([server])
        if not server.cancelled() and (error := server.exception()) is not None:
            return f"the server of the manual bind failed: {error!r}"
        return None


class HttpPubSubClient(PubSubClient):
    """A client that broadcasters reach by HTTP."""

    def __init__(self, config: HttpPubSubConfig) -> None:
        """Make one. Nothing is begun before it is entered."""
        super().__init__(config)
        if not isinstance(config, HttpPubSubConfig):
            raise TypeError("an HttpPubSubClient takes an HttpPubSubConfig")


class WebsocketPubSubClient(PubSubClient):
    """A client that holds one websocket open."""

    def __init__(self, config: WebsocketPubSubConfig) -> None:
        """Make one. Nothing is begun before it is entered."""
        super().__init__(config)
        if not isinstance(config, WebsocketPubSubConfig):
            raise TypeError("a WebsocketPubSubClient takes a WebsocketPubSubConfig")


class _Sending:
    """A notification on its way to the core."""

    def __init__(
        self,
        client: PubSubClient,
        topic: bytes,
        length: int | None,
        sha512: bytes | None,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self.client = client
        self.topic = topic
        self.length = length
        self.sha512 = sha512
        self.progress = progress

    async def send_data(self, data: bytes | bytearray | memoryview) -> NotifyResult:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"`data` must be bytes, not {type(data).__name__}")
        # The caller may change its buffer as soon as this returns.
        copied = data if isinstance(data, bytes) else bytes(data)
        self._check_length(len(copied))
        return await self._send(_core.Body.of_bytes(copied))

    async def send_file(self, file: BinaryIO) -> NotifyResult:
        if isinstance(file, io.TextIOBase) or not hasattr(file, "read"):
            raise TypeError("`sync_file` must be a file in binary mode")
        found = self._find(file)
        if found is not None:
            descriptor, start, end = found
            self._check_length(end - start)
            try:
                body = _core.Body.of_file(descriptor, start, end)
            except OSError:
                # There is no way to open it anew: it is read as any other object is.
                pass
            else:
                file.seek(end)
                return await self._send(body)
        async with contextlib.aclosing(_parts_of(file)) as parts:
            return await self.send_stream(parts)

    async def send_path(self, path: str | os.PathLike[str]) -> NotifyResult:
        try:
            file = await asyncio.to_thread(open, path, "rb")
        except OSError as error:
            raise _cannot_read(error) from error
        try:
            return await self.send_file(file)
        finally:
            file.close()

    async def send_stream(self, stream: AsyncIterable[bytes]) -> NotifyResult:
        body, sender = _core.Body.of_parts(self.length)
        bridge = self.client._bridge
        sending = asyncio.ensure_future(self._send(body))
        try:
            async for part in stream:
                if not isinstance(part, bytes | bytearray | memoryview):
                    kind = type(part).__name__
                    raise TypeError(f"a message is made of bytes, not of {kind}")
                if sending.done():
                    break
                await bridge.send(sender, bytes(part))
            await bridge.finish(sender)
            return await sending
        except BaseException:
            # Not sent: the core sees a body that was given up.
            sender.give_up()
            sending.cancel()
            await asyncio.wait([sending])
            if not sending.cancelled():
                sending.exception()
            raise

    @staticmethod
    def _find(file: BinaryIO) -> tuple[int, int, int] | None:
        """Return the descriptor of a real file, and where the message is in it."""
        plain: Any = file
        if isinstance(plain, tempfile._TemporaryFileWrapper):
            plain = plain.file
        raw = getattr(plain, "raw", plain)
        # Others have a descriptor as well, whose bytes are not what they yield.
        is_plain = type(plain) in (io.BufferedReader, io.BufferedRandom, io.FileIO)
        if not (is_plain and type(raw) is io.FileIO):
            return None
        try:
            if isinstance(plain, io.BufferedRandom):
                plain.flush()
            found = os.fstat(plain.fileno())
            if not (stat.S_ISREG(found.st_mode) and plain.readable()):
                return None
            start = plain.tell()
        except OSError as error:
            raise _cannot_read(error) from error
        except ValueError as error:
            raise MessageReadError(str(error)) from error
        return plain.fileno(), start, max(start, found.st_size)

    def _check_length(self, got: int) -> None:
        if self.length is not None and self.length != got:
            raise LengthMismatchError(f"the message should have {self.length} bytes and has {got}")

    async def _send(self, body: _core.Body) -> NotifyResult:
        core = self.client._running()
        reports = self.progress is not None
        notified, length, sha512 = await self.client._run(
            lambda operation: core.notify(operation, self.topic, body, self.sha512, reports),
            self.progress,
        )
        return NotifyResult(notified, length, sha512)


async def _parts_of(file: BinaryIO) -> AsyncGenerator[bytes]:
    while True:
        try:
            part = await asyncio.to_thread(file.read, _READ_BYTES)
        except OSError as error:
            raise _cannot_read(error) from error
        except ValueError as error:
            raise MessageReadError(str(error)) from error
        if not part:
            return
        yield part


def _cannot_read(error: OSError) -> MessageReadError:
    if error.errno is None:
        return MessageReadError(f"cannot read the message: {error}")
    return MessageReadError(error.errno, f"cannot read the message: {error.strerror}")


def _why_ended(server: asyncio.Future[object]) -> str:
    if server.cancelled():
        return "it was cancelled"
    error = server.exception()
    return "it returned" if error is None else repr(error)


def _topic(topic: bytes | str) -> bytes:
    if isinstance(topic, str):
        return topic.encode()
    if isinstance(topic, bytes | bytearray | memoryview):
        return bytes(topic)
    raise TypeError(f"a topic is bytes or a str, not {type(topic).__name__}")


def _glob(glob: str) -> bytes:
    if not isinstance(glob, str):
        raise TypeError(f"a glob is a str, not {type(glob).__name__}")
    return glob.encode()
