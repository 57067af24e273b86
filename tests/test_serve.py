"""A server answers what the package answers, many at once, and refuses the rest in one line."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from contrastive import Index, build_index, build_model, classify, search
from tests.miniature import Picture
from tests.served import serving
from tests.toys import tiny_model

TOKEN = "a-token-of-some-length"


class Served:
    """A model, its index in a folder, and a server of it."""

    def __init__(self, folder):
        torch.manual_seed(0)
        self.folder = folder
        self.model = build_model(tiny_model("infonce"))
        self.model.save(folder / "saved")
        (folder / "photos").mkdir()
        self.rows = []
        for number in range(20):
            picture, place = Picture(number), folder / "photos" / f"{number}.png"
            picture.draw().save(place)
            row = {"image": str(place), "text": picture.captions[0], "id": number}
            self.rows.append(row | {"source": place.name, "even": number % 2 == 0})
        build_index(self.model, self.rows, folder / "found", model_folder=folder / "saved")

    def encoded(self, number):
        content = (self.folder / "photos" / f"{number}.png").read_bytes()
        return "data:image/png;base64," + base64.b64encode(content).decode()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Served(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(made):
    with serving(made.folder / "found") as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def problem(answer, status):
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert {*error} == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return error["message"]


def test_searches_are_those_of_the_package(made, client):
    index = made.folder / "found"
    image = made.rows[3]["image"]
    for body, query, about in [
        ({"text": "a red circle"}, "a red circle", {}),
        ({"text": "a red circle", "find": "text"}, "a red circle", {"find": "text"}),
        ({"image": made.encoded(3)}, image, {"query_modality": "image"}),
        ({"text": "red", "where": ["even=true"], "k": 3}, "red", {"where": ["even=true"], "k": 3}),
        ({"image": made.encoded(3), "find": "image"}, image, {"find": "image"}),
    ]:
        expected = search(made.model, query, index=index, **about)
        found = client.post("/v1/search", json=body)
        assert found.status_code == 200, found.text
        hits = found.json()["hits"]
        assert [hit["found"] for hit in hits] == [hit.found for hit in expected]
        assert [hit["similarity"] for hit in hits] == pytest.approx(
            [hit.similarity for hit in expected], abs=1e-6
        )
    first = client.post("/v1/search", json={"text": "red", "where": ["even=true"]}).json()["hits"]
    assert all(hit["columns"]["even"] for hit in first)
    with Image.open(io.BytesIO(client.get(first[0]["image"]).content)) as shown:
        assert (shown.format, shown.size) == ("JPEG", Picture(0).draw().size)
    with Path(image).open("rb") as file:
        found = client.post("/v1/search/upload", files={"image": file}, data={"k": "2"}).json()
    assert [hit["found"] for hit in found["hits"]] == [
        hit.found for hit in search(made.model, image, index=index, k=2)
    ]


def test_a_text_is_never_taken_for_a_path(made, client):
    """Nor for a composed query."""
    path = made.rows[0]["image"]
    found = client.post("/v1/search", json={"text": path}).json()
    assert (found["query_modality"], found["modality"]) == ("text", "image")
    expected = Index(made.folder / "found").search(made.model.embed("text", [path]), "image")[0]
    assert [hit["similarity"] for hit in found["hits"]] == pytest.approx(
        [hit.similarity for hit in expected], abs=1e-6
    )


def test_embeddings_are_those_of_the_model(made, server, client):
    texts = ["a red circle", "two", "a third text"]
    expected = made.model.embed("text", texts)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as api:
        found = api.embeddings.create(model="found", input=texts)  # in base64
        assert torch.tensor([one.embedding for one in found.data]).allclose(expected, atol=1e-6)
        cut = api.embeddings.create(
            model="found", input="two", dimensions=4, encoding_format="float"
        )
        assert torch.tensor(cut.data[0].embedding).allclose(
            normalize(expected[1, :4], dim=0), atol=1e-6
        )
        assert [one.id for one in api.models.list()] == ["found"]
        with pytest.raises(openai.NotFoundError, match="no 'other'; there is found"):
            api.embeddings.create(model="other", input="a")
    inputs = [{"image": made.encoded(1)}, "two", {"text": "a red circle"}]
    data = client.post("/v1/embeddings", json={"input": inputs}).json()["data"]
    rows = torch.tensor([one["embedding"] for one in data])
    assert rows[1:].allclose(expected[[1, 0]], atol=1e-6)
    assert rows[:1].allclose(made.model.embed("image", [made.rows[1]["image"]]), atol=1e-6)


def test_classes_are_those_of_the_package(made, client):
    names, templates = ["circle", "square", "a cross"], ["a {}", "no {}"]
    body = {"image": made.encoded(2), "classes": names, "templates": templates}
    found = client.post("/v1/classify", json=body).json()
    expected = classify(made.model, made.rows[2]["image"], names, templates=templates)[0]
    shown = {one["name"]: one["probability"] for one in found["classes"]}
    assert [shown[name] for name in names] == pytest.approx(expected.tolist(), abs=1e-5)
    assert [*shown.values()] == sorted(shown.values(), reverse=True)


def test_a_hundred_at_once_are_answered_as_one(client, server):
    texts = [f"text {number}" for number in range(25)]
    alone = [client.post("/v1/search", json={"text": text}).json() for text in texts]
    start = threading.Barrier(100)

    def ask(number):
        with server.client() as own:
            start.wait(60)
            return own.post("/v1/search", json={"text": texts[number % 25]})

    with ThreadPoolExecutor(100) as pool:
        answers = [*pool.map(ask, range(100))]
    assert {answer.status_code for answer in answers} == {200}
    for number, answer in enumerate(answers):
        hits, expected = answer.json()["hits"], alone[number % 25]["hits"]
        assert [hit["similarity"] for hit in hits] == pytest.approx(
            [hit["similarity"] for hit in expected], abs=1e-6
        )
    counts = client.get("/metrics").text
    assert re.search(r'requests_total\{path="/v1/search",status="200"\} \d', counts)
    assert "contrastive_batch_samples_bucket" in counts


def picture_of(width, height):
    """Return a PNG of zeros of a size, compressed a thousand times."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = zlib.compress(bytes(height * ((width + 7) // 8 + 1)), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def as_url(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


