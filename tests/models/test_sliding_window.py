"""A model with sliding-window layers: prefixes are reused, and answers stay those of a fresh server."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.models import SWA_WINDOW, Models
from tests.support.server.client import Client

pytestmark = pytest.mark.model

LONG = "the llama and one image of the world, " * 6


@pytest.fixture(scope="module", params=["--no-kv-unified", "--kv-unified"])
def client(
    request: pytest.FixtureRequest, models: Models, serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    saved = tmp_path_factory.mktemp("slots")
    with serve(
        models.gemma2(), "-c", "1024", "-np", "2", "-cb", "--slot-save-path", saved, "-fa", "off", request.param
    ) as client:
        yield client


@pytest.fixture(scope="module")
def fresh(models: Models, serve: Callable[..., Any]) -> Iterator[Client]:
    """Another server, which never reuses anything."""
    with serve(models.gemma2(), "-c", "1024", "-np", "2", "-fa", "off") as client:
        yield client


@pytest.fixture(autouse=True)
def empty_slots(client: Client) -> None:
    for slot in (0, 1):
        client.post(f"/slots/{slot}?action=erase")


def wanted(fresh: Client, prompt: Any, **fields: Any) -> str:
    return str(fresh.complete(prompt, cache_prompt=False, **fields)["content"])


def count(client: Client, text: str) -> int:
    return len(client.post("/tokenize", content=text, add_special=True)["tokens"])


def test_prompt_is_longer_than_the_window(client: Client) -> None:
    assert count(client, LONG) > 3 * SWA_WINDOW


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_prefix_is_reused_wherever_it_ends(client: Client, fresh: Client, cut: float) -> None:
    """Back to a place that the window has long left."""
    client.complete(LONG, id_slot=0)
    prefix = LONG[: int(len(LONG) * cut)]
    answer = client.complete(prefix + "hello", id_slot=0)
    assert answer["tokens_cached"] >= count(client, prefix) - 3
    assert answer["content"] == wanted(fresh, prefix + "hello")


def test_conversation_goes_on(client: Client, fresh: Client) -> None:
    history = client.post("/tokenize", content=LONG, add_special=True)["tokens"]
    for turn in range(3):
        answer = client.complete(history, return_tokens=True, ignore_eos=True, id_slot=0)
        assert answer["content"] == wanted(fresh, history, ignore_eos=True)
        assert (answer["tokens_cached"] > SWA_WINDOW) == (turn > 0)
        history = [*history, *answer["tokens"], 310 + turn, 320 + turn]


def test_prefix_from_another_slot(client: Client, fresh: Client) -> None:
    client.complete(LONG + "one", id_slot=0)
    answer = client.complete(LONG + "two", id_slot=1)
    assert answer["tokens_cached"] >= count(client, LONG) - 2
    assert answer["content"] == wanted(fresh, LONG + "two")


def test_requests_together(client: Client, fresh: Client) -> None:
    prompts = [f"{LONG} {number}" for number in range(6)]
    answers = [wanted(fresh, prompt, n_predict=4) for prompt in prompts]
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda prompt: client.complete(prompt, n_predict=4)["content"], prompts * 2))
    assert got == answers * 2


def test_full_slot_shifts(client: Client) -> None:
    answer = client.complete("one two", n_predict=1500, ignore_eos=True)
    assert answer["truncated"]
    assert answer["tokens_predicted"] >= 1500


def test_save_erase_restore(client: Client, fresh: Client) -> None:
    client.complete(LONG, id_slot=0, n_predict=1)  # all that is saved is the prompt
    saved = client.post("/slots/0?action=save", filename="state.bin")
    client.post("/slots/0?action=erase")
    assert client.post("/slots/1?action=restore", filename="state.bin")["n_restored"] == saved["n_saved"]
    # The file has what the window sees from the end of the prompt: from there it goes on, not from before.
    tokens = client.post("/tokenize", content=LONG, add_special=True)["tokens"]
    longer = [*tokens, *client.post("/tokenize", content="hello again")["tokens"]]
    answer = client.complete(longer, id_slot=1)
    assert answer["tokens_cached"] == saved["n_saved"] == len(tokens)
    assert answer["content"] == wanted(fresh, longer)
