"""Embedding servers keep nothing in host memory: no prompt of theirs would begin from it."""

from pathlib import Path

import pytest

from tests.support.engine.kv import files
from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess, free_port

pytestmark = pytest.mark.model
MEMORY = ("--cache-ram", "64", "--kv-store-min-tokens", "0")
SHAPE = ("-t", "1", "-c", "512", "-np", "1", "--metrics")
TEXTS = [f"the llama and one image of the world {number}" for number in range(3)]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_cache_ram_is_off_for_embeddings(tmp_path: Path, kind: str) -> None:
    port = str(free_port())
    management = ("--management-port", port, "--management-host", "127.0.0.1")
    model = getattr(Models(tmp_path), kind)()
    with ServerProcess("-m", str(model), *SHAPE, *MEMORY, *management, "--embedding") as server:
        client = Client(server.url)
        first = [client.post("/embedding", content=text)["embedding"] for text in TEXTS]
        assert [client.post("/embedding", content=text)["embedding"] for text in TEXTS] == first
        client.get("/kv-store", status=501)
        assert "llamaserver:kv_" not in client.http.get("/metrics").text
        assert "kv_store" not in Client(f"http://127.0.0.1:{port}").get("/status")


def test_the_same_model_without_embeddings_has_it(tmp_path: Path) -> None:
    with ServerProcess("-m", str(Models(tmp_path).llama()), *SHAPE, *MEMORY) as server:
        client = Client(server.url)
        for text in TEXTS:
            client.complete(text * 3, n_predict=1)
        until(lambda: client.metric("llamaserver:kv_ram_bytes") > 0, "what left the slot is kept")


def test_completions_of_an_embedding_server_are_kept_on_disk_only(tmp_path: Path) -> None:
    model, folder = Models(tmp_path).llama(), tmp_path / "kv"
    with ServerProcess("-m", str(model), *SHAPE, *MEMORY, "--embedding", "--kv-store", str(folder)) as server:
        client = Client(server.url)
        client.post("/embedding", content=TEXTS[0])
        assert files(folder) == []
        client.complete(TEXTS[1] * 3, n_predict=1)
        until(lambda: client.metric("llamaserver:kv_saves_total") == 1, "the answer is saved")
        assert client.metric("llamaserver:kv_ram_bytes") == 0
        assert client.metric('llamaserver:kv_misses_total{tier="disk"}') == 1
        assert '{tier="ram"}' not in client.http.get("/metrics").text
