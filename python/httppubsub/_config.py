"""The configuration of a client."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypeAlias, TypedDict

from httppubsub import _core
from httppubsub._errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fastapi import APIRouter

BROADCASTER_VARIABLE = "HTTPPUBSUB_BROADCASTER"
DEFAULT_BROADCASTER = "http://127.0.0.1:3003"


class HttpPubSubBindUvicornConfig(TypedDict):
    """The client listens itself, whatever the name says: uvicorn is not needed."""

    type: Literal["uvicorn"]
    address: NotRequired[str]
    """An address or a name, such as ``0.0.0.0`` or ``localhost``."""
    host: NotRequired[str]
    """The same, as the published package calls it."""
    port: int
    """0 picks a free one."""


class HttpPubSubBindListenConfig(TypedDict):
    """The client listens itself."""

    type: Literal["listen"]
    address: NotRequired[str]
    """An address or a name, such as ``0.0.0.0`` or ``localhost``."""
    host: NotRequired[str]
    """The same, as the published package calls it."""
    port: int
    """0 picks a free one."""


class HttpPubSubBindManualConfig(TypedDict):
    """A server of the program's own takes the deliveries."""

    type: Literal["manual"]
    callback: Callable[[APIRouter], Awaitable[object] | object]
    """Gets a ``fastapi.APIRouter`` with ``/v1/receive`` and ``/v1/recover``.

    An awaitable that it returns runs until the client is closed, and is cancelled then.
    """


HttpPubSubBindConfig: TypeAlias = (
    HttpPubSubBindUvicornConfig | HttpPubSubBindListenConfig | HttpPubSubBindManualConfig
)


class BroadcasterConfig(TypedDict):
    """A broadcaster to ask."""

    host: str
    """Its url."""
    priority: NotRequired[int]
    """Those with a lower number are asked first."""


class AuthConfig:
    """The authorization of one direction. Its secret is never shown."""

    __slots__ = ("_inner",)

    def __init__(self, inner: _core.AuthConfig) -> None:
        """Make one; programs call ``none``, ``token`` or ``hmac``."""
        self._inner = inner

    @classmethod
    def none(cls) -> AuthConfig:
        """No authorization."""
        return cls(_core.AuthConfig("none", ""))

    @classmethod
    def token(cls, secret: str) -> AuthConfig:
        """Return one of a token that is sent as it stands."""
        return cls(_core.AuthConfig("token", secret))

    @classmethod
    def hmac(cls, secret: str) -> AuthConfig:
        """Return one of signatures, by a secret of 64 bytes in base64url."""
        return cls(_core.AuthConfig("hmac", secret))

    def __repr__(self) -> str:
        """Show the scheme, and not the secret."""
        return f"<AuthConfig {self._inner.name}>"