def test_mistakes_are_one_line_each(made, client):
    whole = made.encoded(0)
    half = (made.folder / "photos" / "0.png").read_bytes()[:150]
    huge = as_url(picture_of(60_000, 30_000))
    large = as_url(picture_of(5600, 5600))
    classes = {"image": whole, "classes": ["a", "b" * 3]}
    for path, body, status, said in [
        ("search", {}, 400, "give either text or image"),
        ("search", {"text": "a", "image": whole}, 400, "give either text or image"),
        ("search", {"text": " "}, 400, "text: is empty"),
        ("search", {"text": "a" * 30_000}, 400, "at most 20,000"),
        ("search", {"text": "a", "k": 0}, 400, "k: "),
        ("search", {"text": "a", "k": 9**9}, 400, "k: "),
        ("search", {"text": "a", "k": "many"}, 400, "k: "),
        ("search", {"text": "a", "typo": 1}, 400, "typo: "),
        ("search", {"text": "a", "where": ["colour=red"]}, 400, "has no column colour"),
        ("search", {"text": "a", "find": "sound"}, 400, "has no rows of 'sound'"),
        ("search", {"text": "a", "index": "other"}, 404, "there is found"),
        ("search", {"text": "a", "min_precision": 0.9}, 400, "has no calibration"),
        ("search", {"text": "a", "min_precision": 2}, 400, "min_precision: "),
        ("search", {"text": "a", "min_precision": float("nan")}, 400, "min_precision: "),
        ("search", {"text": "a"} | {f"k{i}": i for i in range(100)}, 400, "more fields"),
        ("search", {"text": "a", "k" * 2000: 1}, 400, "k ... k"),
        ("search", {"text": "a", "where": ["id>1"] * 21}, 400, "at most 20"),
        ("search", {"text": "a", "where": ["text=" + "*a" * 999]}, 400, "at most 1,000"),
        ("search", {"text": "a", "where": ["text=\ud800"]}, 400, "where.0: has half"),
        ("search", {"image": "nonsense!"}, 400, "is no base64"),
        ("search", {"image": as_url(b"nonsense")}, 400, "is no image that is known"),
        ("search", {"image": as_url(half)}, 400, "image 0: "),
        ("search", {"image": "https://example.org/a.png"}, 400, "nothing is fetched"),
        ("search", {"image": "file:///etc/passwd"}, 400, "nothing is fetched"),
        ("search", {"image": huge}, 413, "at most 32,000,000 pixels"),
        ("search", {"image": as_url(picture_of(9000, 9000))}, 413, "9000 x 9000 pixels"),
        ("embeddings", {"input": []}, 400, "input"),
        ("embeddings", {"input": [[1, 2]]}, 400, "input: numbers of tokens"),
        ("embeddings", {"input": [{"text": 1}] * 9}, 400, "input"),
        ("embeddings", {"input": ["a" * 20_000] * 101}, 413, "2,020,000 characters in all"),
        ("embeddings", {"input": [{"image": large}] * 9}, 413, "pixels in all"),
        ("embeddings", {"input": ["a", ""]}, 400, "input.1: is empty"),
        ("embeddings", {"input": ["a"] * 1000}, 400, "at most 256"),
        ("embeddings", {"input": "a", "dimensions": 9}, 400, "dimensions: 9 is more than the 8"),
        ("classify", {"image": whole, "classes": ["a", "a"]}, 400, "'a' is given twice"),
        ("classify", {"image": whole, "classes": []}, 400, "classes: "),
        ("classify", {"image": whole, "classes": ["a"], "templates": ["a"]}, 400, "has no {}"),
        ("classify", {"image": whole, "classes": [f"{i}" for i in range(2000)]}, 400, "at most"),
        ("classify", classes | {"templates": ["{}"] * 1001}, 400, "2002 sentences"),
        ("classify", classes | {"templates": ["{}" * 9_990]}, 400, "a sentence of 29,970"),
        ("classify", classes | {"templates": ["{}\ud800"]}, 400, "templates.0: has half"),
    ]:
        sent = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
        assert said in problem(client.post(f"/v1/{path}", **sent), status), path
    for content, said in [(b"{", "JSON"), (b'"a"', "dictionary"), (b"\xff\xfe", "")]:
        answer = client.post(
            "/v1/search", content=content, headers={"content-type": "application/json"}
        )
        assert said in problem(answer, 400)
    problem(client.get("/nowhere"), 404)
    problem(client.get("/v1/search"), 405)
    for place in ("found/image/99", "found/text/0", "found/no/0", "x/image/0"):
        problem(client.get(f"/v1/rows/{place}/image"), 404)
    for number in ("first", "-1", 1 << 63, "9" * 4000):
        problem(client.get(f"/v1/rows/found/image/{number}/image"), 400)
    assert client.get("/page/../app.py").status_code == 404
    assert client.get("/page/%2e%2e/app.py").status_code == 404


