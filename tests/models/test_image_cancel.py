"""A client that goes away while its image is encoded: the encode ends early and nobody else is hurt."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from llamaserver.interfaces.backend import Status
from llamaserver.llama.backend import LlamaBackend

from tests.support.engine.options import load_options
from tests.support.images import base64_of, png
from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Client

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def client(models: Models, serve: Callable[..., Any]) -> Iterator[Client]:
    with serve(models.llama(), "--mmproj", models.slow_projector(), "-c", "4096", "-np", "2", "-cb") as client:
        yield client


def body(picture: bytes, **fields: Any) -> dict[str, Any]:
    data = [{"data": base64_of(picture), "id": 1}]
    return {"prompt": "the llama [img-1] is", "image_data": data, "n_predict": 4, "temperature": 0, **fields}


def send_and_hold(client: Client, content: dict[str, Any]) -> socket.socket:
    """POST without waiting for an answer."""
    url = urlsplit(client.url)
    data = orjson.dumps(content)
    connection = socket.create_connection((url.hostname, url.port))
    connection.sendall(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return connection


def test_slot_is_free_and_the_picture_still_right(client: Client) -> None:
    before = client.metric("llamacpp:prompt_tokens_total")
    for _ in range(3):
        connection = send_and_hold(client, body(png(1), id_slot=0))
        until(lambda: client.slots()[0]["is_processing"], "the request has a slot")
        connection.close()
        until(lambda: not client.slots()[0]["is_processing"], "the slot is free")
        assert client.slots()[0]["n_past"] < 100  # nothing of the image
    assert client.metric("llamacpp:prompt_tokens_total") == before
    first = client.post("/completion", body(png(1), id_slot=0))
    alone = client.post("/completion", body(png(1), id_slot=1, cache_prompt=False))
    assert first["content"] == alone["content"]
    assert first["timings"]["prompt_n"] > 1000


def test_neighbour_keeps_its_answer(client: Client) -> None:
    wanted = client.complete("one two the world", n_predict=64, ignore_eos=True, id_slot=1, cache_prompt=False)
    got: list[Any] = []
    neighbour = threading.Thread(
        target=lambda: got.append(
            client.complete("one two the world", n_predict=64, ignore_eos=True, id_slot=1, cache_prompt=False)
        )
    )
    connection = send_and_hold(client, body(png(3), id_slot=0))
    until(lambda: client.slots()[0]["is_processing"], "the image has a slot")
    neighbour.start()
    connection.close()
    neighbour.join()
    assert got[0]["content"] == wanted["content"]


def test_encode_ends_early(models: Models) -> None:
    options = load_options(models.llama(), mmproj=str(models.slow_projector()), ctx_size=2048)
    backend = LlamaBackend(options, lambda _: True)
    projector = backend._projector
    assert projector is not None
    try:
        (media,) = projector.build([png(1), "x"], add_special=False).media
        assert backend.decode_media(media, 0, 0) is Status.OK
        whole = projector._looks
        backend.seq_rm(0, 0)

        def abort() -> None:
            until(lambda: projector._looks > whole + whole // 10, "the second encode runs")
            backend.abort(True)

        thread = threading.Thread(target=abort)
        thread.start()
        assert backend.decode_media(media, 0, 0) is Status.ABORTED
        thread.join()
        assert projector._looks - whole < whole * 0.9
        assert backend.pos_max(0) == -1
    finally:
        backend.close()
