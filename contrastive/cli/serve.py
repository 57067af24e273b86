"""``contrastive serve``."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contrastive.cli.options import Changes, Device, Model, Trusted
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from contrastive.serving.collections import Served

LOOPBACK = ("127.0.0.1", "localhost", "::1")
VARIABLE = "CONTRASTIVE_TOKEN"
PRINTABLE = re.compile(r"[!-~]+")  # what a header may have
SHORTEST = 16  # characters of a token


def serve(
    indexes: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[INDEX]...", help="What index build has stored; each has a model."),
    ] = None,
    *,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name by which clients call the server; may be repeated."),
    ] = None,
    upload_mb: Annotated[
        float, typer.Option(min=0.001, max=1000, help="Most megabytes of a request.")
    ] = 20,
    rate: Annotated[
        int, typer.Option(min=0, help="Most requests a minute of a client; 0 for any number.")
    ] = 6000,
    model: Model = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
) -> None:
    """Answer searches, classifications and embeddings over HTTP, for one or several indexes."""
    token = _token(host)
    from contrastive.config.extras import require

    uvicorn = require("uvicorn", extra="serve")
    for name in ("fastapi", "python_multipart", "prometheus_client"):
        require(name, extra="serve")
    from contrastive.serving.app import create_app
    from contrastive.serving.metrics import Metrics
    from contrastive.serving.settings import MB, Access, Limits

    limits = Limits(body_bytes=int(upload_mb * MB), per_minute=rate)
    names = (*Access.hosts, *(() if host in LOOPBACK else (host,)), *(allow_host or ()))
    access = Access(tuple(_host_name(name) for name in names), token)
    about: dict[str, Any] = {"device": device, "trusted": trusted, "changes": changes}
    with _listening(host, port) as listener:  # a port that is taken is told before models load
        metrics = Metrics()
        served = _served(indexes or [], model, about, limits.waiting, metrics.batch)
        _run(uvicorn, create_app(served, access, limits, metrics), host, listener)


def _token(host: str) -> str | None:
    """Return the token of the environment.

    Raises:
        SpecError: others could ask, and there is none; or it is short.
    """
    token = os.environ.get(VARIABLE, "").strip() or None
    if token is None and host not in LOOPBACK:
        msg = (
            f"--host {host}: other machines could ask; set a token: "
            f"{VARIABLE}=$(openssl rand -hex 32) contrastive serve ..."
        )
        raise SpecError(msg)
    if token is not None and not PRINTABLE.fullmatch(token):
        msg = f"{VARIABLE}: has characters that no header takes; make one by openssl rand -hex 32"
        raise SpecError(msg)
    if token is not None and len(token) < SHORTEST:
        msg = f"{VARIABLE}: {len(token)} characters could be guessed; give {SHORTEST} or more"
        raise SpecError(msg)
    return token


def _host_name(given: str) -> str:
    """Return a name as Host headers have it, without a port.

    Raises:
        SpecError: it is no name.
    """
    from contrastive.serving.guard import host_name

    name = f"[{given}]" if given.count(":") > 1 and not given.startswith("[") else given
    if not re.fullmatch(r"[\w.-]+(:\d+)?|\[[\da-fA-F:.]+\](:\d+)?", name):
        msg = f"{given!r} is no name of a host; give it without http://, such as search.example.org"
        raise SpecError(msg)
    return host_name(name)


def _served(
    folders: Sequence[Path],
    model: Path | None,
    about: dict[str, Any],
    most_waiting: int,
    on_batch: Callable[[int], None],
) -> list[Served]:
    """Open the indexes and load their models; without an index, the model alone."""
    from contrastive.cli.context import Context
    from contrastive.cli.index_context import index_context
    from contrastive.indexes.index import Index
    from contrastive.inference.index_search import check_made_by
    from contrastive.serving.batches import Batches
    from contrastive.serving.collections import Served

    if model is not None and len(folders) > 1:
        msg = f"--model {model}: each index has a model of its own; leave it out"
        raise SpecError(msg)
    found: list[Served] = []
    for folder in folders or [None]:
        index = None if folder is None else Index(folder)
        context = Context(model, **about) if index is None else index_context(index, model, **about)
        loaded = context.model
        if index is not None:
            check_made_by(index, loaded)
        batches = Batches(loaded, most_waiting=most_waiting, on_batch=on_batch)
        name = Path(folder or context.folder).resolve().name
        if name in (one.name for one in found):
            name = f"{name}-{len(found) + 1}"
        found.append(Served(name, loaded, index, batches))
    return found


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket of an address.

    Raises:
        SpecError: the address is taken, or none of this machine.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if os.name == "posix":  # elsewhere it means that two may have one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        msg = (
            f"--host {host} --port {port}: {reason}; give another --port (0 for any), or an "
            "address of this machine"
        )
        raise SpecError(msg) from error
    return listener


def _run(uvicorn: Any, app: Any, host: str, listener: socket.socket) -> None:
    """Say where, and answer until the process is told to end."""
    from contrastive.console import say
    from contrastive.serving.connections import Connection

    config = uvicorn.Config(
        app,
        http=Connection,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
        ws="none",
    )
    name = f"[{host}]" if ":" in host else host
    say(f"serving at http://{name}:{listener.getsockname()[1]} (Ctrl-C ends it)")
    sys.stdout.flush()
    with _ended_by_signals():
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """Take a signal for the end that was asked for: uvicorn raises it again when it is done."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(one, lambda _number, _frame: None) for one in signals]
    try:
        yield
    finally:
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)
