"""A real server of S3 in this process (moto's), which fails and kills as a test says."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import fsspec

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

KEY, SECRET = "AKIAFORTESTS", "wJalrXUtnFEMI-for-tests"
BUCKET = "bucket"


class S3:
    """Answers requests of S3; ``meet`` says what happens to one before it is answered."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._answer = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.meet: Callable[[str, str], str | None] = lambda *_: None
        self.requests: list[tuple[str, str]] = []
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        if status := self.meet(method, path):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(status, [("Content-Type", "application/xml"), ("Connection", "close")])
            code = status.split()[1]
            return iter([f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()])
        return self._answer(environ, start)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def s3_server() -> Generator[S3]:
    """Serve S3 on this machine within a block."""
    server = S3()
    try:
        yield server
    finally:
        server.stop()


def reach(address: str) -> None:
    """Let s3fs find a server there, which it asks once."""
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    retries = {"retries": {"max_attempts": 0}, "connect_timeout": 1, "read_timeout": 1}
    fsspec.config.conf["s3"] = {"endpoint_url": address, "config_kwargs": retries}


def train_until_killed(address: str, folder: str, output: str) -> None:
    """Train in another process, which the server kills."""
    from contrastive.training.train import train
    from tests.crashing_run import spec

    os.chdir(folder)
    os.environ["CONTRASTIVE_CACHE"] = f"{folder}/cache"
    reach(address)
    train(spec(2), output)


def kills(pid: Callable[[], int], at: str, nth: int = 1) -> Callable[[str, str], str | None]:
    """Return what ends a process at its nth request that puts or removes such a file."""
    left = [nth]

    def meet(method: str, path: str) -> str | None:
        if method in ("PUT", "DELETE") and path.endswith(at):
            left[0] -= 1
            if left[0] == 0:
                os.kill(pid(), signal.SIGKILL)
                return "500 InternalError"
        return None

    return meet
