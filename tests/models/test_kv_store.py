"""Real servers on a KV store: restarts, crashes, neighbours and other models, proved by counting evaluated tokens."""

import json
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import httpx2
import numpy as np
import pytest

from tests.support.engine.kv import files, total
from tests.support.images import base64_of, png
from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Client, read_events
from tests.support.server.kv_server import LONG, conversation, saved, serving, terminate, turn
from tests.support.server.process import free_port

pytestmark = pytest.mark.model


# ---- going on


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mamba", "jamba", "qwen2vl"])
@pytest.mark.parametrize("mode", ["shutdown", "continuous"])
def test_a_conversation_continues_after_a_restart(models: Models, kind: str, mode: str, tmp_path: Path) -> None:
    model = getattr(models, kind)()
    with serving(model, None) as (_, client):
        history, _ = conversation(client)
        wanted = turn(client, history)  # as it goes on without a restart
    with serving(model, tmp_path, "--kv-store-mode", mode) as (server, client):
        conversation(client)
        terminate(server)
    with serving(model, tmp_path) as (_, client):
        answer = turn(client, history)
        assert answer["content"] == wanted["content"]
        timings = answer["timings"]
        assert timings["prompt_n"] == wanted["timings"]["prompt_n"] <= 5
        assert timings["cache_n"] == wanted["timings"]["cache_n"] > 100
        assert (timings["cache_source"], wanted["timings"]["cache_source"]) == ("disk", "slot")
        slot = next(slot for slot in client.slots() if slot["n_past"])
        assert (slot["cache_source"], slot["n_prompt_tokens_cache"]) == ("disk", timings["cache_n"])


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mamba", "jamba"])
def test_it_continues_in_a_unified_cache_too(models: Models, kind: str, tmp_path: Path) -> None:
    model = getattr(models, kind)()
    with serving(model, tmp_path, "--kv-unified") as (server, client):
        history, _ = conversation(client)
        terminate(server)
    with serving(model, tmp_path, "--kv-unified") as (_, client):
        timings = turn(client, history)["timings"]
        assert (timings["cache_source"], timings["prompt_n"] <= 5) == ("disk", True)


def test_another_layout_uses_the_same_store(models: Models, tmp_path: Path) -> None:
    with serving(models.llama(), tmp_path) as (server, client):
        history, _ = conversation(client)
        terminate(server)
    for options in (("-np", "4", "-c", "4096"), ("--kv-unified",), ("-np", "1", "-c", "512")):
        with serving(models.llama(), tmp_path, *options) as (_, client):
            assert turn(client, history)["timings"]["prompt_n"] <= 5


def test_two_servers_use_each_others_prefixes(models: Models, tmp_path: Path) -> None:
    with (
        serving(models.llama(), tmp_path) as (_, one),
        serving(models.llama(), tmp_path) as (_, other),
    ):
        history, _ = conversation(one)
        saved(one)
        answer = turn(other, history)
        assert answer["timings"]["cache_source"] == "disk"
        assert answer["timings"]["prompt_n"] <= 5
        assert answer["content"] == turn(one, history)["content"]