def test_what_is_too_large_is_refused_before_it_is_read(server):
    def pieces():
        for _ in range(300):
            yield bytes(1_000_000)

    headers = {"content-type": "application/json"}
    with server.client() as client:
        listed = client.post("/v1/search", content=bytes(21_000_000), headers=headers)
        assert "more than 20 MB" in problem(listed, 413)
    with server.client() as client:
        try:
            streamed = client.post("/v1/search", content=pieces(), headers=headers)
        except httpx.WriteError:  # the connection is closed while more is sent
            return
        assert "more than 20 MB" in problem(streamed, 413)


def test_pages_of_others_are_refused(server, client):
    for headers in (
        {"host": "evil.example"},
        {"host": "evil.example:8000"},
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
    ):
        answer = client.post("/v1/search", json={"text": "a"}, headers=headers)
        problem(answer, 421 if "host" in headers else 403)
        assert client.get("/health", headers=headers).status_code == (
            200 if "host" in headers else 403
        )
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200  # shown, not framed
    assert client.get("/v1/models", headers=link).status_code == 403
    for host in ("LOCALHOST:1", "localhost.", "127.0.0.1", "[::1]:80"):
        assert client.get("/ready", headers={"host": host}).status_code == 200
        assert client.head("/v1/models", headers={"host": host}).status_code == 200
    same = {"origin": server.url}
    assert client.post("/v1/search", json={"text": "a"}, headers=same).status_code == 200
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")


