"""Errors in one form, that of OpenAI's API: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from typing import Any

LONGEST = 500  # characters of what a message quotes


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
    shown, named = _encodable(message), None if param is None else _encodable(param)
    return {"error": {"message": shown, "type": kind, "param": named, "code": code}}


def shortened(text: str) -> str:
    """Return a text that quotes what a client sent, without the middle of a long one."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def _encodable(text: str) -> str:
    """Return a text with halves of surrogate pairs, which UTF-8 has not, spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()
