"""The parts of a server, in this process: who waits for whom, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
import torch
import uvicorn
from uvicorn.server import ServerState

from contrastive.serving import connections
from contrastive.serving.batches import Batches
from contrastive.serving.guard import Guard
from contrastive.serving.metrics import Metrics
from contrastive.serving.problems import Problem
from contrastive.serving.settings import Access, Limits


def test_headers_that_do_not_come_are_not_waited_for(monkeypatch):
    """Neither at first nor after an answer; a request is not cut short."""
    monkeypatch.setattr(connections, "HEADERS_SECONDS", 0.5)

    async def answer(scope, receive, send):
        await receive()
        await asyncio.sleep(1)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def ask():
        config = uvicorn.Config(
            answer, http=connections.Connection, lifespan="off", access_log=False
        )
        config.load()
        state, loop = ServerState(), asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: connections.Connection(config, state, {}), "127.0.0.1", 0
        )
        async with server:
            place = server.sockets[0].getsockname()
            slow, idle = await asyncio.open_connection(*place)
            reader, writer = await asyncio.open_connection(*place)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET")
            first = await reader.readline()
            for each in (slow, reader):
                with contextlib.suppress(ConnectionResetError):
                    await asyncio.wait_for(each.read(), 10)
            for each in (idle, writer):
                each.close()
            return first

    assert b"204" in asyncio.run(ask())


def test_work_for_a_client_that_left_is_dropped():
    dropped, metrics = [], Metrics()

    async def embed(scope, receive, send):
        assert (await receive())["body"] == b"{}"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            dropped.append(scope["path"])
            raise

    async def ask():
        messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"{}"}]

        async def receive():
            await asyncio.sleep(0.01)
            return messages.pop()

        scope = {"type": "http", "method": "POST", "path": "/v1/embeddings"}
        scope["headers"] = [(b"host", b"localhost")]
        guard = Guard(embed, Access(), Limits(), metrics)
        await guard(scope, receive, lambda _: pytest.fail("nobody is there"))

    asyncio.run(asyncio.wait_for(ask(), 30))
    assert dropped == ["/v1/embeddings"]
    assert 'status="499"' in metrics.text().decode()


def test_a_request_that_cannot_wait_is_refused():
    class Slow:
        """A model that begins when it is told to."""

        def __init__(self):
            self.begin = threading.Event()

        def embed(self, _modality, samples, *, batch_size, on_bad):
            self.begin.wait(60)
            assert batch_size in (1, 2, 4, 8, 16, 32, 64)
            on_bad(0, "is broken")
            return torch.zeros(len(samples), 2)

    model, sizes = Slow(), []
    batches = Batches(model, most_waiting=5, on_batch=sizes.append)
    first = batches.embed("text", ["a"])
    while batches.count:
        pass
    waiting = [batches.embed("text", ["b", "c"]), batches.embed("image", ["d"])]
    waiting.append(batches.embed("text", ["e"]))
    with pytest.raises(Problem, match="4 samples wait already"):
        batches.embed("text", ["f", "g"])
    waiting[2].cancel()
    model.begin.set()
    batches.close()
    assert sizes == [1, 2, 1]
    for one in (first, waiting[0], waiting[1]):
        assert "0: is broken" in str(one.exception())
    with pytest.raises(Problem, match="stops"):
        batches.embed("text", ["h"])


def test_a_large_request_shares_the_model_with_small_ones():
    class Listing:
        def __init__(self):
            self.begin, self.batches = threading.Event(), []

        def embed(self, _modality, samples, *, batch_size, on_bad):
            self.begin.wait(60)
            self.batches.append(samples)
            for place, sample in enumerate(samples):
                if sample == "bad":
                    on_bad(place, "is broken")
            return torch.tensor([[float(len(sample))] for sample in samples])

    model, ended = Listing(), []
    batches = Batches(model, most_waiting=2000, on_batch=lambda _: None)
    first = batches.embed("text", ["first"])
    while batches.count:
        pass
    large = batches.embed("text", ["a" * number for number in range(200)])
    spoilt = batches.embed("text", ["b"] * 70 + ["bad"] + ["b"] * 200)
    left = batches.embed("text", ["nobody waits"] * 300)
    small = batches.embed("text", ["small"])
    image = batches.embed("image", ["image"])
    for name, one in [("large", large), ("spoilt", spoilt), ("small", small), ("image", image)]:
        one.add_done_callback(lambda _, name=name: ended.append(name))
    left.cancel()
    model.begin.set()
    batches.close()
    assert first.result().tolist() == [[5.0]]
    assert large.result().flatten().tolist() == [*map(float, range(200))]
    assert "text 70: is broken" in str(spoilt.exception())
    assert ended == ["small", "image", "spoilt", "large"]
    assert max(map(len, model.batches)) == 64
    assert sum(map(len, model.batches)) < 1 + 200 + 150 + 2  # what nobody waits for is dropped
    assert batches.count == 0