def get_auth_config_from_file(path: str | os.PathLike[str]) -> tuple[AuthConfig, AuthConfig]:
    """Read a secrets file of ``httppubsub setup``: how to send, and how to receive.

    The function of this name in the published package returns them the other way round.
    """
    send, receive = _core.auth_from_file(os.fspath(path))
    return AuthConfig(send), AuthConfig(receive)


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What both transports have."""

    send_auth: AuthConfig = field(default_factory=AuthConfig.none)
    """Authorization of what is sent to broadcasters."""

    receive_auth: AuthConfig = field(default_factory=AuthConfig.none)
    """Authorization of what broadcasters send."""

    broadcasters: Sequence[str | BroadcasterConfig] | None = None
    """Those to ask. ``None``: ``$HTTPPUBSUB_BROADCASTER``, or ``http://127.0.0.1:3003``."""

    passes: int = 2
    """Number of passes over the broadcasters before a request is given up."""

    retry_ambiguous: bool = False
    """``True`` if a notification that may have been delivered is sent to the next broadcaster.

    Subscribers may get it twice then. Changes of subscriptions are always sent again.
    """

    queue_max: int = 1024
    """Most messages that wait in one subscription; beyond that there is a gap."""

    spool_above: int = 10 * 1024 * 1024
    """Messages longer than this are kept in files."""

    timeout: float | None = 30.0
    """Longest wait for the answer to a request; long messages have more."""

    connect_timeout: float | None = 5.0
    """Longest wait for a connection."""

    close_timeout: float | None = 5.0
    """Longest wait for the broadcasters when the client is closed."""

    replay_codes_max: int = 1_000_000
    """Most authorizations of five minutes that are remembered, so that none counts twice."""

    _inner: _core.Config = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check all of it."""
        object.__setattr__(self, "_inner", self._make_inner())

    def _make_inner(self) -> _core.Config:
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        for name in ("send_auth", "receive_auth"):
            if not isinstance(getattr(self, name), AuthConfig):
                raise ConfigError(f"`{name}` must be an AuthConfig")
        for name in ("passes", "queue_max", "spool_above", "replay_codes_max"):
            _check_count(name, getattr(self, name))
        check_seconds("close_timeout", self.close_timeout)
        return {
            "broadcasters": _broadcasters(self.broadcasters),
            "send_auth": self.send_auth._inner,
            "receive_auth": self.receive_auth._inner,
            "passes": self.passes,
            "retry_ambiguous": bool(self.retry_ambiguous),
            "queue_max": self.queue_max,
            "spool_above": self.spool_above,
            "timeout": check_seconds("timeout", self.timeout),
            "connect_timeout": check_seconds("connect_timeout", self.connect_timeout),
            "replay_codes_max": self.replay_codes_max,
        }


@dataclass(frozen=True, kw_only=True)
class HttpPubSubConfig(_Shared):
    """The configuration of a client that broadcasters reach by HTTP."""

    bind: HttpPubSubBindConfig | None = None
    """The way in which broadcasters reach this client. ``None``: it only notifies."""

    host: str | None = None
    """The url at which they do, such as ``http://10.0.0.7:3002``. ``None``: the bound address."""

    reconcile_interval: float = 300.0
    """Time between two checks that the broadcasters hold the right subscriptions."""

    gap_patience: float | None = 1.0
    """Time within which a message has to arrive after one with a higher number.

    If it does not, all subscriptions have a gap. ``None``: gaps are not looked for, as is needed
    behind a load balancer, where each of several programs gets a part of what is numbered.
    """

    @property
    def _callback(self) -> Callable[[APIRouter], Awaitable[object] | object] | None:
        if self.bind is not None and self.bind["type"] == "manual":
            return self.bind["callback"]
        return None

    def _make_inner(self) -> _core.Config:
        listen, is_mounted = _bind(self.bind)
        if self.host is not None and not isinstance(self.host, str):
            raise ConfigError("`host` must be a url")
        return _core.Config(
            listen=listen,
            is_mounted=is_mounted,
            host=self.host,
            reconcile_interval=check_seconds("reconcile_interval", self.reconcile_interval),
            gap_patience=(
                None
                if self.gap_patience is None
                else check_seconds("gap_patience", self.gap_patience, or_zero=True)
            ),
            websocket=None,
            **self._settings(),
        )


