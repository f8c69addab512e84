"""Messages, and the results of notifications."""

from __future__ import annotations

import asyncio
import io
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from httppubsub import _core

# For classes that have an attribute of that name.
_Bytes: TypeAlias = bytes

_CHUNK_BYTES = 256 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Message:
    """A notification as it was received: whole, and of the digest that was announced."""

    __slots__ = ("_body", "_data", "_number", "_received", "sha512", "size", "topic")

    topic: bytes
    """The topic."""

    sha512: bytes
    """Digest of the content."""

    size: int
    """Length of the content, in bytes."""

    def __init__(
        self,
        topic: bytes,
        sha512: bytes,
        size: int,
        received: int,
        body: bytes | _core.SpooledBody,
        number: tuple[bytes, int] | None = None,
    ) -> None:
        """Make one; a program gets them from a subscription."""
        self.topic = topic
        self.sha512 = sha512
        self.size = size
        self._received = received
        self._body = body
        self._data: BinaryIO | None = None
        self._number = number

    @property
    def data(self) -> BinaryIO:
        """The content, to be read from its start: the same object each time.

        It can be read for as long as it or the message is referenced; closing it gives the room on
        disk back at once. Reads of a large message block.
        """
        if self._data is None:
            if isinstance(self._body, bytes):
                self._data = io.BytesIO(self._body)
            else:
                raw = _SpooledFile(self._body, self.size)
                # One that is given for reading has no need of the rest of the protocol.
                self._data = cast("BinaryIO", io.BufferedReader(raw, _CHUNK_BYTES))
        return self._data

    @property
    def received(self) -> datetime:
        """The time at which it was received, in UTC."""
        return _EPOCH + timedelta(microseconds=self._received // 1000)

    @property
    def number(self) -> Number | None:
        """Its place among all that the broadcaster's process had for this client.

        By it the client finds out what it missed. ``None`` over a websocket, which keeps the order,
        and from broadcasters that do not number what they deliver.
        """
        if self._number is None:
            return None
        line, number = self._number
        return Number(urlsafe_b64encode(line).rstrip(b"=").decode(), number)

    async def bytes(self) -> _Bytes:
        """Return all of the content, whatever was read of ``data``."""
        body = self._body
        if isinstance(body, bytes):
            return body
        return await asyncio.to_thread(_read_all, body)

    def __repr__(self) -> str:
        """Show the topic and the size."""
        return f"<Message on {self.topic!r}, {self.size} bytes>"


def _read_all(body: _core.SpooledBody) -> bytes:
    parts = []
    at = 0
    while part := body.read_at(at, 1024 * 1024):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


class _SpooledFile(io.RawIOBase):
    """Reads the body of a message that is in a file."""

    def __init__(self, body: _core.SpooledBody, size: int) -> None:
        self._body = body
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        part = self._body.read_at(self._at, len(view))
        view[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check_open()
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}.get(whence)
        if start is None:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if start + offset < 0:
            raise ValueError("a position before the start")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        self._check_open()
        return self._at

    def close(self) -> None:
        if not self.closed:
            self._body.close()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")


@dataclass(frozen=True, slots=True)
class Number:
    """The number of a message."""

    line: str
    """The line of numbers: of one process of a broadcaster, for this client. In base64url."""

    number: int
    """Counts from 1; one is left out only if it was missed."""


@dataclass(frozen=True, slots=True)
class NotifyResult:
    """The result of a notification."""

    notified: int
    """Number of subscribers that confirmed the message."""

    bytes: int
    """Length of the message."""

    sha512: _Bytes
    """Digest of the message."""
