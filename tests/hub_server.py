"""A stand-in for the Hugging Face Hub on this machine: repositories, commits, LFS and downloads.

It speaks as much of the Hub's HTTP API as huggingface-hub uses to make a repository, to push to it
and to download from it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_a_token_that_may_write"


class HubServer:
    """Repositories by name: files by path, of each commit. Writing needs ``TOKEN``."""

    def __init__(self):
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.lfs: dict[str, bytes] = {}
        self.down = self.refuses_files = False
        outer = self

        class Handler(_Handler):
            hub = outer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.at = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def files(self, name: str) -> dict[str, bytes]:
        """Return the files of the newest commit."""
        return self.repositories[name][[*self.repositories[name]][-1]]

    def commit_of(self, name: str, revision: str) -> str | None:
        commits = self.repositories.get(name) or {}
        if revision in commits:
            return revision
        return [*commits][-1] if commits and revision == "main" else None

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._route()

    def do_GET(self):
        self._route()

    def do_POST(self):
        self._route()

    def do_PUT(self):
        self._route()

    def log_message(self, *_):
        pass

    def _route(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        if self.hub.down:
            return self._send(503)
        if "broken" in path or b"broken" in self.body:
            self.close_connection = True  # without an answer
            return None
        for method, pattern, answer in ROUTES:
            if method in (self.command, "*") and (found := re.fullmatch(pattern, path)):
                if method == "POST" and not self._may_write():
                    return self._send(401, {"error": "Invalid username or password."})
                return answer(self, *found.groups())
        return self._send(404, {"error": f"no {path}"})

    def _may_write(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _send(self, status, content=None, headers=None):
        body = b"" if content is None else content
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def create(self):
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        known = name in self.hub.repositories
        self.hub.repositories.setdefault(name, {})
        if not known:
            private = asked.get("private", asked.get("visibility") == "private")
            self.hub.private[name] = bool(private)
        url = f"{self.hub.at}/{name}"
        self._send(409 if known else 200, {"url": url, "id": name, "name": name})

    def whoami(self):
        if not self._may_write():
            return self._send(401, {"error": "Invalid username or password."})
        return self._send(200, {"type": "user", "name": "me"})

    def auth(self, name):
        if not self._may_write():
            return self._send(401, {"error": "Invalid username or password."})
        return self._send(200 if name in self.hub.repositories else 404, {})

    def yaml(self):
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, name, _revision):
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs"
                if file["path"].endswith((".safetensors", ".png"))
                else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._send(200, {"files": files})

    def batch(self, _name):
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": f"{self.hub.at}/lfs/{one['oid']}"}},
            }
            for one in json.loads(self.body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._send(400)
        if self.hub.refuses_files:
            return self._send(403)
        self.hub.lfs[oid] = self.body
        return self._send(200)

    def commit(self, name, _revision):
        commits = self.hub.repositories[name]
        files = dict(self.hub.files(name)) if commits else {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        commit = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
        commits[commit] = files
        url = f"{self.hub.at}/{name}/commit/{commit}"
        self._send(200, {"commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def info(self, name, revision="main"):
        if name not in self.hub.repositories:
            return self._send(404, {"error": "none"}, {"X-Error-Code": "RepoNotFound"})
        if (commit := self.hub.commit_of(name, revision)) is None:
            return self._send(404, {"error": "none"}, {"X-Error-Code": "RevisionNotFound"})
        files = self.hub.repositories[name][commit]
        siblings = [{"rfilename": path} for path in files]
        return self._send(200, {"id": name, "sha": commit, "siblings": siblings})

    def tree(self, name, revision):
        commit = self.hub.commit_of(name, revision)
        files = self.hub.repositories.get(name, {}).get(commit or "", {})
        found = [
            {"type": "file", "path": path, "size": len(content), "oid": etag(content)}
            for path, content in files.items()
        ]
        self._send(200, found)

    def resolve(self, name, revision, path):
        if name not in self.hub.repositories:
            return self._send(404, None, {"X-Error-Code": "RepoNotFound"})
        if (commit := self.hub.commit_of(name, revision)) is None:
            return self._send(404, None, {"X-Error-Code": "RevisionNotFound"})
        content = self.hub.repositories[name][commit].get(path)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            return self._send(404, None, headers | {"X-Error-Code": "EntryNotFound"})
        return self._send(200, content, headers | {"ETag": f'"{etag(content)}"'})


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    ("POST", "/api/repos/create", _Handler.create),
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/validate-yaml", _Handler.yaml),
    ("GET", rf"/api/models/{NAME}/auth-check.*", _Handler.auth),
    ("POST", rf"/api/models/{NAME}/preupload/([^/]+)", _Handler.preupload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/lfs/([0-9a-f]+)", _Handler.upload),
    ("POST", rf"/api/models/{NAME}/commit/([^/]+)", _Handler.commit),
    ("*", rf"/api/models/{NAME}/revision/([^/]+)", _Handler.info),
    ("*", rf"/api/models/{NAME}/tree/([^/]+)", _Handler.tree),
    ("*", rf"/api/models/{NAME}", _Handler.info),
    ("*", rf"/{NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
