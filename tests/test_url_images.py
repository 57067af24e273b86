"""Images by address, from a real server: fetched once, from public addresses alone, told if not."""

import contextlib
import io
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.reduction import ForkingPickler

import pytest
from PIL import Image

from contrastive import RunSpec, shard_data, train
from contrastive.config.yaml_files import load_spec
from contrastive.data import content_index, guarded_http, url_images
from contrastive.data.columns import values_of
from contrastive.data.content_hash import short_keys
from contrastive.data.guarded_http import is_public
from contrastive.data.images import open_image
from contrastive.data.loading import map_in_workers
from contrastive.data.url_images import UrlImage, UrlImages
from contrastive.datasets import ImageFolder, Table
from contrastive.errors import BadSample, DataError, SpecError
from tests.toys import tiny_model


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


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(guarded_http, "RETRY_AFTER", (0.0, 0.0))
    url_images._failed.clear()
    server = Server()
    yield server
    server.stop()


def read(server, path, **options):
    return UrlImage(f"{server.at}{path}", **{"private": True, **options}).read()


def refusal(server, path, **options):
    with pytest.raises(BadSample) as refused:
        read(server, path, **options)
    message = str(refused.value)
    assert "\n" not in message
    return message.removeprefix(server.at)


def table(folder, server, names, *, column="url"):
    folder.mkdir(exist_ok=True)
    rows = [f"{server.at}/{name},number {i},{('train', 'val')[i % 4 == 3]}" for i, name in names]
    (folder / "captions.csv").write_text("\n".join([f"{column},text,split", *rows]))


def test_an_image_is_fetched_once(server):
    assert open_image(UrlImage(f"{server.at}/7.png", private=True)).getpixel((0, 0))[0] == 7
    assert read(server, "/7.png") == png(7)
    assert server.requests == {"/7.png": 1}


@pytest.mark.parametrize("column", ["url", "IMAGE_URL", "image", "photo"])
def test_a_table_of_addresses_is_fetched_when_images_are_needed_and_then_no_more(
    server, tmp_path, column, capsys
):
    table(tmp_path / "web", server, [(i, f"{i}.png") for i in range(8)], column=column)
    fields = {"url_column": "photo"} if column == "photo" else {}
    data = ImageFolder(folder=tmp_path / "web", private=True, **fields)
    rows = data.build("train")
    assert not server.requests
    assert (
        "images by address, 8, are fetched when needed; copies are kept" in capsys.readouterr().err
    )
    assert isinstance(rows[0]["image"], UrlImage)
    first = short_keys(values_of(rows, "image"), "image")
    assert len({*first.tolist()}) == 6
    assert sum(server.requests.values()) == 6
    content_index._index_in.cache_clear()  # as another process would
    again = short_keys(values_of(data.build("train"), "image"), "image")
    assert again.tolist() == first.tolist()
    assert sum(server.requests.values()) == 6
    column = rows.columns["image"].values
    assert isinstance(column, UrlImages)
    assert ForkingPickler.loads(ForkingPickler.dumps(rows)) == rows


def test_files_and_addresses_may_stand_in_one_column(server, tmp_path):
    table(tmp_path / "web", server, [(0, "1.png")], column="image")
    (tmp_path / "web" / "2.png").write_bytes(png(2))
    with (tmp_path / "web" / "captions.csv").open("a") as file:
        file.write("\n2.png,a file,train\ngone.png,no file,train")
    data = ImageFolder(folder=tmp_path / "web", private=True, max_bad=0.5)
    shades = [open_image(row["image"]).getpixel((0, 0))[0] for row in data.build("train")]
    assert shades == [1, 2]
    content = ImageFolder(folder=tmp_path / "web", private=True, max_bad=0.5, group_by="content")
    assert len(content.build("train")) == 2