def test_two_servers_under_load_on_one_small_folder(models: Models, tmp_path: Path) -> None:
    """Both write, read and evict; every answer is that of a server without a store."""
    limit = 400_000
    with serving(models.llama(), None) as (_, client):
        prompts = [f"{number} {LONG}" for number in range(12)]
        wanted = [client.complete(prompt, n_predict=16)["content"] for prompt in prompts]
    failures: list[Any] = []
    bounds = ("--kv-store-max-bytes", str(limit))
    with serving(models.llama(), tmp_path, *bounds) as (_, one), serving(models.llama(), tmp_path, *bounds) as (_, two):

        def ask(client: Client, seed: int) -> None:
            order = random.Random(seed)
            for _ in range(40):
                number = order.randrange(len(prompts))
                got = Client(client.url).complete(prompts[number], n_predict=16)["content"]
                if got != wanted[number]:
                    failures.append((number, got))

        workers = [threading.Thread(target=ask, args=(client, i)) for i, client in enumerate((one, two, one, two))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(300)
        assert failures == []
        restored = [client.metric('llamaserver:kv_hits_total{tier="disk"}') for client in (one, two)]
        assert sum(restored) > 0
    assert total(tmp_path) <= 1.5 * limit


def test_memory_takes_what_leaves_the_slots(models: Models) -> None:
    with serving(models.llama(), None, "--cache-ram", "64") as (_, client):
        first = [client.complete(f"{number} {LONG}", n_predict=4)["content"] for number in range(5)]
        saved(client)
        again = client.complete(f"0 {LONG}", n_predict=4)
        assert again["content"] == first[0]
        assert again["timings"]["cache_source"] == "ram"
        assert again["timings"]["prompt_n"] == 2


# ---- misses


def test_another_adapter_scale_is_a_miss(models: Models, tmp_path: Path) -> None:
    options = ("--lora-scaled", f"{models.lora(7)}:0.5")
    with serving(models.llama(), tmp_path, *options) as (server, client):
        history, _ = conversation(client)
        terminate(server)
    with serving(models.llama(), tmp_path, *options) as (_, client):
        other = turn(client, history, lora=[{"id": 0, "scale": 0.25}])
        assert other["timings"]["cache_n"] == 0
        assert other["content"] == turn(client, history, lora=[{"id": 0, "scale": 0.25}], cache_prompt=False)["content"]
        assert turn(client, history)["timings"]["cache_source"] == "disk"
    with serving(models.llama(), tmp_path) as (_, client):
        assert turn(client, history)["timings"]["cache_n"] == 0
    with serving(models.llama(), tmp_path, "--lora-scaled", f"{models.lora(8)}:0.5") as (_, client):
        assert turn(client, history)["timings"]["cache_n"] == 0


def test_a_fine_tune_of_the_same_shape_is_a_miss(models: Models, tmp_path: Path) -> None:
    base = models.llama()
    tuned = tmp_path / base.name
    content = bytearray(base.read_bytes())
    tensor = next(t for t in gguf.GGUFReader(base).tensors if t.name == "blk.1.attn_v.weight")
    at = int(tensor.data_offset)
    weights = np.frombuffer(bytes(content[at : at + tensor.n_bytes]), tensor.data.dtype).copy()
    weights *= 1.5
    content[at : at + tensor.n_bytes] = weights.tobytes()
    tuned.write_bytes(content)
    store = tmp_path / "kv"
    with serving(base, store) as (server, client):
        history, said = conversation(client)
        terminate(server)
    with serving(tuned, store) as (_, client):
        assert turn(client, history)["timings"]["cache_n"] == 0
        assert conversation(client)[1] != said
    with serving(base, store) as (_, client):
        assert turn(client, history)["timings"]["cache_source"] == "disk"


@pytest.mark.parametrize("options", [("-ctk", "q8_0"), ("-fa", "on"), ("--rope-freq-base", "20000")])
def test_other_numbers_in_the_cache_are_a_miss(models: Models, options: tuple[str, ...], tmp_path: Path) -> None:
    with serving(models.llama(), tmp_path) as (server, client):
        history, _ = conversation(client)
        terminate(server)
    with serving(models.llama(), tmp_path, *options) as (_, client):
        assert turn(client, history)["timings"]["cache_n"] == 0


@pytest.mark.parametrize("kind", ["llama", "qwen2vl"])
def test_the_same_text_with_another_image_is_a_miss_from_there(models: Models, kind: str, tmp_path: Path) -> None:
    options = ("--mmproj", models.projector_of(kind))
    before = LONG[:200]

    def look(client: Client, picture: int, **fields: Any) -> Any:
        data = [{"data": base64_of(png(picture)), "id": 1}]
        return client.complete(f"{before}[img-1] what? {LONG[:100]}", image_data=data, **fields)

    model = getattr(models, kind)()
    with serving(model, None, *options) as (_, client):
        other = look(client, 2)["content"]
    with serving(model, tmp_path, *options) as (server, client):
        first = look(client, 1)
        text = len(client.post("/tokenize", content=before, add_special=True)["tokens"])
        terminate(server)
    with serving(model, tmp_path, *options) as (_, client):
        answer = look(client, 2)
        assert answer["content"] == other
        assert abs(answer["timings"]["cache_n"] - text) <= 2
        again = look(client, 1, id_slot=1)
        assert again["content"] == first["content"]
        if kind == "llama":
            assert again["timings"]["prompt_n"] == 2
        else:  # cells of an image share positions there: kept is what comes before it
            assert again["timings"]["cache_n"] >= text - 2


# ---- crashes and failures


def test_a_crash_loses_nothing_that_was_saved(models: Models, tmp_path: Path) -> None:
    with serving(models.llama(), tmp_path) as (server, client):
        history, _ = conversation(client)
        saved(client)
        server.stop(signal.SIGKILL)
    with serving(models.llama(), tmp_path) as (_, client):
        assert turn(client, history)["timings"]["prompt_n"] <= 5


def test_a_folder_that_cannot_be_written_is_no_error(models: Models, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with serving(models.llama(), tmp_path / "file" / "kv") as (server, client):
        history, _ = conversation(client)
        assert turn(client, history)["timings"]["cache_source"] == "slot"
        until(
            lambda: 'kv_discards_total{reason="io_error"}' in client.http.get("/metrics").text, "the trouble is counted"
        )
        until(lambda: "cannot" in server.log, "and told")


def test_damaged_files_never_change_an_answer(models: Models, tmp_path: Path) -> None:
    with serving(models.llama(), tmp_path) as (server, client):
        history, _ = conversation(client)
        wanted = turn(client, history)["content"]
        terminate(server)
    order = random.Random(5)
    for path in files(tmp_path)[1::2]:
        content = bytearray(path.read_bytes())
        content[order.randrange(len(content))] ^= 1 << order.randrange(8)
        path.write_bytes(content)
    with serving(models.llama(), tmp_path) as (_, client):
        answer = turn(client, history)
        assert answer["content"] == wanted
        assert answer["timings"]["cache_n"] == 64  # the first block is sound, the second is not


# ---- draining


def test_a_drain_saves_what_is_idle_while_a_stream_runs_and_the_stream_at_the_deadline(
    models: Models, tmp_path: Path
) -> None:
    roomy = ("-c", "65536")  # the stream must not shift: what follows a shift is not saved
    options = ("--kv-store-mode", "shutdown", "--drain-timeout", "6")
    with serving(models.llama(), tmp_path, *roomy, *options) as (server, client):
        history, _ = conversation(client)
        assert files(tmp_path) == []
        events: list[Any] = []
        started = threading.Event()

        def stream() -> None:
            body = {"prompt": f"stream {LONG}", "n_predict": -1, "ignore_eos": True, "stream": True, "temperature": 0}
            with httpx2.stream("POST", f"{server.url}/completion", json=body, timeout=60, trust_env=False) as answer:
                for event in read_events(answer.iter_lines()):
                    events.append(event)
                    started.set()

        reader = threading.Thread(target=stream)
        reader.start()
        assert started.wait(30)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        until(lambda: files(tmp_path), "the idle conversation is saved")
        count = len(events)
        until(lambda: len(events) > count, "the stream goes on")
        assert server.process.wait(30) == 0
        reader.join(30)
        error = events[-1]["error"]
        assert (error["code"], error["type"]) == (503, "unavailable_error")
        assert "not complete" in error["message"]
    with serving(models.llama(), tmp_path, *roomy) as (_, client):
        assert turn(client, history)["timings"]["prompt_n"] <= 5
        said = "".join(event.get("content", "") for event in events)
        went_on = client.complete(f"stream {LONG}{said}")
        assert went_on["timings"]["cache_source"] == "disk"
        assert went_on["timings"]["cache_n"] > len(history) - 30


# ---- the endpoint


def test_the_endpoint_lists_and_clears_behind_the_key(models: Models, tmp_path: Path) -> None:
    with serving(models.llama(), tmp_path, "--api-key", "secret") as (server, anonymous):
        client = Client(server.url, key="secret")
        assert anonymous.get("/kv-store", status=401)["error"]["type"] == "authentication_error"
        assert anonymous.http.delete("/kv-store").status_code == 401
        history, _ = conversation(client)
        saved(client)
        shown = client.get("/kv-store")
        assert shown["entries"] == len(shown["blocks"]) == len(files(tmp_path))
        assert shown["bytes"] == total(tmp_path)
        assert sum(block["tokens"] for block in shown["blocks"]) == len(history) - 4
        assert {tuple(block["tiers"]) for block in shown["blocks"]} == {("disk",)}
        assert "llama" not in json.dumps(shown)
        assert client.http.delete("/kv-store").json() == {"removed": shown["entries"]}
        assert client.get("/kv-store")["blocks"] == []
        assert files(tmp_path) == []


def test_without_a_store_the_endpoint_says_how_to_get_one(models: Models, serve: Callable[..., Any]) -> None:
    with serve(models.llama()) as client:
        assert "--kv-store" in client.get("/kv-store", status=501)["error"]["message"]


def test_status_tells_what_is_kept(models: Models, tmp_path: Path) -> None:
    port = str(free_port())
    with serving(models.llama(), tmp_path, "--management-port", port, "--management-host", "127.0.0.1") as (_, client):
        history, _ = conversation(client)
        saved(client)
        management = Client(f"http://127.0.0.1:{port}")
        kept = until(lambda: management.get("/status")["kv_store"], "the status")
        assert kept == {"entries": len(files(tmp_path)), "bytes": total(tmp_path), "restored_tokens": 0, "unsaved": 0}
        assert client.metric("llamaserver:kv_store_entries") == kept["entries"]
        assert len(history) // 64 <= kept["entries"] <= len(history) // 64 + 1