def test_a_token_a_rate_and_two_indexes(made):
    """A server for others; a second index has the same model."""
    build_index(made.model, made.rows[:5], made.folder / "few", model_folder=made.folder / "saved")
    places = (made.folder / "found", made.folder / "few")
    options = ("--host", "0.0.0.0", "--allow-host", "search.example", "--rate", "12")
    with serving(*places, *options, token=TOKEN) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        with httpx.Client(base_url=url, timeout=120) as client:
            for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}):
                problem(client.get("/v1/models", headers=given), 401)
            assert client.get("/health").json() == {"status": "ok"}
            assert client.get("/ready").status_code == client.get("/").status_code == 200
            own = {"authorization": f"Bearer {TOKEN}", "host": "search.example"}
            models = client.get("/v1/models", headers=own).json()["data"]
            assert [one["id"] for one in models] == ["found", "few"]
            assert models[1]["rows"] == {"image": 5, "text": 5}
            few = client.post("/v1/search", json={"text": "a", "index": "few"}, headers=own)
            assert len(few.json()["hits"]) == 5
            answers = [client.get("/v1/models", headers=own) for _ in range(20)]
            refused = next(answer for answer in answers if answer.status_code != 200)
            assert "more than 12 requests a minute" in problem(refused, 429)
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/health").status_code == 200
        assert server.stop() == 0
        assert not [line for line in server.told if "Traceback" in line]


def test_what_was_asked_is_answered_before_the_server_ends(made):
    with serving(made.folder / "found") as server, server.client() as client:
        client.post("/v1/search", json={"text": "warm"})
        answers = []

        def ask(number):
            with server.client() as own:
                answers.append(own.post("/v1/embeddings", json={"input": [f"{number}"] * 200}))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        while b"embeddings" not in client.get("/metrics").content:
            pass
        assert server.stop() == 0
        for thread in threads:
            thread.join()
    assert answers
    assert {answer.status_code for answer in answers} <= {200, 503}


def test_a_model_alone_is_served(made):
    with serving("--model", made.folder / "saved") as server, server.client() as client:
        assert "without an index" in problem(client.post("/v1/search", json={"text": "a"}), 404)
        body = {"image": made.encoded(0), "classes": ["a", "b"]}
        assert client.post("/v1/classify", json=body).status_code == 200


def test_what_cannot_be_served_is_told(made, command, monkeypatch):
    monkeypatch.delenv("CONTRASTIVE_TOKEN", raising=False)
    monkeypatch.delenv("CONTRASTIVE_MODEL", raising=False)
    found = made.folder / "found"
    other = build_model(tiny_model("sigmoid"))
    other.save(made.folder / "other")
    taken = socket.create_server(("127.0.0.1", 0))
    for arguments, said in [
        ((found, "--host", "0.0.0.0"), "set a token"),
        ((found, "--port", taken.getsockname()[1]), "give another --port"),
        ((found, "--allow-host", "http://a.example"), "is no name of a host"),
        ((made.folder / "nowhere",), "holds no index.json"),
        ((found, "--port", "1", "--host", "203.0.113.9"), "set a token"),
        ((found, "--model", made.folder / "other"), "another model made this index"),
    ]:
        port = () if "--port" in arguments else ("--port", "0")
        told = command("serve", *arguments, *port)
        assert told.code == 2, told
        assert said in told.err
    taken.close()
    monkeypatch.setenv("CONTRASTIVE_TOKEN", "short")
    assert "could be guessed" in command("serve", found).err
    monkeypatch.setenv("CONTRASTIVE_TOKEN", "with spaces and é in it")
    assert "no header takes" in command("serve", found).err