def test_a_run_leaves_out_what_cannot_be_fetched_within_its_budget(server, tmp_path, capsys):
    server.answers["/3.png"] = lambda request, _: answer(request, 404)
    table(tmp_path / "web", server, [(i, f"{i}.png") for i in range(0, 40) if i % 4 != 3 or i == 3])
    (tmp_path / "web" / "captions.csv").write_text(
        (tmp_path / "web" / "captions.csv").read_text().replace(",val", ",train")
    )
    data = {"type": "image-folder", "folder": str(tmp_path / "web"), "private": True}
    run = {
        "model": tiny_model("infonce"),
        "data": data | {"max_bad": 0.1},
        "training": {"batch_size": 8, "epochs": 2, "workers": 0},
        "evaluation": {"split": None},
    }
    train(run, tmp_path / "run")
    line = f"{server.at}/3.png: the server answers 404 Not Found"
    assert line in capsys.readouterr().err
    assert len([*(tmp_path / "run").glob("model")]) == 1
    assert max(server.requests.values()) == 1  # not again in the second epoch, nor by workers
    with pytest.raises(DataError, match="1 of 31 samples are bad, 0 may be"):
        train(run | {"data": data | {"max_bad": 0}}, tmp_path / "strict")
    losses = [
        json.loads(line).get("loss")
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    ]
    assert len([loss for loss in losses if loss]) == 6


def test_shards_of_images_by_address_hold_the_images(server, tmp_path):
    table(tmp_path / "web", server, [(0, "1.png"), (1, "2.png")])
    written = shard_data(ImageFolder(folder=tmp_path / "web", private=True), tmp_path / "shards")
    assert written["splits"]["train"]["samples"] == 2
    assert png(2) in (tmp_path / "shards" / "train-000000.tar").read_bytes()


def test_images_are_fetched_several_at_a_time(server, tmp_path):
    both = threading.Barrier(2)

    def together(request, number):
        both.wait(timeout=20)
        image(request, number)

    server.answers |= {f"/{i}.png": together for i in range(4)}
    table(tmp_path / "web", server, [(0, "0.png"), (1, "1.png")])
    data = ImageFolder(folder=tmp_path / "web", private=True)
    short_keys(values_of(data.build("train"), "image"), "image")
    table(tmp_path / "web", server, [(0, "2.png"), (1, "3.png")])
    shard_data(data, tmp_path / "shards")
    assert sum(server.requests.values()) == 4


class Reading:
    def __init__(self, images):
        self.images = images

    def __getitem__(self, group):
        return [hash(self.images[i].read()) and os.getpid() for i in group]


def test_workers_fetch_what_they_need_into_the_cache_of_all(server, tmp_path):
    table(tmp_path / "web", server, [(i, f"{i}.png") for i in (0, 1, 2)])
    rows = ImageFolder(folder=tmp_path / "web", private=True).build("train")
    found = [*map_in_workers(Reading(values_of(rows, "image")), [[0], [1, 2], [0]], workers=1)]
    assert os.getpid() not in {pid for pids in found for pid in pids}
    assert sum(server.requests.values()) == 3
    assert rows[2]["image"].read() == png(2)
    assert sum(server.requests.values()) == 3


def test_a_table_of_any_size_may_have_addresses(server, tmp_path, capsys):
    table(tmp_path / "web", server, [(i, f"{i}.png") for i in range(4)])
    (tmp_path / "web" / "captions.csv").rename(tmp_path / "web" / "t.csv")
    file = tmp_path / "web" / "t.csv"
    data = Table(files=file, url_column="url", private=True)
    shades = [open_image(row["image"]).getpixel((0, 0))[0] for row in data.build("train")]
    assert shades == [0, 1, 2]
    assert "image" not in Table(files=file).build("train")[0]
    assert "'url' is not read; if images are there, set url_column to it" in capsys.readouterr().err


def twice(fault):
    return lambda request, number: fault(request) if number < 3 else image(request, number)


def cut(request):
    answer(request, body=png(0)[:20], Content_Length=len(png(0)))


def cut_without_length(request):
    answer(request, body=png(0)[:50], Content_Length=None)


def no_http(request):
    request.wfile.write(b"nonsense\r\n\r\n")


@pytest.mark.parametrize(
    "fault",
    [lambda request: answer(request, 500), cut, cut_without_length, no_http],
    ids=["500", "cut", "cut without a length", "no HTTP"],
)
def test_what_passes_is_tried_again(server, fault):
    server.answers["/7.png"] = twice(fault)
    assert read(server, "/7.png") == png(7)
    assert server.requests["/7.png"] == 3


def chunked(request, _):
    answer(request, Content_Length=None, Transfer_Encoding="chunked")
    request.wfile.write(b"5\r\nabc")


