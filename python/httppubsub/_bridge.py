"""The way from the core to an event loop.

The core puts results into one queue for each event loop and wakes the loop through a socket. No
thread of the core touches Python: everything below runs on the thread of the loop.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from httppubsub import _core

if TYPE_CHECKING:
    from collections.abc import Callable

_WOKEN, _DONE, _PROGRESS, _LOG = range(4)

_logger = logging.getLogger("httppubsub")


class _Woken(Protocol):
    def _wake(self) -> None: ...


class LoopBridge:
    """The queue of one event loop, shared by all its clients."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make one; it listens to the core while somebody uses it."""
        self.loop = loop
        self.core = _core.Bridge()
        self._users = 0
        self._next_number = 0
        self._operations: dict[int, asyncio.Future[Any]] = {}
        self._reports: dict[int, Callable[[int, int], object]] = {}
        self._subscriptions: weakref.WeakValueDictionary[int, _Woken] = (
            weakref.WeakValueDictionary()
        )
        self._is_watching = False

    @classmethod
    def acquire(cls, loop: asyncio.AbstractEventLoop) -> LoopBridge:
        """Return the bridge of this loop, which is made for its first user."""
        bridge = _bridges.get(id(loop))
        # Another loop may have had the same id before.
        if bridge is None or bridge.loop is not loop:
            bridge = cls(loop)
            _bridges[id(loop)] = bridge
        bridge._users += 1
        bridge._watch()
        return bridge

    def release(self) -> None:
        """Let go of the loop with the last user, when nothing is under way any longer."""
        self._users -= 1
        self._watch()

    def release_from_anywhere(self) -> None:
        """Release from any thread, at any time."""
        try:
            self.loop.call_soon_threadsafe(self.release)
        except RuntimeError:
            # The loop is closed, and watches nothing.
            self._users -= 1

    def register(self, subscription: _Woken) -> int:
        """Return the number by which the core knows the subscription."""
        number = self._number()
        self._subscriptions[number] = subscription
        return number

    async def run(
        self,
        begin: Callable[[int], _core.Operation | None],
        report: Callable[[int, int], object] | None = None,
    ) -> Any:
        """Have the core do something, and return its result. Cancelling gives it up."""
        number = self._number()
        future = self.loop.create_future()
        self._operations[number] = future
        if report is not None:
            self._reports[number] = report
        operation = None
        self._watch()
        try:
            operation = begin(number)
            if operation is None:
                return None
            return await future
        except asyncio.CancelledError:
            if operation is not None:
                operation.cancel()
            raise
        finally:
            self._operations.pop(number, None)
            self._reports.pop(number, None)
            self._watch()

    async def send(self, sender: _core.BodySender, part: bytes) -> None:
        """Send a part of a body, when there is room for it."""
        await self.run(lambda operation: sender.send(self.core, operation, part))

    async def finish(self, sender: _core.BodySender) -> None:
        """Say that the body is whole."""
        await self.run(lambda operation: sender.finish(self.core, operation))

    def _watch(self) -> None:
        """Watch the core while somebody uses it or waits for it, and no longer."""
        is_needed = self._users > 0 or bool(self._operations)
        if is_needed == self._is_watching or self.loop.is_closed():
            return
        self._is_watching = is_needed
        if is_needed:
            self._tell_level()
            self.loop.add_reader(self.core.fileno(), self._drain)
        else:
            self.loop.remove_reader(self.core.fileno())

    def _number(self) -> int:
        self._next_number += 1
        return self._next_number

    def _drain(self) -> None:
        for kind, number, first, second in self.core.drain():
            if kind == _WOKEN:
                subscription = self._subscriptions.get(number)
                if subscription is not None:
                    subscription._wake()
            elif kind == _DONE:
                future = self._operations.get(number)
                if future is None or future.done():
                    continue
                if second is None:
                    future.set_result(first)
                else:
                    future.set_exception(second)
            elif kind == _PROGRESS:
                self._report(number, first, second)
            else:
                logging.getLogger(first).log(number, "%s", second)
        self._tell_level()

    def _report(self, number: int, sent: int, total: int) -> None:
        report = self._reports.get(number)
        if report is None:
            return
        try:
            report(sent, total)
        except Exception as error:
            context = {"message": "`progress` of a notification failed", "exception": error}
            self.loop.call_exception_handler(context)

    def _tell_level(self) -> None:
        """Have the core make no records that nobody wants."""
        _core.set_log_level(_logger.getEffectiveLevel())


_bridges: weakref.WeakValueDictionary[int, LoopBridge] = weakref.WeakValueDictionary()
