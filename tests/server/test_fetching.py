"""What is fetched by address, and what is not: nothing of this machine or its network, however it is written."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from server.fetching import Fetcher, is_public
from server.problems import ApiError

PRIVATE = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # where clouds keep their secrets
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1%eth0",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:db8::1",
]


def test_what_is_on_the_open_internet_is_told_from_what_is_not():
    assert [address for address in PRIVATE if is_public(address)] == []
    assert is_public("93.184.215.14") and is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x.png",
        "http://localhost:8000/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://anna:secret@example.com/",
        "http:///x.png",
        "http://example.com:99999/",
        "http://[bad/",
        "ftp://example.com/x.png",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_x",
    ],
)
def test_an_address_inside_is_refused_before_anything_is_sent(url, monkeypatch):
    def never(*arguments, **more):
        raise AssertionError("something was sent")

    monkeypatch.setattr("socket.create_connection", never)
    with pytest.raises(ApiError, match="was not fetched, as .*: send the file itself") as raised:
        Fetcher(1000).fetch(url)
    assert raised.value.status == 400


class Site(BaseHTTPRequestHandler):
    """A site with a picture, a redirect to it, one inwards, one for ever, and one without end."""

    def do_GET(self):
        size = int(self.path.removeprefix("/size/")) if self.path.startswith("/size/") else 5
        to = {"/moved": "/a%20b.png", "/inwards": "http://inside/secret", "/again": "/again"}.get(self.path)
        self.send_response(302 if to else 404 if self.path == "/none" else 200)
        if to:
            self.send_header("Location", to)
        self.end_headers()
        if not to:
            self.wfile.write(b"x" * size)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://outside:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


# On this machine everything is inside: a name stands for being outside, and another for being inside.
OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"


def fetcher(names=None) -> Fetcher:
    known = {"outside": [OUTSIDE], "inside": [INSIDE], "both": [OUTSIDE, INSIDE]}
    return Fetcher(1000, lambda name, port: (names or known)[name], lambda address: address == OUTSIDE)


def test_a_file_outside_is_fetched_also_behind_a_redirect(site):
    assert fetcher().fetch(f"{site}/picture.png").name == "picture.png"
    moved = fetcher().fetch(f"{site}/moved")
    assert (moved.name, moved.content) == ("a b.png", b"xxxxx")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/inwards", "not on the open internet"),
        ("/again", "sent on more than 3 times"),
        ("/size/1001", "larger than"),
        ("/none", "answered 404"),
    ],
)
def test_a_redirect_inwards_or_without_end_and_a_file_too_large_are_refused(site, path, why):
    with pytest.raises(ApiError, match=why):
        fetcher().fetch(site + path)


def test_a_name_with_one_address_inside_is_refused_and_a_name_that_changes_gains_nothing(site):
    with pytest.raises(ApiError, match="not on the open internet"):
        fetcher().fetch(site.replace("outside", "both"))
    asked = []

    def once(name, port):
        asked.append(name)
        return [OUTSIDE] if len(asked) == 1 else [INSIDE]

    changing = Fetcher(1000, once, lambda address: address == OUTSIDE)
    assert changing.fetch(f"{site}/picture.png").content == b"xxxxx"
    assert asked == ["outside"]
