"""LoRA adapters: loading with a scale, listing, setting, per request, and what the cache makes of it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.models import Models
from tests.support.paths import model_path
from tests.support.server.client import Client

pytestmark = pytest.mark.model

PROMPT = "hello world, the llama and one image of the user"


@pytest.fixture(scope="module", params=["--no-kv-unified", "--kv-unified"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(layout: str, models: Models, serve: Callable[..., Any]) -> Iterator[Client]:
    adapters = ["--lora", models.lora(7), "--lora-scaled", f"{models.lora(8)}:0.5"]
    with serve(models.llama(), *adapters, "-c", "1024", "-np", "2", "-cb", layout) as client:
        yield client


@pytest.fixture(autouse=True)
def start_scales(client: Client) -> None:
    client.post("/lora-adapters", [{"id": 0, "scale": 1.0}, {"id": 1, "scale": 0.5}])
    for slot in (0, 1):
        client.complete("x", n_predict=0, id_slot=slot, cache_prompt=False)


def sure(layout: str) -> int:
    """Tokens that must not differ: in a unified cache the neighbours change the last bits of the logits."""
    return 24 if layout == "--no-kv-unified" else 4


def lora(first: float, second: float) -> list[dict[str, Any]]:
    return [{"id": 0, "scale": first}, {"id": 1, "scale": second}]


def test_list(client: Client, models: Models) -> None:
    assert client.get("/lora-adapters") == [
        {"id": 0, "path": str(models.lora(7)), "scale": 1.0},
        {"id": 1, "path": str(models.lora(8)), "scale": 0.5},
    ]


def test_set_changes_the_list_and_the_answers(client: Client) -> None:
    before = client.complete(PROMPT)["content"]
    assert client.post("/lora-adapters", lora(0.25, 0)) == {"success": True}
    assert [item["scale"] for item in client.get("/lora-adapters")] == [0.25, 0]
    after = client.complete(PROMPT)["content"]
    assert after != before
    assert client.complete(PROMPT, lora=lora(0.25, 0), cache_prompt=False)["content"] == after
    client.post("/lora-adapters", lora(1, 0.5))
    assert client.complete(PROMPT)["content"] == before


def test_adapters_not_named_are_off(client: Client) -> None:
    client.post("/lora-adapters", [{"id": 1, "scale": 2}])
    assert [item["scale"] for item in client.get("/lora-adapters")] == [0, 2]
    one = client.complete(PROMPT, lora=[{"id": 1, "scale": 2}], cache_prompt=False)["content"]
    assert client.complete(PROMPT, cache_prompt=False)["content"] == one
    client.post("/lora-adapters", [])
    assert [item["scale"] for item in client.get("/lora-adapters")] == [0, 0]


def test_scales_of_a_request_change_its_answer_only(client: Client) -> None:
    plain = client.complete(PROMPT)["content"]
    answers = [client.complete(PROMPT, lora=lora(*scales))["content"] for scales in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert len({*answers, plain}) == 5
    assert client.complete(PROMPT)["content"] == plain


def test_scale_zero_is_the_bare_model(client: Client, layout: str, models: Models, serve: Callable[..., Any]) -> None:
    with serve(models.llama(), "-c", "1024", "-np", "2", layout) as bare:
        wanted = bare.complete(PROMPT, n_predict=sure(layout))["content"]
    assert client.complete(PROMPT, n_predict=sure(layout), lora=lora(0, 0))["content"] == wanted


def test_prompt_under_another_scale_is_not_reused(client: Client) -> None:
    first = client.complete(PROMPT, lora=lora(1, 1), id_slot=0)
    again = client.complete(PROMPT, lora=lora(1, 1), id_slot=0)
    other = client.complete(PROMPT, lora=lora(1, 0.75), id_slot=0)
    assert again["timings"]["prompt_n"] <= 2
    assert other["tokens_cached"] == 0
    assert other["timings"]["prompt_n"] == first["tokens_evaluated"]
    assert other["content"] == client.complete(PROMPT, lora=lora(1, 0.75), cache_prompt=False)["content"]


def test_scales_together(client: Client, layout: str) -> None:
    """Requests under different scales at once: each answer is the one it gets alone."""
    scales = [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5), (-1, 0)] * 3
    fields = {"n_predict": sure(layout), "ignore_eos": True}
    alone = [client.complete(PROMPT, lora=lora(*pair), cache_prompt=False, **fields)["content"] for pair in scales]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda pair: client.complete(PROMPT, lora=lora(*pair), **fields)["content"], scales))
    assert together == alone


@pytest.mark.parametrize(
    "body",
    [
        {"id": 0, "scale": 1},
        [1],
        [{"scale": 1}],
        [{"id": 2, "scale": 1}],
        [{"id": -1, "scale": 1}],
        [{"id": 0.5, "scale": 1}],
        [{"id": 0, "scale": "much"}],
        [{"id": 0, "scale": 1e30}],
        [{"id": True, "scale": 1}],
        [None],
        "x",
        b"",
        b"[{",
        b"\xff\xfe",
        b"[" * 5000,
    ],
)
def test_bad_bodies_change_nothing(client: Client, body: Any) -> None:
    client.error("/lora-adapters", body)
    assert [item["scale"] for item in client.get("/lora-adapters")] == [1.0, 0.5]


@pytest.mark.parametrize(
    "value", ["x", {"id": 0}, [1], [{"scale": 1}], [{"id": 2}], [{"id": -1}], [{"id": 0, "scale": None}, "a"]]
)
def test_bad_scales_in_a_request(client: Client, value: Any) -> None:
    assert client.error("/completion", {"prompt": "a", "lora": value})["param"] in ("lora", "id", "scale")


def test_scales_in_chat(client: Client) -> None:
    def ask(**fields: Any) -> str:
        body = {"messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "max_tokens": 12, **fields}
        return str(client.post("/v1/chat/completions", body)["choices"][0]["message"]["content"])

    assert ask() != ask(lora=lora(0, 0))


def test_server_without_adapters(models: Models, serve: Callable[..., Any]) -> None:
    with serve(models.llama()) as bare:
        assert bare.get("/lora-adapters") == []
        assert bare.post("/lora-adapters", []) == {"success": True}
        assert "adapter" in bare.error("/lora-adapters", [{"id": 0, "scale": 1}])["message"]
        assert "adapter" in bare.error("/completion", {"prompt": "a", "lora": [{"id": 0, "scale": 1}]})["message"]


def test_real_model(models: Models, serve: Callable[..., Any]) -> None:
    adapter = models.lora_for(model_path())
    with serve(model_path(), "--lora-scaled", f"{adapter}:0", "-c", "512") as client:
        bare = client.complete("The capital of France is")
        assert "Paris" in bare["content"]
        bent = client.complete("The capital of France is", lora=[{"id": 0, "scale": 4}])
        assert bent["content"] != bare["content"]
        assert bent["tokens_cached"] == 0
        assert client.complete("The capital of France is")["content"] == bare["content"]
