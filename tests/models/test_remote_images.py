"""Images that requests name by URLs: a real server has them, and the hosts of --image-hosts may be asked."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from llamaserver.api import remote_images
from llamaserver.api.body_bytes import BodyBytes
from llamaserver.api.image_hosts import ImageHosts
from llamaserver.api.remote_images import MAX_BYTES, MAX_URLS, RemoteImages, put_images
from llamaserver.errors import ConfigError, InvalidRequest
from llamaserver.options.reading import parse
from yarl import URL

from tests.support.images import data_url, png
from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Abandoned, Client
from tests.support.server.wire import Wire, silence

CAT = png(1)


class Pictures(ThreadingHTTPServer):
    """The server with pictures. `asked` are the paths of its requests, `left` those whose client went away."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.left: list[str] = []
        self.ended = threading.Event()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: Pictures

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.startswith("/to?"):
            self._answer(302, place=self.path[4:])
        elif self.path == "/slow":
            self._wait()
        else:
            bodies = {"/cat.png": CAT, "/text": b"no picture", "/large": bytes(MAX_BYTES + 1)}
            body = bodies.get(self.path)
            self._answer(404 if body is None else 200, body or b"")

    def _answer(self, status: int, body: bytes = b"", place: str = "") -> None:
        self.send_response(status)
        if place:
            self.send_header("Location", place)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            self.server.left.append(self.path)

    def _wait(self) -> None:
        self.connection.settimeout(0.1)
        while not self.server.ended.is_set():
            try:
                if not self.connection.recv(1):
                    self.server.left.append(self.path)
                    return
            except TimeoutError:
                continue

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def pictures() -> Iterator[Pictures]:
    with Pictures() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()


@pytest.fixture(scope="module")
def client(models: Models, pictures: Pictures, serve: Callable[..., Any]) -> Iterator[Client]:
    named = f"127.0.0.1:{pictures.server_port},other.example"
    with serve(models.llama(), "--mmproj", models.projector(), "-c", "4096", "--image-hosts", named) as client:
        yield client


def chat(*urls: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "see "}, *({"type": "image_url", "image_url": url} for url in urls)]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0}


@pytest.mark.model
def test_a_url_answers_as_the_picture_itself_does(client: Client, pictures: Pictures) -> None:
    url, data = pictures.url("/cat.png"), data_url(CAT)
    wanted = client.post("/v1/chat/completions", chat({"url": data}))
    for one in (url, {"url": url}, {"url": pictures.url(f"/to?{url}")}, pictures.url("/to?/cat.png")):
        found = client.post("/v1/chat/completions", chat(one))
        assert found["choices"] == wanted["choices"]
        assert found["usage"]["prompt_tokens"] == wanted["usage"]["prompt_tokens"]
    before = len(pictures.asked)
    client.post("/v1/chat/completions", chat(url, {"url": url}, data))
    assert len(pictures.asked) == before + 1, "one URL is fetched once"


@pytest.mark.model
def test_every_dialect_takes_urls(client: Client, pictures: Pictures) -> None:
    def responses(url: str) -> Any:
        content = [{"type": "input_image", "image_url": url}]
        body = {"input": [{"role": "user", "content": content}], "max_output_tokens": 4, "temperature": 0}
        return client.post("/v1/responses", body)["usage"]["input_tokens"]

    def anthropic(source: dict[str, Any]) -> Any:
        result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image", "source": source}]}
        call = {"type": "tool_use", "id": "a", "name": "look", "input": {"image_url": "http://not.fetched/"}}
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [call]}]
        body = {"messages": [*turns, {"role": "user", "content": [result]}]}
        return client.post("/v1/messages/count_tokens", body)["input_tokens"]

    assert responses(pictures.url("/cat.png")) == responses(data_url(CAT))
    base64 = {"type": "base64", "media_type": "image/png", "data": data_url(CAT).partition(",")[2]}
    assert anthropic({"type": "url", "url": pictures.url("/cat.png")}) == anthropic(base64)


