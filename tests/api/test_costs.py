"""No request may cost more than it seems: products of allowed values, on a real server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

pytestmark = pytest.mark.model
MIB = 1 << 20


class Peak:
    """The most memory that a process holds inside the block, compared with what it held before."""

    def __init__(self, process: ServerProcess) -> None:
        self._folder = Path(f"/proc/{process.pid}")
        self.grown = 0

    def _read(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

    def __enter__(self) -> "Peak":
        (self._folder / "clear_refs").write_text("5")  # the peak begins anew (proc(5))
        self._before = self._read("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.grown = self._read("VmHWM") - self._before


def stop_strings(count: int, length: int) -> list[str]:
    return [f"{number:04}" + "x" * (length - 4) for number in range(count)]


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "stops": ("/completion", {"prompt": ["a"] * 256, "stop": stop_strings(256, 4096)}, "x 256 prompts is more than"),
    "choices": ("/v1/completions", {"prompt": "a", "n": 128, "stop": stop_strings(4, 1000)}, "x 128 choices is more"),
    "grammar": ("/completion", {"prompt": ["a"] * 256, "grammar": 'root ::= "a" # ' + "x" * 5000}, "x 256 prompts"),
    "schema": ("/completion", {"prompt": ["a"] * 256, "json_schema": {"enum": ["x" * 5000]}}, "x 256 prompts"),
    "biases": ("/completion", {"prompt": ["a"] * 256, "logit_bias": [[i, 1] for i in range(9999)]}, "x 256 prompts"),
    "probabilities": ("/completion", {"prompt": ["a"] * 256, "n_probs": 1024, "stream": True}, "x 256 prompts"),
    "penalty prompt": ("/completion", {"prompt": ["a"] * 256, "penalty_prompt": [5] * 9999}, "x 256 prompts"),
    "selection": ("/completion", {"prompt": ["a"] * 256, "response_fields": ["a/" * 5000]}, "x 256 prompts"),
    "echo": ("/v1/completions", {"prompt": ["a b " * 400] * 2, "n": 64, "echo": True, "stop": "x" * 9999}, "x 64 ch"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_product_over_its_bound_is_refused_before_any_work(server: ServerProcess, client: Client, name: str) -> None:
    path, body, reason = REFUSED[name]
    with Peak(server) as peak:
        assert reason in client.error(path, body)["message"]
    assert peak.grown < 100 * MIB


ALLOWED: dict[str, Callable[[], dict[str, Any]]] = {
    "stops": lambda: {"prompt": ["a"] * 256, "stop": stop_strings(16, 14)},
    "grammar": lambda: {"prompt": ["a"] * 128, "grammar": 'root ::= [ab]{0,2000} [abc]{0,2000} "x"'},
}


@pytest.mark.parametrize("name", ALLOWED)
def test_a_large_batch_within_its_bounds_takes_little_memory(server: ServerProcess, client: Client, name: str) -> None:
    with Peak(server) as peak:
        results = client.post("/completion", {"n_predict": 0, **ALLOWED[name]()})
    assert len(results) in (128, 256)
    assert peak.grown < 50 * MIB


def test_large_grammars_that_wait_are_bounded(server: ServerProcess, client: Client) -> None:
    """Each of these has 7,000 items and more states, in a text of 60 bytes."""
    grammar = 'root ::= [ab]{{0,2000}} [abc]{{0,2000}} "x" "{}"'
    with Peak(server) as peak, httpx2.Client(base_url=server.url, timeout=60) as http:
        for number in range(40):
            body = {"prompt": "a", "n_predict": 1, "grammar": grammar.format(number)}
            assert http.post("/completion", json=body).status_code == 200
    assert peak.grown < 100 * MIB


SLOW: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "special tokens": ("/completion", lambda: {"prompt": "<|im_start|>" * 116_000, "n_predict": 0}),
    "special tokens in short": ("/tokenize", lambda: {"content": "<|im_start|>" * 80_000}),
    "a schema of many parts": (
        "/completion",
        lambda: {"prompt": "a", "json_schema": {"allOf": [{"properties": {f"p{i}": {}}} for i in range(3900)]}},
    ),
    "a large schema": (
        "/completion",
        lambda: {"prompt": "a", "json_schema": {"allOf": [{"properties": {f"{i:05}" * 9: {}}} for i in range(99_999)]}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_a_body_that_took_minutes_is_answered_soon(client: Client, name: str) -> None:
    path, body = SLOW[name]
    answer = client.http.post(path, json=body(), timeout=20)
    assert answer.status_code == (200 if path == "/tokenize" else 400), answer.text
