"""Several addresses, names and tags of one server, with a real process."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from llamaserver import options
from llamaserver.api.origins import Origins
from llamaserver.config import Config
from llamaserver.errors import ConfigError, Forbidden

from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(Models(tmp_path_factory.mktemp("models")).llama())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="module")
def server(model: str, folder: Path) -> Iterator[ServerProcess]:
    """A server that others can replace on its port."""
    arguments = ("--alias", "small, tiny", "--tags", "toy,test", "--reuse-port", "--sse-ping-interval", "1")
    limits = (
        "--cors-origins",
        ORIGIN,
        "--cors-methods",
        "GET,POST",
        "--cors-headers",
        "X-One",
        "--no-cors-credentials",
    )
    host = f"127.0.0.1,127.0.0.2,{folder}/a.sock"
    with ServerProcess("-m", model, "-c", "256", *arguments, *limits, "--no-cors-credentials", host=host) as process:
        yield process


def test_each_address_answers(server: ServerProcess, folder: Path) -> None:
    for address in ("127.0.0.1", "127.0.0.2"):
        assert httpx2.get(f"http://{address}:{server.port}/health").status_code == 200
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=f"{folder}/a.sock")) as http:
        assert http.get("http://localhost/v1/models").status_code == 200


def test_another_process_can_have_the_same_port(server: ServerProcess, model: str) -> None:
    arguments = ("-m", model, "-c", "256", "--alias", "other", "--reuse-port")
    with ServerProcess(*arguments, port=server.port, wait=False):

        def answers() -> set[str]:
            told = [httpx2.get(f"{server.url}/v1/models").json() for _ in range(16)]
            return {answer["data"][0]["id"] for answer in told if "data" in answer}

        until(lambda: answers() == {"small", "other"}, "both processes answer")


def test_a_model_with_several_names(server: ServerProcess) -> None:
    api: Any = openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)
    entry = api.models.list().data[0]
    assert (entry.id, entry.aliases, entry.tags) == ("small", ["small", "tiny"], ["toy", "test"])
    for name in ("small", "tiny"):
        assert api.models.retrieve(name).id == "small"
        answer = api.chat.completions.create(model=name, messages=[{"role": "user", "content": "a"}], max_tokens=1)
        assert answer.model == "small"
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("large")
    assert Client(server.url).get("/props")["model_alias"] == "small"


def test_what_pages_of_other_origins_may_do(server: ServerProcess) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "X-Two"}
    head = httpx2.options(f"{server.url}/completion", headers=asked).headers
    assert head["Access-Control-Allow-Origin"] == ORIGIN
    assert (head["Access-Control-Allow-Methods"], head["Access-Control-Allow-Headers"]) == ("GET, POST", "X-One")
    assert "Access-Control-Allow-Credentials" not in head
    assert httpx2.get(f"{server.url}/health", headers={"Origin": "https://other.example"}).status_code == 403


def test_localhost_and_any_origin() -> None:
    local = Origins(Config(allowed_origins=("localhost",), host="0.0.0.0"), keyless=False)
    local.check(["x"], ["http://localhost:3000"])
    with pytest.raises(Forbidden):
        local.check(["x"], [ORIGIN])
    Origins(Config(allowed_origins=("*",)), keyless=True).check(["localhost"], [ORIGIN])


@pytest.mark.parametrize(
    ("host", "private"),
    [("127.0.0.1,::1", True), ("127.0.0.1,/run/a.sock", True), ("127.0.0.1,10.0.0.1", False), ("/run/a.sock", False)],
)
def test_a_server_is_private_if_all_its_addresses_are(host: str, private: bool) -> None:
    origins = Origins(Config(host=host), keyless=True)
    if private:
        with pytest.raises(Forbidden):
            origins.check(["localhost"], [ORIGIN])
    else:
        origins.check(["localhost"], [ORIGIN])


def parse(*argv: str) -> Config:
    return options.parse(["-m", "m", *argv], {})


def test_options_of_addresses_and_pages() -> None:
    assert parse("--host", "127.0.0.1, ::1").hosts == ("127.0.0.1", "::1")
    assert parse("--host", "").hosts == ("",)
    assert parse("-a", "a, b,").aliases == ("a", "b")
    assert parse("-a", "").aliases == ()
    assert parse("--sse-ping-interval", "-1").sse_ping_interval == -1
    assert parse("--cors-headers", "*").cors_headers == ()
    assert parse("--cors-origins", "localhost").allowed_origins == ("localhost",)
    with pytest.raises(ConfigError, match="an address is empty"):
        parse("--host", "127.0.0.1,")


def test_an_address_in_use_is_named(model: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with ServerProcess("-m", model, host="127.0.0.1,127.0.0.2", port=port, wait=False) as server:
            assert server.process is not None
            assert server.process.wait(60) == 2
            assert f"cannot listen on 127.0.0.2:{port}" in server.log