@pytest.mark.model
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.com/cat.png", "images may not come from 'example.com' (--image-hosts)"),
        ("http://127.0.0.1/cat.png", "images may not come from '127.0.0.1' (--image-hosts)"),
        ("http://127.0.0.1:{port}@example.com/", "must be an HTTP URL without a user"),
        ("http://127.0.0.1:{port}/to?http://example.com/cat.png", "images may not come from 'example.com'"),
        ("http://127.0.0.1:{port}/to?http://localhost:{port}/cat.png", "images may not come from 'localhost:{port}'"),
        ("http://127.0.0.1:{port}/to?file:///etc/passwd", "must be an HTTP URL"),
        ("http://127.0.0.1:{port}/missing", "127.0.0.1 answered 404"),
        ("http://127.0.0.1:{port}/large", "the image has more than 10485760 bytes"),
        ("http://127.0.0.1:{port}/text", "image 1: not one of"),
        ("http://[", "Invalid IPv6 URL"),
    ],
)
def test_others_are_refused(client: Client, pictures: Pictures, url: str, says: str) -> None:
    one = url.replace("{port}", str(pictures.server_port))
    error = client.error("/v1/chat/completions", chat({"url": one}))
    assert says.replace("{port}", str(pictures.server_port)) in error["message"]
    assert error["param"].startswith("messages")


@pytest.mark.model
def test_endless_redirects_and_too_many_urls_are_refused(client: Client, pictures: Pictures) -> None:
    loop = pictures.url("/to?") + "/to?" * 4 + "/cat.png"
    assert "redirects more than 3 times" in client.error("/v1/chat/completions", chat(loop))["message"]
    many = [pictures.url(f"/{number}") for number in range(MAX_URLS + 1)]
    error = client.error("/v1/chat/completions", chat(*many))
    assert (
        error["message"]
        == f"Field 'messages[0].content[{MAX_URLS + 1}].image_url': at most 16 images of a request can have URLs"
    )


def test_one_image_in_many_places_has_the_bound_of_a_body() -> None:
    parts = [{"type": "image_url", "image_url": "http://example.com/"} for _ in range(11)]
    images = {"http://example.com/": bytes(100)}
    with pytest.raises(InvalidRequest, match="more bytes than a body may have"):
        put_images({"messages": parts}, images, most=1099)
    fresh = [dict(part, image_url="http://example.com/") for part in parts]
    put_images({"messages": fresh}, images, most=1100)
    assert all(part["image_url"].startswith("data:") for part in fresh)


@pytest.mark.model
def test_a_fetch_ends_when_the_client_leaves(client: Client, pictures: Pictures) -> None:
    with Abandoned(client, chat(pictures.url("/slow")), "/v1/chat/completions"):
        until(lambda: "/slow" in pictures.asked, "the picture is asked for")
    until(lambda: "/slow" in pictures.left, "nobody waits for the picture")


# ---- without a server


def fetch(hosts: list[str], url: str) -> bytes:
    async def one() -> bytes:
        hold = BodyBytes(1 << 30, 1 << 30).hold("client")
        images = await RemoteImages(ImageHosts(hosts)).fetch({url: "messages"}, "client", hold)
        return images[url]

    return asyncio.run(one())


def test_a_name_may_not_lead_to_an_address_that_is_not_public(pictures: Pictures) -> None:
    url, name = pictures.url("/cat.png", "localhost"), f"localhost:{pictures.server_port}"
    with pytest.raises(InvalidRequest, match="not a public address, and --image-hosts does not name it"):
        fetch([name], url)
    assert fetch([name, "127.0.0.0/8", "::1"], url) == CAT


def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_images, "_SECONDS", 0.1)

    async def ask() -> None:
        async with Wire(silence(b"HTTP/1.1 200 OK\r\n\r\nGIF89a")) as wire:
            hold = BodyBytes(1 << 30, 1 << 30).hold("client")
            images = RemoteImages(ImageHosts([f"127.0.0.1:{wire.port}"]))
            with pytest.raises(InvalidRequest, match="no whole image came"):
                await images.fetch({f"http://127.0.0.1:{wire.port}/": "messages"}, "client", hold)
            wire.left.set()

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("entry", "url", "allowed"),
    [
        ("example.com", "http://example.com/a", True),
        ("example.com", "https://EXAMPLE.com:443/a", True),
        ("example.com", "http://example.com:443/a", False),
        ("example.com", "http://a.example.com/", False),
        ("example.com", "ftp://example.com/", False),
        ("example.com:8080", "http://example.com:8080/", True),
        ("example.com:8080", "http://example.com/", False),
        ("example.com:80", "http://example.com/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://10.1.2.3:81/", False),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("::1", "http://[::1]/", True),
        ("[::1]:8080", "http://[::1]:8080/", True),
    ],
)
def test_what_an_entry_allows(entry: str, url: str, allowed: bool) -> None:
    hosts = ImageHosts([entry])
    if allowed:
        hosts.check(URL(url))
    else:
        with pytest.raises(InvalidRequest):
            hosts.check(URL(url))


@pytest.mark.parametrize("entry", ["http://example.com", "example.com/a", "user@example.com", "a b", "*"])
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match="image-hosts"):
        parse(["-m", "x.gguf", "--image-hosts", entry], {})
