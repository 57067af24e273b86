"""A connection on which no request comes is closed, whatever else comes on it.

uvicorn closes one that is idle between two requests, and the guard bounds a request from the end of
its headers on. What is left are clients that send headers slowly, or none at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

HEADERS_SECONDS = 20.0  # for the headers of a request


class Connection(H11Protocol):
    """HTTP/1.1, with a time within which the headers of a request have to come."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._expect()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._expect()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(HEADERS_SECONDS, self._check)

    def _check(self) -> None:
        if not self.cycle or self.cycle.response_complete:
            self.transport.abort()
