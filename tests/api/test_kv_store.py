"""The default model on a KV store: a chat goes on after a crash, without its prompt and with the same words."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.paths import model_path
from tests.support.polling import until
from tests.support.server import ServerProcess

pytestmark = pytest.mark.model
RULES = "You help sailors. " + " ".join(f"Rule {n}: a lighthouse number {n} stands on rock {n * 7}." for n in range(40))


@contextmanager
def serving(*options: object) -> Iterator[tuple[ServerProcess, Client]]:
    shape = ("-c", "4096", "-np", "2", "-cb", "--metrics", "-fa", "off")
    with ServerProcess("-m", str(model_path()), *shape, *map(str, options)) as server:
        yield server, Client(server.url)


def chat(client: Client, *said: str) -> Any:
    """System prompt, then user and assistant in turns."""
    roles = ["system", *(("user", "assistant")[i % 2] for i in range(len(said)))]
    messages = [{"role": role, "content": text} for role, text in zip(roles, (RULES, *said), strict=True)]
    return client.post("/v1/chat/completions", messages=messages, max_tokens=24, temperature=0)


def text(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_a_chat_goes_on_after_a_crash_with_the_same_words(tmp_path: Path) -> None:
    question, again = "Where is lighthouse 7?", "And number 9?"
    with serving() as (_, client):
        first = chat(client, question)
        wanted = chat(client, question, text(first), again)
        assert first["usage"]["prompt_tokens"] > 600
    with serving("--kv-store", tmp_path) as (server, client):
        assert text(chat(client, question)) == text(first)
        until(lambda: client.metric("llamaserver:kv_saves_total") >= 1, "the answer is saved")
        server.stop(signal.SIGKILL)
    with serving("--kv-store", tmp_path) as (_, client):
        second = chat(client, question, text(first), again)
        assert text(second) == text(wanted)
        assert second["timings"]["prompt_n"] == wanted["timings"]["prompt_n"] < 40
        assert second["timings"]["cache_source"] == "disk"
        cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached == second["timings"]["cache_n"] > 600
        assert client.metric('llamaserver:kv_restored_tokens_total{tier="disk"}') == cached
        # Another chat begins with the same rules: they come from the slot now.
        other = chat(client, "Is rock 70 safe?")
        assert other["timings"]["cache_n"] > 550


def test_manual_slot_files_work_beside_the_store(tmp_path: Path) -> None:
    folder, slots = tmp_path / "kv", tmp_path / "slots"
    with serving("--kv-store", folder, "--slot-save-path", slots) as (_, client):
        client.complete("Once upon a time", id_slot=0)
        saved = client.post("/slots/0?action=save", filename="one.bin")
        client.post("/slots/0?action=erase")
        assert client.post("/slots/1?action=restore", filename="one.bin")["n_restored"] == saved["n_saved"]
