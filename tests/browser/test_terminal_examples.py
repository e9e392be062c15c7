"""What the document runs in a terminal: its node snippet, chat.mjs and chat.sh."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.server.client import Client

from .conftest import KEY

pytestmark = [pytest.mark.browser, pytest.mark.model]

SNIPPET = Path(__file__).with_name("data") / "index.js"  # the document's, byte for byte
EXAMPLES = Path(__file__).parents[2] / "examples"
CHATS = [("node", "chat.mjs"), ("bash", "chat.sh")]
FRANCE, ITALY, PERU = "What is the capital of France?", "And of Italy?", "¿Y de Perú? 😀"


def terminal(*command, text="", **env):
    """Run a program with input; returns its output and errors."""
    return subprocess.run(
        command, input=text, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_documents_snippet(server, client, tmp_path):
    script = tmp_path / "index.js"
    script.write_text(SNIPPET.read_text().replace("http://127.0.0.1:8080", server.url))
    done = terminal("node", str(script))
    assert done.returncode == 0, done.stderr
    slot = client.slots()[0]
    assert slot["prompt"] == "Building a website can be done in 10 simple steps:"
    assert slot["n_predict"] == 512
    assert slot["next_token"]["n_decoded"] > 0
    assert len(done.stdout.strip()) > 1
    assert done.stdout.strip() != "undefined"


@pytest.mark.parametrize(("program", "name"), CHATS)
def test_a_chat_of_two_turns(server, client, program, name):
    # What the slot held before shares at most the instruction with this chat.
    client.complete("Something else entirely.")
    done = terminal(program, str(EXAMPLES / name), server.url, text=f"{FRANCE}\n{ITALY}\n")
    assert done.returncode == 0, done.stderr
    slot = client.slots()[0]
    before, _, rest = slot["prompt"].partition(f"### Human: {FRANCE}\n### Assistant:")
    answer, _, after = rest.partition(f"\n### Human: {ITALY}\n### Assistant:")
    assert answer
    assert after == ""
    assert answer in done.stdout
    assert done.stdout.replace(answer, "").replace(">", "").split()  # the second answer is there, too
    assert "### Human" not in done.stdout
    first_turn = len(client.post("/tokenize", content=before + f"### Human: {FRANCE}\n### Assistant:")["tokens"])
    assert slot["n_prompt_tokens_cache"] >= first_turn  # only what is new was evaluated
    assert slot["n_keep"] == len(client.post("/tokenize", content=before)["tokens"])
    assert slot["stream"] is True


@pytest.mark.parametrize(("program", "name"), CHATS)
def test_address_and_key_by_environment(keyed_server, program, name):
    done = terminal(program, str(EXAMPLES / name), text=f"{PERU}\n\n", API_URL=keyed_server.url, API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert Client(keyed_server.url, KEY).slots()[0]["prompt"].endswith(f"### Human: {PERU}\n### Assistant:")


@pytest.mark.parametrize(("program", "name"), CHATS)
def test_a_wrong_key_is_reported(keyed_server, program, name):
    done = terminal(program, str(EXAMPLES / name), keyed_server.url, text=f"{FRANCE}\n", API_KEY="wrong")
    assert done.returncode == 1
    assert done.stderr.strip() == f"{name}: Invalid API Key"


@pytest.mark.parametrize(("program", "name"), CHATS)
def test_a_server_that_is_not_there_is_reported(program, name, unused_tcp_port):
    done = terminal(program, str(EXAMPLES / name), f"http://127.0.0.1:{unused_tcp_port}", text=f"{FRANCE}\n")
    assert done.returncode != 0
    assert str(unused_tcp_port) in done.stderr
