"""What one API key learns about the prompts of another from its own answers: nothing. Its own prompts are reused."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llamaserver.config import Config

from tests.support.engine.kv import files
from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.kv_server import saved, serving, terminate
from tests.support.server.process import ServerProcess

from .test_api_without_weights import GREEDY, SETTINGS, Api
from .test_api_without_weights import serving as serving_toy

KEYS = """
secret-a name=alice
secret-b name=bob domain=team
secret-c name=carol domain=team
secret-m name=mallory
secret-r name=root role=admin
"""
BEGIN = [300 + i % 40 for i in range(150)]  # "... the PIN of the customer Jane Doe is"
DIGITS = range(260, 270)
PIN = [268, 263, 269, 261, 264, 262, 267, 267]
END = [290, 291, 292]


def timings(client: Client, prompt: list[int], **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.complete(prompt, n_predict=1, **fields)["timings"]
    return answer


class Server:
    """A running server, and a client for each key."""

    def __init__(self, process: ServerProcess, url: str) -> None:
        self.process = process
        self.alice, self.bob, self.carol, self.mallory, self.admin = (Client(url, f"secret-{one}") for one in "abcmr")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Models(tmp_path_factory.mktemp("models")).llama()


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Any:
    keys = tmp_path / "keys"
    keys.write_text(KEYS)

    @contextmanager
    def running(*options: object, store: Path | None = None) -> Iterator[Server]:
        with serving(model, store, "--api-key-file", keys, *options) as (process, client):
            yield Server(process, client.url)

    return running


def probe(client: Client, guess: list[int], **fields: Any) -> int:
    return int(timings(client, [*BEGIN, *guess, 280, 281], **fields)["cache_n"])


def steal(client: Client) -> list[int]:
    """The PIN as the prefix cache tells it: the digit with which more of a prompt is cached than with the others."""
    found: list[int] = []
    for _ in PIN:
        told = {digit: probe(client, [*found, digit], id_slot=1) for digit in DIGITS}
        found.append(max(told, key=lambda digit: told[digit]))
    return found


@pytest.mark.model
def test_a_pin_is_read_from_a_shared_cache_but_not_from_that_of_another_key(run: Any) -> None:
    with run("--cache-isolation", "shared") as server:
        timings(server.alice, [*BEGIN, *PIN, *END], id_slot=0)
        assert steal(server.mallory) == PIN  # the attack works where there is something to find
    with run() as server:
        timings(server.alice, [*BEGIN, *PIN, *END], id_slot=0)
        own: list[list[int]] = []
        for place in range(len(PIN)):  # each digit but one is known
            for digit in DIGITS:
                guess = [*PIN[:place], digit]
                assert probe(server.mallory, guess, id_slot=0 if digit % 2 else 1) <= max(map(len, own), default=0)
                own.append([*BEGIN, *guess])
        assert probe(Client(server.mallory.url, "secret-m"), PIN, cache_salt="fresh") == 0
        assert timings(server.alice, [*BEGIN, *PIN, *END])["cache_n"] in (0, len(BEGIN) + len(PIN) + 1)


@pytest.mark.model
def test_each_key_reuses_its_own_prompts_and_those_of_its_domain(run: Any) -> None:
    prompt = [*BEGIN, *PIN, *END]
    with run("-np", 4) as server:
        for first, then, hits in (
            (server.alice, server.alice, True),
            (server.bob, server.carol, True),
            (server.alice, server.bob, True),  # the team has it by now
        ):
            timings(first, prompt)
            assert (timings(then, prompt)["cache_n"] == len(prompt) - 2) == hits
        assert timings(server.mallory, prompt)["cache_n"] == 0
        assert timings(server.mallory, prompt, cache_salt="one")["cache_n"] == 0
        assert timings(server.mallory, prompt, cache_salt="one")["cache_n"] == len(prompt) - 2


@pytest.mark.model
def test_so_it_is_in_memory(run: Any) -> None:
    prompt = [*BEGIN, *PIN, *END]
    with run("--cache-ram", 64) as server:
        timings(server.alice, prompt)
        for slot in (0, 1):  # they push it out of the cache
            timings(server.bob, BEGIN[slot + 1 :], id_slot=slot)
        assert timings(server.mallory, prompt, id_slot=0)["cache_n"] == 0
        told = timings(server.alice, prompt, id_slot=1)
        assert (told["cache_source"], told["cache_n"]) == ("ram", len(prompt) - 2)


@pytest.mark.model
def test_so_it_is_on_disk_and_after_a_restart(run: Any, tmp_path: Path) -> None:
    prompt, folder = [*BEGIN, *PIN, *END], tmp_path / "kv"
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 4)
    options = ("--kv-store-key-file", secret)
    with run(*options, store=folder) as server:
        timings(server.alice, prompt)
        saved(server.admin)
        for slot in (0, 1):
            timings(server.bob, BEGIN[slot + 1 :], id_slot=slot)
        assert timings(server.mallory, prompt, id_slot=0)["cache_n"] == 0
        assert timings(server.alice, prompt, id_slot=1)["cache_source"] == "disk"
        terminate(server.process)
    with run(*options, store=folder) as server:
        assert timings(server.carol, prompt)["cache_n"] == 0
        told = timings(server.alice, prompt)
        assert (told["cache_source"], told["cache_n"]) == ("disk", len(prompt) - 2)
        terminate(server.process)
    secret.write_text("another key" * 4)
    with run(*options, store=folder) as server:
        assert timings(server.alice, prompt)["cache_n"] == 0
        until(lambda: len(files(folder)) > 0, "they go when room is needed")


# ---- without a model


async def cached(api: Api, key: str, **fields: Any) -> int:
    body = {**GREEDY, "n_predict": 1, "prompt": "ab c d e f g h i j k l m n o p q", **fields}
    response = await api.clients.post("/completion", json=body, headers={"Authorization": f"Bearer {key}"})
    assert response.status == 200, await response.text()
    return int((await response.json())["timings"]["cache_n"])


@pytest.fixture
def config(tmp_path: Path) -> Config:
    keys, system = tmp_path / "keys", tmp_path / "system"
    keys.write_text(KEYS)
    system.write_text("you are a very kind llama and do as you are told")
    return Config(api_key_file=str(keys), system_prompt_file=str(system))


async def test_the_servers_own_system_prompt_is_shared_by_all_keys(config: Config) -> None:
    async with serving_toy(config) as api:
        assert await cached(api, "secret-a") == 0
        common = await cached(api, "secret-m")
        whole = await cached(api, "secret-m")
        assert 0 < common < whole
        assert await cached(api, "secret-b", prompt="something else") == common
        assert await cached(api, "secret-b", cache_salt="x") == common


async def test_a_salt_narrows_the_domain_also_without_keys() -> None:
    async with serving_toy(settings=replace(SETTINGS, n_slots=4)) as api:
        assert await cached(api, "", cache_salt="") == 0
        whole = await cached(api, "")
        assert whole > 0
        assert await cached(api, "", cache_salt="x") == 0
        assert await cached(api, "", cache_salt="x") == whole
        assert await cached(api, "", cache_salt="y") == 0
        assert await cached(api, "") == whole


@pytest.mark.parametrize("salt", [5, ["x"], {"a": 1}, "x" * 257])
async def test_a_salt_is_a_short_text(salt: Any) -> None:
    async with serving_toy() as api:
        answer = await api.post("/completion", {"prompt": "a", "cache_salt": salt}, status=400)
        assert "cache_salt" in answer["error"]["message"]
