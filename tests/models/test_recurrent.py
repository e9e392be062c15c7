"""Models whose state cannot be cut: reuse only where the state was taken, answers as from a fresh server."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Client

pytestmark = pytest.mark.model

LONG = "the llama and one image of the world, " * 4


@pytest.fixture(scope="module", params=["mamba", "jamba", "mamba-unified", "jamba-unified"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(
    name: str, models: Models, serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    kind, _, unified = name.partition("-")
    layout = "--kv-unified" if unified else "--no-kv-unified"
    saved = tmp_path_factory.mktemp("slots")
    with serve(getattr(models, kind)(), "-c", "1024", "-np", "2", "-cb", "--slot-save-path", saved, layout) as client:
        yield client


@pytest.fixture(autouse=True)
def empty_slots(client: Client) -> None:
    for slot in (0, 1):
        client.post(f"/slots/{slot}?action=erase")


def alone(client: Client, prompt: str, **fields: Any) -> str:
    """The answer without any cache."""
    return str(client.complete(prompt, cache_prompt=False, **fields)["content"])


def test_same_prompt_again_starts_over(client: Client) -> None:
    first = client.complete(LONG, id_slot=0)
    again = client.complete(LONG, id_slot=0)
    assert again["content"] == first["content"] == alone(client, LONG)
    assert again["tokens_cached"] == 0


def test_conversation_goes_on_where_the_state_is(client: Client) -> None:
    tokens = client.post("/tokenize", content=LONG, add_special=True)["tokens"]
    first = client.complete(tokens, id_slot=0, return_tokens=True, ignore_eos=True)
    more = [*tokens, *first["tokens"], 300, 301, 302, 303]
    reused = client.complete(more, id_slot=0)
    assert reused["tokens_cached"] == len(tokens) + len(first["tokens"]) - 1
    assert reused["content"] == alone(client, more)


def test_several_turns(client: Client) -> None:
    history = client.post("/tokenize", content=LONG, add_special=True)["tokens"]
    for turn in range(4):
        answer = client.complete(history, return_tokens=True, ignore_eos=True, id_slot=0)
        assert answer["content"] == alone(client, history, ignore_eos=True, id_slot=1)
        assert (answer["tokens_cached"] > 0) == (turn > 0)
        history = [*history, *answer["tokens"], 310 + turn, 320 + turn]


def test_shorter_and_other_prompts_are_evaluated_anew(client: Client) -> None:
    client.complete(LONG + "and more", id_slot=0)
    for prompt in (LONG, LONG[:40], LONG + "and less", "something else"):
        answer = client.complete(prompt, id_slot=0)
        assert answer["tokens_cached"] == 0
        assert answer["content"] == alone(client, prompt)


def test_state_goes_to_the_slot_that_is_asked_for(client: Client) -> None:
    tokens = client.post("/tokenize", content=LONG, add_special=True)["tokens"]
    first = client.complete(tokens, id_slot=0, return_tokens=True, ignore_eos=True)
    more = [*tokens, *first["tokens"], 300, 301]
    elsewhere = client.complete(more, id_slot=1)
    assert elsewhere["content"] == alone(client, more)


def test_requests_together(client: Client, name: str) -> None:
    """In a unified cache the neighbours change the last bits of the logits: only the first tokens are sure."""
    length = 4 if name == "jamba-unified" else 24
    prompts = [f"{number} {LONG}" for number in range(8)]
    wanted = [alone(client, prompt, n_predict=length) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda prompt: client.complete(prompt, n_predict=length)["content"], prompts * 2))
    assert got == wanted * 2


def test_full_slot(client: Client) -> None:
    """The context shifts: more tokens than the slot holds. The state still knows the dropped ones: no cache."""
    prompt = client.post("/tokenize", content="one two", add_special=True)["tokens"]
    answer = client.complete(prompt, n_predict=1500, ignore_eos=True, id_slot=0, return_tokens=True)
    assert answer["truncated"]
    assert answer["tokens_predicted"] >= 1500  # an unfinished character may follow
    assert client.slots()[0]["n_past"] == 0


def test_save_erase_restore(client: Client) -> None:
    tokens = client.post("/tokenize", content=LONG, add_special=True)["tokens"]
    first = client.complete(tokens, id_slot=0, return_tokens=True, ignore_eos=True)
    more = [*tokens, *first["tokens"], 300, 301]
    saved = client.post("/slots/0?action=save", filename="state.bin")
    assert saved["n_saved"] == len(tokens) + len(first["tokens"]) - 1
    assert client.post("/slots/0?action=erase")["n_erased"] == saved["n_saved"]
    assert client.post("/slots/1?action=restore", filename="state.bin")["n_restored"] == saved["n_saved"]
    answer = client.complete(more, id_slot=1)
    assert answer["tokens_cached"] == saved["n_saved"]
    assert answer["content"] == alone(client, more)


def test_saved_state_of_another_model_is_refused(
    client: Client, models: Models, serve: Callable[..., Any], tmp_path: Path
) -> None:
    with serve(models.gemma2(), "--slot-save-path", tmp_path) as other:
        other.complete(LONG)
        other.post("/slots/0?action=save", filename="other.bin")
        data = (tmp_path / "other.bin").read_bytes()
    with serve(models.mamba(), "--slot-save-path", tmp_path) as mamba:
        (tmp_path / "other.bin").write_bytes(data)
        assert mamba.error("/slots/0?action=restore", {"filename": "other.bin"})["param"] == "filename"
        assert mamba.complete(LONG)["tokens_predicted"] >= 8


def test_client_that_goes_away_leaves_no_half_state(client: Client) -> None:
    wanted = alone(client, LONG * 3, n_predict=24)
    for _ in range(5):
        with client.http.stream(
            "POST", "/completion", json={"prompt": LONG * 3, "n_predict": 500, "stream": True}
        ) as r:
            next(r.iter_lines())
        until(lambda: not any(slot["is_processing"] for slot in client.slots()), "the slots are free")
        assert client.complete(LONG * 3, n_predict=24)["content"] == wanted


def test_system_prompt_is_evaluated_for_everybody(client: Client) -> None:
    body = {"prompt": "one", "n_predict": 4, "temperature": 0, "system_prompt": {"prompt": "the llama "}}
    with_system = client.post("/completion", body)
    again = client.complete("one", n_predict=4)
    client.post("/completion", {"prompt": "x", "n_predict": 1, "system_prompt": {"prompt": ""}})
    assert again["content"] == with_system["content"]
    assert again["tokens_evaluated"] > client.complete("one", n_predict=4)["tokens_evaluated"]
