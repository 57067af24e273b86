"""Errors in one form, that of OpenAI's API: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from typing import Any


class Problem(Exception):  # noqa: N818
    """A request that is refused."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Say why, and in which parameter."""
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The answer."""
        return error_body(self.status, str(self), code=self.code, param=self.param)


def error_body(status: int, message: str, *, code: str, param: str | None = None) -> dict[str, Any]:
    """Return the answer to a request that is refused."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    known = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = known.get(status, kind)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