SAID = {
    "404": (lambda r, _: answer(r, 404), "the server answers 404 Not Found", 1),
    "500": (lambda r, _: answer(r, 503), "the server answers 503 Service Unavailable", 3),
    "cut": (lambda r, _: cut(r), f"ended after 20 of {len(png(0))} bytes", 3),
    "chunked": (chunked, "ended before it was whole", 3),
    "cut without a length": (lambda r, _: cut_without_length(r), "ended before it was whole", 3),
    "a page": (
        lambda r, _: answer(r, body=b"<html>", Content_Type="text/html; charset=utf-8"),
        "holds no image (text/html)",
        1,
    ),
    "large": (lambda r, _: answer(r, Content_Length=10**9), "has 1,000,000,000 bytes, 1,000 at", 1),
    "large without a length": (
        lambda r, _: answer(r, body=bytes(2000), Content_Length=None),
        "has more than 1,000 bytes",
        1,
    ),
    "redirects": (
        lambda r, _: answer(r, 302, Location="/a?b=secret"),
        "is redirected more than",
        6,
    ),
    "a file": (
        lambda r, _: answer(r, 302, Location="file:///etc/passwd"),
        "leads to file:///etc/passwd: is no address of http or https",
        1,
    ),
    "a password": (
        lambda r, _: answer(r, 302, Location="http://me:secret@127.0.0.1/"),
        "leads to http://127.0.0.1/: has a user or a password in it; leave it out",
        1,
    ),
}


@pytest.mark.parametrize(("fault", "said", "times"), SAID.values(), ids=SAID)
def test_what_does_not_pass_is_told_and_not_asked_for_again(
    server, fault, said, times, monkeypatch
):
    monkeypatch.setattr(url_images, "MAX_BYTES", 1000)
    server.answers["/a"] = fault
    message = refusal(server, "/a?key=secret")
    assert message.startswith(f"/a?...: {said}")
    assert "secret" not in message
    assert server.requests["/a"] == times
    assert refusal(server, "/a?key=secret") == message
    assert server.requests["/a"] == times
    monkeypatch.setattr(url_images, "FORGOTTEN_AFTER", 0.0)
    refusal(server, "/a?key=secret")
    assert server.requests["/a"] == 2 * times


def drops(request, _):
    for letter in b"HTTP/1.0 200 OK\r\nA: " + b"b" * 1000:
        request.wfile.write(bytes([letter]))
        time.sleep(0.02)


def silent(request, _):
    time.sleep(0.5)


def slow_body(request, _):
    answer(request, Content_Length=1000)
    for _ in range(1000):
        request.wfile.write(b"a")
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (drops, "was not there within 0 s"),
        (slow_body, "was not there within 0 s"),
        (silent, "no answer within 0 s"),
    ],
)
def test_a_server_has_a_bounded_time(server, fault, said, monkeypatch):
    monkeypatch.setattr(guarded_http, "TRY_WITHIN", 0.3)
    monkeypatch.setattr(guarded_http, "SILENT", 0.2)
    monkeypatch.setattr(guarded_http, "RETRY_AFTER", ())
    server.answers["/a"] = fault
    began = time.monotonic()
    assert said in refusal(server, "/a")
    assert time.monotonic() - began < 5


def test_private_addresses_are_refused_before_they_are_asked(server, monkeypatch):
    name = refusal(server, "/1.png", private=False)
    assert name == (
        "/1.png: is at a private address (127.0.0.1), which is not fetched; private: true fetches "
        "it, too"
    )
    port = server.server.server_port
    for host in ("localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0"):
        with pytest.raises(BadSample, match=r"is at a private address|is not found"):
            UrlImage(f"http://{host}:{port}/1.png").read()
    assert not server.requests


