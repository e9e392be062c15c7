"""The document's examples, as they stand there but for the address."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.paths import model_path
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

pytestmark = pytest.mark.model
ADDRESS = "http://localhost:8080"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of a server that bounds answers: the examples do not."""
    with ServerProcess("-m", str(model_path()), "-c", "512", "-n", "32") as process:
        yield Client(process.url)


def bash(script: str, url: str) -> Any:
    done = subprocess.run(
        ["bash", "-c", script.replace(ADDRESS, url)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_curl_completion(client: Client) -> None:
    answer = bash(
        """curl --request POST \\
    --url http://localhost:8080/completion \\
    --header "Content-Type: application/json" \\
    --data '{"prompt": "Building a website can be done in 10 simple steps:","n_predict": 128}'""",
        client.url,
    )
    assert answer["content"]
    assert 0 < answer["tokens_predicted"] <= 128


def test_openai_client(client: Client) -> None:
    api = openai.OpenAI(base_url=f"{client.url}/v1", api_key="sk-no-key-required")
    completion = api.chat.completions.create(
        model="gpt-3.5-turbo",
        messages=[
            {
                "role": "system",
                "content": "You are ChatGPT, an AI assistant. Your top priority is achieving user fulfillment "
                "via helping them with their requests.",
            },
            {"role": "user", "content": "Write a limerick about python exceptions"},
        ],
    )
    assert completion.choices[0].message.content


def test_curl_chat(client: Client) -> None:
    answer = bash(
        """curl http://localhost:8080/v1/chat/completions \\
-H "Content-Type: application/json" \\
-H "Authorization: Bearer no-key" \\
-d '{
"model": "gpt-3.5-turbo",
"messages": [
{
    "role": "system",
    "content": "You are ChatGPT, an AI assistant. Your top priority is achieving user fulfillment via helping them."
},
{
    "role": "user",
    "content": "Write a limerick about python exceptions"
}
]
}'""",
        client.url,
    )
    assert answer["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def embedding() -> Iterator[str]:
    with ServerProcess("-m", str(model_path()), "--embedding", "--pooling", "mean") as process:
        yield process.url


@pytest.mark.parametrize(("given", "count"), [('"hello"', 1), ('["hello", "world"]', 2)])
def test_curl_embeddings(embedding: str, given: str, count: int) -> None:
    script = """curl http://localhost:8080/v1/embeddings \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer no-key" \\
  -d '{
          "input": INPUT,
          "model":"GPT-4",
          "encoding_format": "float"
  }'"""
    answer = bash(script.replace("INPUT", given), embedding)
    assert [len(item["embedding"]) for item in answer["data"]] == [576] * count
