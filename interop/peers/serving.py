"""Serves an app with uvicorn on a socket bound beforehand, and tells when it accepts."""

import asyncio
import contextlib
import socket

import uvicorn

LEAVING_SECONDS_MAX = 5
"""Longest wait for requests that are still running when a server is told to stop."""


def bind(host: str, port: int) -> socket.socket:
    """Binds a listening address; port 0 lets the system choose a free one."""
    # asyncio turns Nagle's algorithm off only where the protocol is named; left on, every answer
    # takes another 40 ms.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals alone."""

    def __init__(self, app) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=LEAVING_SECONDS_MAX,
            )
        )
        self.accepting = asyncio.Event()

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets=sockets)
        if not self.should_exit:
            self.accepting.set()

    @contextlib.contextmanager
    def capture_signals(self):
        yield
