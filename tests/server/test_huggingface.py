"""Hugging Face repositories, from a local mirror: which file, which URL, whose token."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from llamaserver.errors import ModelLoadError
from llamaserver.models import download, http_client, huggingface

from tests.support.gguf_bytes import whole

FILES = [
    "README.md",
    "big-Q6_K-00001-of-00002.gguf",
    "big-Q6_K-00002-of-00002.gguf",
    "mmproj-model-f16.gguf",
    "model-BF16.gguf",
    "model-F16.gguf",
    "model-IQ4_XS.gguf",
    "model-Q4_K_M.gguf",
    "model-Q4_K_S.gguf",
    "model-Q8_0.gguf",
]


class Hub:
    """The two endpoints that matter; a redirect sends files to another origin."""

    def __init__(self):
        self.files, self.seen, self.failures, self.elsewhere = FILES, [], 0, ""

    async def listing(self, request):
        self.seen.append((request.raw_path, request.headers.get("Authorization")))
        if self.failures:
            self.failures -= 1
            return web.Response(status=503)
        return web.json_response({"siblings": [{"rfilename": name} for name in self.files]})

    async def resolve(self, request):
        self.seen.append((request.raw_path, request.headers.get("Authorization")))
        if self.elsewhere:
            raise web.HTTPFound(self.elsewhere)
        return web.Response(body=whole(b"model"))


def application(hub):
    app = web.Application()
    app.router.add_get("/api/models/{repo:.*}", hub.listing)
    app.router.add_get("/{rest:.*}", hub.resolve)
    return app


@pytest.fixture
async def hub(monkeypatch):
    monkeypatch.setattr(http_client, "_FIRST_DELAY", 0.0)
    hub = Hub()
    async with TestServer(application(hub)) as server:
        hub.environ = {"HF_ENDPOINT": str(server.make_url("/")), "HF_TOKEN": "hf_secret"}
        yield hub


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        ("", "model-Q4_K_M.gguf"),
        ("Q4_K_M", "model-Q4_K_M.gguf"),
        ("q8_0", "model-Q8_0.gguf"),
        ("Q4_K_S", "model-Q4_K_S.gguf"),
        ("F16", "model-F16.gguf"),
        ("BF16", "model-BF16.gguf"),
        ("IQ4_XS", "model-IQ4_XS.gguf"),
        ("Q6_K", "big-Q6_K-00001-of-00002.gguf"),
    ],
)
async def test_the_file_of_a_quantization(hub, quant, file):
    assert await huggingface.choose_file("who/what", quant, "main", hub.environ) == file
    assert hub.seen == [("/api/models/who/what/revision/main", "Bearer hf_secret")]


@pytest.mark.parametrize("quant", ["Q4_K", "Q2_K", "16", "Q4_XS"])
async def test_a_quantization_that_is_not_there(hub, quant):
    with pytest.raises(ModelLoadError, match=rf"who/what has no GGUF file for '{quant}'; it has .*model-Q8_0\.gguf"):
        await huggingface.choose_file("who/what", quant, "main", hub.environ)


async def test_without_the_usual_quantization_the_first_file(hub):
    hub.files = ["b-Q8_0.gguf", "a-Q5_0.gguf", "mmproj-a.gguf"]
    assert await huggingface.choose_file("who/what", "", "main", hub.environ) == "a-Q5_0.gguf"


async def test_a_repository_without_models(hub):
    hub.files = ["README.md"]
    with pytest.raises(ModelLoadError, match="none at all"):
        await huggingface.choose_file("who/what", "", "main", hub.environ)


async def test_the_listing_is_tried_again(hub):
    hub.failures = 2
    assert await huggingface.choose_file("who/what", "", "main", hub.environ) == "model-Q4_K_M.gguf"


async def test_a_hub_that_is_down_is_a_clear_error(hub):
    hub.failures = 100
    told = "/api/models/who/what/revision/main: the server answered 503 Service Unavailable, 6 times"
    with pytest.raises(ModelLoadError, match=f"cannot download http://[^ ]*{told}"):
        await huggingface.choose_file("who/what", "", "main", hub.environ)


async def test_a_repository_that_is_not_there(hub, monkeypatch):
    hub.environ["HF_ENDPOINT"] += "no"
    hub.listing = hub.resolve
    with pytest.raises(ModelLoadError, match="did not answer with JSON"):
        await huggingface.choose_file("who/what", "", "main", hub.environ)


async def test_a_listing_has_a_bound(hub):
    hub.files = ["x" * 1_000_000] * 20
    with pytest.raises(ModelLoadError, match="answered with more than 16 MiB"):
        await huggingface.choose_file("who/what", "", "main", hub.environ)


async def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub, tmp_path):
    other = Hub()
    async with TestServer(application(other)) as server:
        hub.elsewhere = str(server.make_url("/cdn/blob"))
        source = huggingface.source("who/what", "model.gguf", "main", hub.environ)
        await download.fetch(source, tmp_path / "model.gguf", lambda *_: None)
    assert hub.seen == [("/who/what/resolve/main/model.gguf", "Bearer hf_secret")]
    assert other.seen == [("/cdn/blob", None)]


def test_urls():
    def url(file, revision="main", **environ):
        return huggingface.source("who/what", file, revision, environ).url

    assert url("m.gguf") == "https://huggingface.co/who/what/resolve/main/m.gguf"
    assert url("m.gguf", HF_ENDPOINT="http://mirror/") == "http://mirror/who/what/resolve/main/m.gguf"
    assert url("m.gguf", HF_ENDPOINT="") == "https://huggingface.co/who/what/resolve/main/m.gguf"
    assert url("Q8 0/a#b?.gguf", "refs/pr/1").endswith("/who/what/resolve/refs%2Fpr%2F1/Q8%200/a%23b%3F.gguf")


def test_no_token_no_header():
    assert huggingface.source("who/what", "m.gguf", "main", {}).headers == ()
    assert huggingface.source("who/what", "m.gguf", "main", {"HF_TOKEN": ""}).headers == ()
