"""The default model on a KV store: a chat goes on after a crash, without its prompt and with the same words."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.paths import model_path
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

DOCUMENT = Path(__file__).parents[2] / "docs/reference/metrics.md"
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


def story(number: int) -> str:
    return f"Story {number}. " + f"The captain of ship {number} looked at the lighthouse, and the light went out. " * 6


def samples(client: Client) -> dict[str, float]:
    """Every sample of the store, by its name without the prefix and by its label."""
    families = text_string_to_metric_families(client.http.get("/metrics").text)
    found = {
        ":".join([sample.name.removeprefix("llamaserver:"), *sample.labels.values()]): float(sample.value)
        for family in families
        for sample in family.samples
    }
    return {name: value for name, value in found.items() if name.startswith("kv_")}


def test_every_metric_of_the_store_says_what_happened(tmp_path: Path) -> None:
    options = ("--kv-store", tmp_path, "--cache-ram", "100", "--kv-store-min-tokens", "64", "-np", "1")
    with serving(*options) as (_, client):
        first = client.complete(story(1))
        until(lambda: client.metric("llamaserver:kv_saves_total") == 1, "it is saved")
        known = samples(client)
        assert known["kv_store_entries"] == known["kv_ram_entries"] > 1
        assert known["kv_store_bytes"] == known["kv_written_bytes_total"] > known["kv_ram_bytes"] > 100_000
        assert known["kv_save_seconds_total"] > 0
        assert (known["kv_lookups_total"], known["kv_misses_total:ram"], known["kv_misses_total:disk"]) == (1, 1, 1)
        unused = ("restores_total", "restore_seconds_total", "read_bytes_total", "hits_total:ram", "hits_total:disk")
        assert [known[f"kv_{name}"] for name in unused] == [0] * 5
        assert known["kv_restored_tokens_total:ram"] == known["kv_restored_tokens_total:disk"] == 0
    with serving(*options) as (_, client):
        assert client.complete(story(1))["content"] == first["content"]
        client.complete(story(2))
        client.complete(story(1))
        client.complete("Once")  # too short to ask
        client.complete("Story 1. The captain of ship 1 looked at the lighthouse, and the light went out. Then")
        until(lambda: client.metric("llamaserver:kv_lookups_total") == 3, "all are counted")
        seen = samples(client)
        assert [seen[f"kv_hits_total:{tier}"] for tier in ("disk", "ram")] == [1, 1]
        assert [seen[f"kv_misses_total:{tier}"] for tier in ("disk", "ram")] == [1, 1]
        assert seen["kv_restored_tokens_total:disk"] == seen["kv_restored_tokens_total:ram"] > 64
        assert seen["kv_restores_total"] == 2
        assert seen["kv_restore_seconds_total"] > 0
        assert seen["kv_read_bytes_total"] > 100_000
        documented = set(re.findall(r"^\| `((?:llamacpp|llamaserver):\w+)", DOCUMENT.read_text(), re.M))
        shown = text_string_to_metric_families(client.http.get("/metrics").text)
        assert documented == {f.name + "_total" * (f.type == "counter") for f in shown}