@pytest.mark.parametrize(
    ("place", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("127.0.0.2", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:a00:1::", False),
        ("nonsense", False),
    ],
)
def test_which_addresses_are_public(place, public):
    assert is_public(place) is public


def test_a_redirect_to_a_private_address_is_refused(server, monkeypatch):
    monkeypatch.setattr(guarded_http, "is_public", lambda place: place == "127.0.0.1")
    inside = Server()
    try:
        port = inside.server.server_port
        server.answers["/a"] = lambda r, _: answer(r, 301, Location=f"http://127.0.0.2:{port}/b")
        server.answers["/b"] = lambda r, _: answer(r, 307, Location="/1.png")
        assert refusal(server, "/a", private=False) == (
            f"/a: leads to http://127.0.0.2:{port}/b: is at a private address (127.0.0.2), which "
            "is not fetched; private: true fetches it, too"
        )
        assert not inside.requests
        assert read(server, "/b", private=False) == png(1)
    finally:
        inside.stop()


def test_a_name_is_resolved_once_and_what_it_was_is_connected_to(server, monkeypatch):
    asked = []

    def rebinding(host, port, *args, **options):
        asked.append(host)
        place = "127.0.0.1" if len(asked) == 1 else "10.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(guarded_http, "is_public", lambda place: place == "127.0.0.1")
    address = f"http://images.example:{server.server.server_port}"
    assert UrlImage(f"{address}/1.png").read() == png(1)
    assert asked == ["images.example"]
    with pytest.raises(BadSample, match=r"is at a private address \(10\.0\.0\.1\)"):
        UrlImage(f"{address}/2.png").read()
    assert server.requests == {"/1.png": 1}


def test_proxies_of_the_environment_are_not_used_and_that_is_told(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert read(server, "/1.png") == png(1)
    monkeypatch.setattr(guarded_http, "SILENT", 0.1)
    server.answers["/a"] = silent
    assert "; proxies of the environment are not used" in refusal(server, "/a")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://me:secret@127.0.0.1/a", "http://127.0.0.1/a: has a user or a password in it"),
        ("http:///a", "http:///a: is no address"),
        ("http://[::1/a", "an address that cannot be read: is no address"),
        ("http://a:99999/b", "http://a:99999/b: is no address"),
        ("http://no-such-host.invalid/a", "the host no-such-host.invalid is not found"),
        (f"http://{'a' * 300}.org/", "is no name of a host"),
    ],
)
def test_an_address_that_is_none_is_told(server, address, said):
    with pytest.raises(BadSample) as refused:
        UrlImage(address).read()
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_spaces_and_accents_in_an_address_are_escaped(server):
    assert read(server, "/ä b/7.png?a=ö ü") == png(7)
    assert [*server.requests] == ["/%C3%A4%20b/7.png"]


def test_another_image_at_an_address_is_told(server, tmp_path):
    one = UrlImage(f"{server.at}/7.png", private=True)
    keys = short_keys([one], "image")
    for path in (tmp_path / "cache" / "files").rglob("*"):
        if path.is_file():
            path.unlink()
    assert one.read() == png(7)  # the same again
    for path in (tmp_path / "cache" / "files").rglob("*"):
        if path.is_file():
            path.unlink()
    server.answers["/7.png"] = lambda request, _: answer(request, body=png(8))
    assert "is another image than when it was first fetched; to take it, set CONTRASTIVE_CACHE" in (
        refusal(server, "/7.png")
    )
    assert short_keys([one], "image") == keys


def test_https_needs_a_certificate_that_is_trusted(server, tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = "openssl req -x509 -nodes -days 2 -subj /CN=localhost -newkey ec -pkeyopt"
    made += " ec_paramgen_curve:prime256v1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*made.split(), "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure = Server(context)
    try:
        assert "its certificate is not trusted: self" in refusal(secure, "/1.png")
        trusting = ssl.create_default_context(cafile=certificate)
        monkeypatch.setattr(guarded_http, "_context", lambda: trusting)
        assert read(secure, "/2.png") == png(2)
    finally:
        secure.stop()


def test_a_saved_spec_may_not_ask_private_addresses_unless_it_is_trusted(tmp_path):
    spec = {
        "format": 1,
        "model": tiny_model("infonce"),
        "data": {"type": "image-folder", "folder": "web", "private": True},
    }
    (tmp_path / "run.json").write_text(json.dumps(spec))
    said = r"data.private: only your own spec may say so; if this one is yours, add --trusted"
    with pytest.raises(SpecError, match=said):
        load_spec(RunSpec, tmp_path / "run.json", trusted=False)
    assert load_spec(RunSpec, tmp_path / "run.json", trusted=True).data.private


def test_one_column_says_where_the_images_are():
    with pytest.raises(SpecError, match="image_column and url_column both say where the images"):
        ImageFolder(folder="web", image_column="image", url_column="url")
    with pytest.raises(SpecError, match="image_column and url_column both say where the images"):
        Table(files="web", image_column="image", url_column="url")
