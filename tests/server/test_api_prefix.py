"""A server whose paths have a prefix, with a real process."""

from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest
from llamaserver import options
from llamaserver.errors import ConfigError

from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.process import ServerProcess, free_port


@pytest.fixture(scope="module")
def management() -> int:
    return free_port()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, management: int) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    model = str(Models(folder).llama())
    Path(folder, "own.txt").write_text("own")
    ports = ("--management-host", "127.0.0.1", "--management-port", str(management))
    arguments = ("--api-prefix", "/llm/a", "--metrics", "--api-key", "k", "--path", str(folder), *ports)
    with ServerProcess("-m", model, "-c", "256", *arguments, wait=False) as server:
        base = f"{server.url}/llm/a"

        def is_ready() -> bool:
            try:
                return httpx2.get(f"{base}/health").status_code == 200
            except httpx2.TransportError:
                return False

        until(is_ready, "the server is ready", deadline=120)
        yield base


def test_clients_have_the_prefix_in_their_address(base: str) -> None:
    api = openai.OpenAI(base_url=f"{base}/v1", api_key="k", max_retries=0)
    messages = [{"role": "user", "content": "a"}]
    assert api.chat.completions.create(model="m", messages=messages, max_tokens=1).choices  # type: ignore[call-overload]
    assert api.models.retrieve(api.models.list().data[0].id)
    other = anthropic.Anthropic(base_url=base, api_key="k", max_retries=0)
    assert other.messages.create(model="m", messages=messages, max_tokens=1).content  # type: ignore[arg-type]
    with pytest.raises(anthropic.AuthenticationError) as caught:
        anthropic.Anthropic(base_url=base, api_key="wrong", max_retries=0).messages.count_tokens(
            model="m",
            messages=messages,  # type: ignore[arg-type]
        )
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "authentication_error", "message": "Invalid API Key"},
        "request_id": caught.value.response.headers["X-Request-Id"],
    }


def test_pages_and_metrics_have_it_too(base: str) -> None:
    assert httpx2.get(f"{base}/metrics", headers={"X-Api-Key": "k"}).status_code == 200
    assert httpx2.get(f"{base}/metrics").status_code == 401
    described = httpx2.get(f"{base}/openapi.json", headers={"X-Api-Key": "k"}).json()
    assert described["servers"] == [{"url": "/llm/a"}]
    page = httpx2.get(base, follow_redirects=True)
    assert (page.status_code, str(page.url)) == (200, f"{base}/")
    assert 'src="index.js"' in page.text
    for file in ("index.js", "completion.js", "own.txt"):
        assert httpx2.get(f"{base}/{file}").status_code == 200


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/", "/index.js", "/llm/health", "/llm/ab/health"])
def test_nothing_is_served_without_it(base: str, path: str) -> None:
    answer = httpx2.get(base.removesuffix("/llm/a") + path, headers={"X-Api-Key": "k"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")


def test_probes_have_none(base: str, management: int) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/status"):
        assert httpx2.get(f"http://127.0.0.1:{management}{path}").status_code == 200


@pytest.mark.parametrize("prefix", ["llm", "/", "/llm/", "/a//b", "/{a}", "/a?b"])
def test_what_is_no_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="--api-prefix"):
        options.parse(["-m", "m", "--api-prefix", prefix], {})
