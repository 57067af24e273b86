"""What is fetched by address: from public addresses alone, within bounds, told if it is not."""

import socket
import ssl
import subprocess
import time

import pytest

from contrastive.data import url_images
from contrastive.data.storage import guarded_http
from contrastive.data.storage.guarded_http import is_public
from contrastive.data.url_images import UrlImage
from contrastive.errors import BadSample
from tests.web_server import Server, answer, image, png, read, refusal


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(guarded_http, "RETRY_AFTER", (0.0, 0.0))
    url_images._failed.clear()
    server = Server()
    yield server
    server.stop()


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
    "no address": (
        lambda r, _: answer(r, 302, Location="http://[/"),
        "leads to an address that cannot be read: is no address",
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
        ("64:ff9b:1::a00:1", False),
        ("::10.0.0.1", False),
        ("::ffff:0:a00:1", False),
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
