"""A real server of images on this machine, which fails as a test says."""

from __future__ import annotations

import contextlib
import io
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from contrastive.data.url_images import UrlImage
from contrastive.errors import BadSample


def png(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 80, 80)).save(buffer, "PNG")
    return buffer.getvalue()


class Server:
    """Answers as a test says: ``answers[path]`` is called with the request and its number."""

    def __init__(self, context=None):
        self.answers, self.requests = {}, Counter()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                outer.requests[path] += 1
                with contextlib.suppress(OSError):  # who asked has gone
                    outer.answers.get(path, image)(self, outer.requests[path])

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.at = f"http{'s' if context else ''}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def answer(request, status=200, body=b"", **headers):
    request.send_response(status)
    for name, value in ({"Content_Length": len(body)} | headers).items():
        if value is not None:
            request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


def image(request, number):
    """A picture of its own for each path: /7.png."""
    name = request.path.partition("?")[0].rpartition("/")[2]
    shade = int("".join(filter(str.isdigit, name)) or 0)
    answer(request, body=png(shade), Content_Type="image/png")


def read(server, path, **options):
    return UrlImage(f"{server.at}{path}", **{"private": True, **options}).read()


def refusal(server, path, **options):
    with pytest.raises(BadSample) as refused:
        read(server, path, **options)
    message = str(refused.value)
    assert "\n" not in message
    return message.removeprefix(server.at)
