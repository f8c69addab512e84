from typing import Any, final

__version__: str

@final
class Operation:
    def cancel(self) -> None: ...

@final
class Bridge:
    def __new__(cls) -> Bridge: ...
    def fileno(self) -> int: ...
    def drain(self) -> list[tuple[int, Any, Any, Any]]: ...

@final
class AuthConfig:
    def __new__(cls, name: str, secret: str) -> AuthConfig: ...
    @property
    def name(self) -> str: ...

def auth_from_file(path: str) -> tuple[AuthConfig, AuthConfig]: ...

@final
class WebSocket:
    def __new__(
        cls,
        *,
        connect_retries: int | None,
        open_timeout: float,
        close_timeout: float,
        heartbeat_interval: float,
        compression: bool,
        training: bool,
        unsent_notifications_max: int | None,
    ) -> WebSocket: ...

@final
class Config:
    def __new__(
        cls,
        *,
        broadcasters: list[tuple[str, int | None]],
        listen: tuple[str, int] | None,
        is_mounted: bool,
        host: str | None,
        send_auth: AuthConfig,
        receive_auth: AuthConfig,
        passes: int,
        retry_ambiguous: bool,
        reconcile_interval: float,
        gap_patience: float | None,
        queue_max: int,
        spool_above: int,
        timeout: float,
        connect_timeout: float,
        replay_codes_max: int,
        websocket: WebSocket | None,
    ) -> Config: ...

@final
class Body:
    @staticmethod
    def of_bytes(bytes: bytes) -> Body: ...
    @staticmethod
    def of_file(descriptor: int, start: int, end: int) -> Body: ...
    @staticmethod
    def of_parts(length: int | None = None) -> tuple[Body, BodySender]: ...

@final
class BodySender:
    def send(self, bridge: Bridge, operation: int, part: bytes) -> Operation | None: ...
    def finish(self, bridge: Bridge, operation: int) -> Operation | None: ...
    def give_up(self) -> None: ...

@final
class SpooledBody:
    def read_at(self, at: int, bytes: int) -> bytes: ...
    def close(self) -> None: ...

@final
class Subscription:
    def poll(self) -> object: ...
    def add(self, operation: int, is_glob: bool, name: bytes) -> Operation: ...
    def remove(self, operation: int, is_glob: bool, name: bytes) -> Operation: ...
    def wants(self, is_glob: bool, name: bytes) -> bool: ...
    def close(self, operation: int) -> Operation: ...

@final
class Statuses:
    def next(self, operation: int) -> Operation: ...

@final
class Client:
    def subscribe(
        self, operation: int, number: int, interests: list[tuple[bool, bytes]]
    ) -> Operation: ...
    def notify(
        self,
        operation: int,
        topic: bytes,
        body: Body,
        sha512: bytes | None,
        reports: bool,
    ) -> Operation: ...
    def close(self, operation: int, timeout: float | None) -> Operation: ...
    def answer(
        self,
        operation: int,
        path: str,
        headers: list[tuple[bytes, bytes]],
        body: Body,
    ) -> Operation: ...
    def status(self) -> str: ...
    def statuses(self) -> Statuses: ...
    def connection_failure(self) -> str | None: ...
    def local_addr(self) -> tuple[str, int] | None: ...
    def receive_url(self) -> str | None: ...

def start(bridge: Bridge, operation: int, config: Config) -> Operation: ...
def set_log_level(level: int) -> None: ...
def panic_on_purpose() -> None: ...
