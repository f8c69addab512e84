"""The exceptions of httppubsub."""

from __future__ import annotations

__all__ = [
    "BindError",
    "CannotReceiveError",
    "CloseError",
    "ClosedError",
    "ConfigError",
    "ConnectionAbandonedError",
    "DigestMismatchError",
    "GlobTooLongError",
    "LengthMismatchError",
    "MessageReadError",
    "PubSubError",
    "PubSubInternalError",
    "RequestAmbiguousError",
    "RequestError",
    "RequestNotSentError",
    "RequestRefusedError",
    "RequestRetriesExhaustedError",
    "TooManyNotificationsError",
    "TopicTooLongError",
]


class PubSubError(Exception):
    """What this package raises, apart from errors in how it is called."""


class PubSubInternalError(PubSubError):
    """A defect of httppubsub itself."""


class ConfigError(PubSubError, ValueError):
    """A configuration is refused. No secret is quoted."""


class BindError(PubSubError, OSError):
    """The address cannot be listened on; ``errno`` has the reason."""


class TopicTooLongError(PubSubError, ValueError):
    """A topic is longer than the protocol allows. Nothing was sent."""


class GlobTooLongError(PubSubError, ValueError):
    """A glob is longer than the protocol allows. Nothing was sent."""


class RequestError(PubSubError):
    """A request to the broadcasters was not, or perhaps not, done."""

    broadcaster: str = ""
    """Url of the broadcaster that this is about; empty if it is about none."""


class RequestRefusedError(RequestError):
    """It was not done, and asking again is of no use."""

    status: int | None = None
    """The status of the broadcaster's answer, if it was one."""

    reason: str = ""
    """The broadcaster's own words."""


class RequestAmbiguousError(RequestError):
    """It may or may not have been done."""


class RequestRetriesExhaustedError(RequestError):
    """It was not done: no broadcaster could do it now."""

    attempts: int = 0
    """Number of requests that were made."""


class RequestNotSentError(RequestError):
    """It was not done: it cannot be put into HTTP."""


class TooManyNotificationsError(RequestError):
    """It was not done: too many notifications wait to be sent."""

    max: int = 0
    """The bound on them."""


class ConnectionAbandonedError(RequestError):
    """The websocket was given up."""


class ClosedError(PubSubError):
    """The client or the subscription was closed, or made before a fork."""


class MessageReadError(PubSubError, OSError):
    """The message cannot be read, or not be held."""


class LengthMismatchError(PubSubError, ValueError):
    """The message has another length than was said. Nothing was sent."""


class DigestMismatchError(PubSubError, ValueError):
    """The message has another SHA-512 than was said. Nothing was sent."""


class CannotReceiveError(PubSubError):
    """The client only notifies: it is configured with ``bind=None``."""


class CloseError(PubSubError):
    """Failures while a client was closed. It is closed all the same."""

    unsubscribe: list[PubSubError]
    """The reasons why subscriptions may be left at the broadcasters."""

    connections_cut_off: int
    """Number of connections that were cut off."""

    def __init__(self, message: str) -> None:
        """Make one without details."""
        super().__init__(message)
        self.unsubscribe = []
        self.connections_cut_off = 0