@dataclass(frozen=True, kw_only=True)
class WebsocketPubSubConfig(_Shared):
    """The configuration of a client that holds one websocket open."""

    connect_retries: int | None = None
    """Number of further passes over all broadcasters before the client gives up for good.

    ``None``: never.
    """

    open_timeout: float = 5.0
    """Longest time for connection and handshake."""

    heartbeat_interval: float = 10.0
    """After how long without a sign of the broadcaster it is asked for one."""

    compression: bool = True
    """``True`` if messages may be compressed."""

    training: bool = True
    """``True`` if the broadcaster may train dictionaries on the connection's messages."""

    unsent_notifications_max: int | None = None
    """Most notifications that wait to be sent; further ones fail at once. ``None``: no limit."""

    def _make_inner(self) -> _core.Config:
        if self.connect_retries is not None:
            _check_count("connect_retries", self.connect_retries)
        if self.unsent_notifications_max is not None:
            _check_count("unsent_notifications_max", self.unsent_notifications_max)
        websocket = _core.WebSocket(
            connect_retries=self.connect_retries,
            open_timeout=check_seconds("open_timeout", self.open_timeout),
            close_timeout=check_seconds("close_timeout", self.close_timeout),
            heartbeat_interval=check_seconds("heartbeat_interval", self.heartbeat_interval),
            compression=bool(self.compression),
            training=bool(self.training),
            unsent_notifications_max=self.unsent_notifications_max,
        )
        return _core.Config(
            listen=None,
            is_mounted=False,
            host=None,
            reconcile_interval=300.0,
            gap_patience=None,
            websocket=websocket,
            **self._settings(),
        )


def check_seconds(name: str, seconds: float | None, *, or_zero: bool = False) -> float:
    """Return the time as the core takes it; ``None`` is for ever."""
    if seconds is None:
        return math.inf
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ConfigError(f"`{name}` must be a number of seconds, not {type(seconds).__name__}")
    if math.isnan(seconds) or seconds < 0 or (seconds == 0 and not or_zero):
        raise ConfigError(f"`{name}` must be more than 0, not {seconds}")
    return float(seconds)


def _check_count(name: str, count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int):
        raise ConfigError(f"`{name}` must be a number, not {type(count).__name__}")
    if not 0 <= count < 2**32:
        raise ConfigError(f"`{name}` must be from 0 to {2**32 - 1}, not {count}")


def _broadcasters(
    given: Sequence[str | BroadcasterConfig] | None,
) -> list[tuple[str, int | None]]:
    if given is None:
        named = os.environ.get(BROADCASTER_VARIABLE, "").split(",")
        given = [it.strip() for it in named if it.strip()] or [DEFAULT_BROADCASTER]
    if isinstance(given, str):
        raise ConfigError("`broadcasters` must be a sequence of urls, not one of them")
    return [_broadcaster(it) for it in given]


def _broadcaster(given: str | BroadcasterConfig) -> tuple[str, int | None]:
    if isinstance(given, str):
        return _with_scheme(given), None
    if not isinstance(given, dict) or not {"host"} <= given.keys() <= {"host", "priority"}:
        raise ConfigError("a broadcaster is a url, or a dict of `host` and `priority`")
    url, priority = given["host"], given.get("priority")
    if not isinstance(url, str):
        raise ConfigError("the `host` of a broadcaster is its url")
    if priority is not None:
        _check_count("priority", priority)
    return _with_scheme(url), priority


def _with_scheme(url: str) -> str:
    """Return the url with its scheme, as the command takes one without."""
    return url if "://" in url else f"http://{url}"


def _bind(bind: HttpPubSubBindConfig | None) -> tuple[tuple[str, int] | None, bool]:
    """Return where to listen, and whether the client is mounted."""
    match bind:
        case None:
            return None, False
        case {"type": "uvicorn" | "listen", "port": int(port), **rest}:
            address = rest.pop("address", None) or rest.pop("host", None)
            if rest or not isinstance(address, str):
                raise ConfigError("a client listens at an `address` and a `port`")
            if not 0 <= port < 2**16:
                raise ConfigError(f"`port` must be from 0 to 65535, not {port}")
            return (address, port), False
        case {"type": "manual", "callback": callback, **rest} if not rest:
            if not _is_callable(callback):
                raise ConfigError("`callback` must be a function that takes the router")
            if importlib.util.find_spec("fastapi") is None:
                raise ConfigError("binding manually needs FastAPI: install `httppubsub[fastapi]`")
            return None, True
        case _:
            raise ConfigError(
                "`bind` must be a dict with the type `uvicorn`, `listen` or `manual`, or None"
            )


def _is_callable(it: object) -> bool:
    return callable(it)
