"""A server in a process of its own, for tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx

ADDRESS = re.compile(r"serving at (http://\S+)")


class Running:
    """``contrastive serve``, listening at ``url``."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.told: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr
        self.told.extend(self.process.stderr)

    def client(self, **settings) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, **settings)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def serving(*arguments, token=None, cwd=None):
    """Start a server at a free port, and end it."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    env.pop("CONTRASTIVE_TOKEN", None)
    env |= {"CONTRASTIVE_TOKEN": token} if token else {}
    command = [sys.executable, "-m", "contrastive", "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env, cwd=cwd
    ) as process:
        assert process.stderr
        said = ""
        for line in process.stderr:
            said += line
            if found := ADDRESS.search(line):
                break
        else:
            raise AssertionError(said)
        running = Running(process, found[1])
        try:
            yield running
        finally:
            if process.poll() is None:
                running.stop()
