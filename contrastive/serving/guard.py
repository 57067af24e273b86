"""What every request passes first: who asks, from where, how much and how often."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from contrastive.serving.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from contrastive.serving.metrics import Metrics
    from contrastive.serving.settings import Access, Limits

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = re.compile(r"/(health|ready)?|/page/[\w.]+")
"""Whoever watches over the server has no token, and the page asks for it."""
WATCHED = ("/health", "/ready")  # asked by any name, such as the address of a container
LEFT = 499  # status of who did not wait for an answer, as nginx counts it
CLIENTS = 10_000  # whose requests are counted
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}


class Rate:
    """A bucket for each client, which fills up by so many requests a minute."""

    def __init__(self, per_minute: int) -> None:
        """Let clients begin with a full bucket."""
        self.per_minute = per_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Take one; return the seconds until there is one, 0 if there was."""
        if not self.per_minute:
            return 0.0
        now, rate = time.monotonic(), self.per_minute / 60
        left, at = self._left.pop(client, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - at) * rate)
        wait = 0.0 if left >= 1 else (1 - left) / rate
        self._left[client] = (left if wait else left - 1, now)
        if len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        return wait


class Guard:
    """Refuses what an application should not see, and measures the rest."""

    def __init__(
        self, application: Application, access: Access, limits: Limits, metrics: Metrics
    ) -> None:
        """Stand before an application."""
        self.application, self.access, self.limits = application, access, limits
        self.metrics, self.rate = metrics, Rate(limits.per_minute)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.application(scope, receive, send)
            return  # a web socket is refused by not being accepted
        if scope["method"] == "HEAD":  # the server of the connection leaves the body out
            scope = {**scope, "method": "GET"}
        begun = time.perf_counter()
        reply, watch = _Reply(send), _Watch(receive)
        try:
            self._check(scope)
            async with asyncio.timeout(self.limits.seconds):
                await self.application(scope, self._bounded(watch.receive, reply), reply.send)
        except Problem as problem:
            await reply.refuse(problem)
        except TimeoutError:
            message = f"took longer than {self.limits.seconds:g} s; ask for less at a time"
            await reply.refuse(Problem(504, message, code="timeout"))
        except asyncio.CancelledError:
            if not watch.has_left:
                raise
        finally:
            watch.end()
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, reply.status or LEFT, time.perf_counter() - begun)

    def _check(self, scope: Message) -> None:
        """Refuse who may not ask.

        Raises:
            Problem: says why.
        """
        headers = {
            name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]
        }
        host, path = headers.get("host", ""), scope["path"]
        if path not in WATCHED and host_name(host) not in self.access.hosts:
            message = f"the server is not called {host[:100]!r}; name it by --allow-host"
            raise Problem(421, message, code="host")
        origin = headers.get("origin")
        same = origin is None or origin.partition("://")[2] == host
        is_link = path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if not same or (headers.get("sec-fetch-site") == "cross-site" and not is_link):
            raise Problem(403, "pages of other sites may not ask", code="cross_site")
        token, is_open = self.access.token, OPEN.fullmatch(path) is not None
        if token and not is_open:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(
                given.strip().encode(), token.encode()
            ):
                message = "a token is missing or wrong; send Authorization: Bearer TOKEN"
                headers = {"WWW-Authenticate": "Bearer"}
                raise Problem(401, message, code="token", headers=headers)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.limits.body_bytes:
            raise self._too_large()
        if not is_open and (wait := self.rate.wait((scope.get("client") or ("",))[0])):
            message = f"more than {self.limits.per_minute} requests a minute; wait {wait:.1f} s"
            headers = {"Retry-After": f"{wait:.0f}" if wait >= 1 else "1"}
            raise Problem(429, message, code="rate", headers=headers)

    def _bounded(self, receive: Receive, reply: _Reply) -> Receive:
        """Return what reads a body up to the limit; beyond it, the client is answered and left."""
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limits.body_bytes:
                await reply.refuse(self._too_large())
                return {"type": "http.disconnect"}
            return message

        return bounded

    def _too_large(self) -> Problem:
        message = f"more than {self.limits.body_bytes / 1e6:g} MB; send less"
        return Problem(413, message, code="too_large", headers={"Connection": "close"})


def host_name(host: str) -> str:
    """Return a host without its port and the dot at its end, in lower case."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower().removesuffix(".")


class _Watch:
    """Reads a request, and drops the work on it when the client leaves before its answer."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._work = receive, asyncio.current_task()
        self._leaving: asyncio.Task[Message] | None = None
        self.has_left = False

    async def receive(self) -> Message:
        """Return the next message; after the body, when the client has left."""
        if self._leaving:
            return await asyncio.shield(self._leaving)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            self._leaving = asyncio.create_task(self._wait())
        return message

    async def _wait(self) -> Message:
        while (message := await self._receive())["type"] != "http.disconnect":
            pass
        if self._work and not self._work.done():
            self.has_left = True
            self._work.cancel()
        return message

    def end(self) -> None:
        """Stop watching."""
        if self._leaving:
            self._leaving.cancel()


class _Reply:
    """Sends one answer to a request, the first."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self._is_refused = False

    async def send(self, message: Message) -> None:
        """Send a message of the application, with the headers of all answers."""
        if self._is_refused:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [(name.encode(), text.encode()) for name, text in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *own]}
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem, unless an answer has begun."""
        if self.status:
            return
        body = json.dumps(problem.body).encode()
        own = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **problem.headers,
        }
        headers = [(name.lower().encode(), text.encode()) for name, text in own.items()]
        start = {"type": "http.response.start", "status": problem.status, "headers": headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body})
        self._is_refused = True
