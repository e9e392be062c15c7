"""The HTTP API over a backend without weights: every endpoint and both dialects, in this process.

tests/api tests the same endpoints with a real model. These tests need none, so they run with the fast ones.
"""

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from llamaserver.api import jobs, templates
from llamaserver.api.app import build_app, build_context, build_management_app
from llamaserver.api.context import CONTEXT
from llamaserver.api.system import load_system_prompt
from llamaserver.config import Config
from llamaserver.engine.loop import Engine
from llamaserver.llama.templates import LlamaTemplates
from llamaserver.scheduling.settings import EngineSettings
from PIL import Image

from tests.support.engine.toy import ToyBackend
from tests.support.polling import eventually

JSON = dict[str, Any]
SETTINGS = EngineSettings(
    n_slots=2,
    slot_ctx=512,
    prompt_budget=128,
    cont_batching=True,
    context_shift=True,
    max_queue=0,
    grp_attn_n=1,
    grp_attn_w=512,
    n_predict=-1,
    unlimited_answers=True,
    lora_scales=(),
)
GREEDY = {"temperature": 0, "n_predict": 8, "seed": 1}


class Api:
    """Both ports of one server."""

    def __init__(self, clients: TestClient[Any, Any], management: TestClient[Any, Any]) -> None:
        self.clients, self.management = clients, management

    async def get(self, path: str, status: int = 200) -> Any:
        response = await self.clients.get(path)
        return await self._answer(response, status)

    async def post(self, path: str, body: Any, status: int = 200) -> Any:
        return await self._answer(await self.clients.post(path, json=body), status)

    async def _answer(self, response: ClientResponse, status: int) -> Any:
        text = await response.text()
        assert response.status == status, text
        return json.loads(text) if response.content_type == "application/json" else text

    async def events(self, path: str, body: JSON) -> list[Any]:
        response = await self.clients.post(path, json={**body, "stream": True})
        assert response.content_type == "text/event-stream"
        data = [line[6:] for line in (await response.text()).splitlines() if line.startswith("data: ")]
        return [item if item == "[DONE]" else json.loads(item) for item in data]


@asynccontextmanager
async def serving(config: Config | None = None, settings: EngineSettings = SETTINGS, **toy: Any) -> AsyncIterator[Api]:
    options = {"n_ctx": settings.slot_ctx * settings.n_slots, "n_seq_max": settings.n_slots, **toy}
    engine = Engine(lambda progress: ToyBackend(**options), settings)
    context = build_context(config or Config(metrics=True, alias="toy"), engine, LlamaTemplates())
    engine.start()
    await engine.loaded()
    context.settled.set()
    try:
        async with (
            TestClient(TestServer(build_app(context))) as clients,
            TestClient(TestServer(build_management_app(context))) as management,
        ):
            if context.config.system_prompt_file:
                await load_system_prompt(context, context.config.system_prompt_file)
            yield Api(clients, management)
    finally:
        await engine.stop()
        context.close()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(Config(metrics=True, alias="toy", slot_save_path=str(tmp_path))) as made:
        yield made


def picture() -> str:
    out = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


# ---- llama.cpp's dialect


async def test_a_completion_and_its_stream_have_the_same_text(api: Api) -> None:
    body = {"prompt": "ab c", **GREEDY, "n_probs": 2}
    whole = await api.post("/completion", body)
    events = await api.events("/completion", body)
    assert "".join(event["content"] for event in events) == whole["content"]
    assert whole["stop"]
    assert whole["timings"]["predicted_n"] == len(whole["completion_probabilities"]) == whole["tokens_predicted"]
    assert events[-1]["stop"]
    assert whole["generation_settings"]["seed"] == 1


async def test_a_batch_of_prompts_has_one_answer_each(api: Api) -> None:
    answers = await api.post("/completion", {"prompt": ["ab", "cd", "ab cd"], **GREEDY})
    assert len(answers) == 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completion", {"prompt": "ab cd ef gh " * 20}),
        ("/v1/completions", {"prompt": "ab cd ef gh " * 20}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "ab cd ef gh " * 20}]}),
    ],
)
async def test_a_stream_tells_its_progress_and_its_timings(api: Api, path: str, body: JSON) -> None:
    asked = {**body, **GREEDY, "return_progress": True, "timings_per_token": True, "stream_options": {}}
    events = await api.events(path, asked)
    told = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    assert {"total", "cache", "processed", "time_ms"} == set(told[0])
    assert 0 < told[0]["processed"] <= told[-1]["processed"] == told[-1]["total"]
    tokens = [event["timings"]["predicted_n"] for event in events if "timings" in event]
    assert tokens[:3] == [1, 2, 3]
    plain = await api.events(path, {**body, **GREEDY})
    assert not any("prompt_progress" in event for event in plain)


async def test_a_prompt_with_media(api: Api) -> None:
    prompt = {"prompt_string": "ab <__media__> cd", "multimodal_data": [picture()]}
    answer = await api.post("/completion", {"prompt": prompt, **GREEDY})
    same = {"prompt": "ab [img-1] cd", "image_data": [{"id": 1, "data": picture()}], **GREEDY}
    assert answer["content"] == (await api.post("/completion", same))["content"]
    assert (await api.post("/completion", {"prompt": {"prompt_string": "ab"}, **GREEDY}))["tokens_evaluated"]
    for wrong in ({**prompt, "multimodal_data": []}, {**prompt, "multimodal_data": ["!"]}, {"prompt_string": 5}):
        error = await api.post("/completion", {"prompt": wrong, **GREEDY}, 400)
        assert "param" in error["error"]
    await api.post("/completion", {"prompt": [prompt] * 9, **GREEDY}, 400)
    await api.post("/v1/completions", {"prompt": prompt, **GREEDY}, 400)


async def test_signs_of_life_come_as_often_as_asked_for(api: Api) -> None:
    body = {"prompt": "ab", **GREEDY, "sse_ping_interval": -1}
    assert (await api.events("/completion", body))[-1]["stop"]
    await api.post("/completion", {**body, "sse_ping_interval": "x"}, 400)


async def test_clients_of_today_see_what_the_server_can_do(api: Api) -> None:
    props = await api.get("/props")
    assert (props["media_marker"], props["is_sleeping"], props["endpoint_slots"]) == ("<__media__>", False, True)
    assert set(props["modalities"]) == {"vision", "audio", "video"}
    models = await api.get("/v1/models")
    entry = models["data"][0]
    assert entry["meta"]["n_ctx"] == SETTINGS.slot_ctx
    assert entry["architecture"]["output_modalities"] == ["text"]
    assert "completion" in models["models"][0]["capabilities"]


async def test_fields_of_llama_server_that_change_nothing(api: Api) -> None:
    body = {"prompt": "ab cd", **GREEDY}
    plain = await api.post("/completion", body)
    asked = await api.post("/completion", {**body, "n_cache_reuse": 256, "t_max_prompt_ms": 1})
    assert asked["content"] == plain["content"]
    chat = {"messages": [{"role": "user", "content": "ab"}], **GREEDY}
    knobs = {"reasoning_control": True, "generation_prompt": "x", "parse_tool_calls": False}
    one, other = [await api.post("/v1/chat/completions", sent) for sent in (chat, {**chat, **knobs})]
    assert one["choices"] == other["choices"]
    await api.post("/props", {}, 404)


async def test_slots_of_today(api: Api) -> None:
    await api.post("/completion", {"prompt": "ab cd", **GREEDY, "top_k": 7, "id_slot": 0})
    slot = (await api.get("/slots"))[0]
    assert (slot["params"]["top_k"], slot["speculative"], slot["is_processing"]) == (7, False, False)
    assert slot["id_task"] == slot["task_id"]


async def test_metrics_of_today(api: Api) -> None:
    """Those of drafts are left out: there are no drafts."""
    page = await api.get("/metrics")
    assert "spec_decode" not in page
    for name in (
        *("prompt_seconds_total", "tokens_predicted_seconds_total", "n_tokens_max", "n_decode_total"),
        "n_busy_slots_per_decode",
    ):
        assert f"\nllamacpp:{name} " in page


async def test_special_tokens_of_a_text(api: Api) -> None:
    for special in ({}, {"parse_special": True}):
        assert (await api.post("/tokenize", {"content": "<end>", **special}))["tokens"] == [0]
    assert 0 not in (await api.post("/tokenize", {"content": "<end>", "parse_special": False}))["tokens"]


async def test_a_prefix_is_reused(api: Api) -> None:
    prompt = "ab cd ef gh " * 8
    first = await api.post("/completion", {"prompt": prompt, **GREEDY})
    second = await api.post("/completion", {"prompt": prompt + "ab", **GREEDY})
    assert first["timings"]["cache_n"] == 0
    assert second["timings"]["cache_n"] > 16


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"top_p": 5000}, "top_p"),
        ({"n_predict": -7}, "n_predict"),
        ({"stop": 3}, "stop"),
        ({"id_slot": -2}, "id_slot"),
        ({"logit_bias": 3}, "logit_bias"),
        ({"samplers": 3}, "samplers"),
        ({"lora": [{"id": 7, "scale": 1}]}, "lora"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"mirostat": 9}, "mirostat"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
async def test_an_error_names_the_field(api: Api, fields: JSON, named: str) -> None:
    answer = await api.post("/completion", {"prompt": "ab", **GREEDY, **fields}, 400)
    assert answer["error"]["code"] == 400
    assert named in json.dumps(answer["error"])


@pytest.mark.parametrize("body", ["", "{", "[1]", "3"])
async def test_a_body_that_is_no_json_object_is_refused(api: Api, body: str) -> None:
    response = await api.clients.post("/completion", data=body)
    assert response.status == 400


async def test_many_sampling_fields_are_taken(api: Api) -> None:
    fields = {
        **{"temperature": 0.5, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9, "tfs_z": 0.9},
        **{"repeat_penalty": 1.2, "presence_penalty": 0.1, "frequency_penalty": 0.1, "mirostat": 2},
        **{"dry_multiplier": 0.5, "dry_sequence_breakers": ["\n"], "xtc_probability": 0.1, "logit_bias": [[3, -1.0]]},
        **{"ignore_eos": True, "n_keep": 1, "stop": ["stop"], "penalty_prompt": "ab", "samplers": "kfypmt"},
        **{"return_tokens": True, "response_fields": ["content", "tokens"]},
    }
    answer = await api.post("/completion", {"prompt": "ab", "n_predict": 4, **fields})
    assert set(answer) == {"content", "tokens"}


async def test_a_grammar_restricts_the_answer(api: Api) -> None:
    answer = await api.post("/completion", {"prompt": "ab", **GREEDY, "grammar": 'root ::= "a" "b"'})
    assert answer["content"] == "ab"


async def test_tokens_and_text(api: Api) -> None:
    tokens = (await api.post("/tokenize", {"content": "ab c"}))["tokens"]
    assert (await api.post("/detokenize", {"tokens": tokens}))["content"] == "ab c"
    pieces = (await api.post("/tokenize", {"content": "ab c", "with_pieces": True}))["tokens"]
    assert [piece["id"] for piece in pieces] == tokens


async def test_an_image_in_a_prompt(api: Api) -> None:
    body = {"prompt": "ab [img-1] cd", "image_data": [{"id": 1, "data": picture()}], **GREEDY}
    assert (await api.post("/completion", body))["tokens_predicted"]
    await api.post("/completion", {**body, "image_data": [{"id": 1, "data": "!!"}]}, 400)


async def test_infill_needs_tokens_that_the_model_has_not(api: Api) -> None:
    await api.post("/infill", {"input_prefix": "ab", "input_suffix": "cd", **GREEDY}, 501)


async def test_embeddings_are_off_unless_asked_for(api: Api) -> None:
    await api.post("/embedding", {"content": "ab"}, 501)
    await api.post("/v1/embeddings", {"input": "ab"}, 501)


async def test_embeddings_of_both_dialects() -> None:
    async with serving(Config(embedding=True, alias="toy")) as api:
        one = await api.post("/embedding", {"content": "ab c"})
        both = await api.post("/v1/embeddings", {"input": ["ab c", [2, 3]], "encoding_format": "base64"})
        plain = await api.post("/v1/embeddings", {"input": "ab c"})
        await api.post("/v1/embeddings", {"input": "ab", "dimensions": 3000}, 400)
    assert one
    assert [item["index"] for item in both["data"]] == [0, 1]
    assert len(plain["data"][0]["embedding"]) == 4
    assert plain["usage"]["prompt_tokens"] > 0


# ---- OpenAI's dialect

CHAT = {"messages": [{"role": "system", "content": "ab"}, {"role": "user", "content": "cd e"}], "max_tokens": 6}


async def test_a_chat_and_its_stream_have_the_same_text(api: Api) -> None:
    body = {**CHAT, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = await api.post("/v1/chat/completions", body)
    events = await api.events("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    choice = whole["choices"][0]
    deltas = [event["choices"][0]["delta"] for event in events[:-1] if event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == choice["message"]["content"]
    assert events[-1] == "[DONE]"
    assert events[-2]["usage"] == {**whole["usage"], **{key: events[-2]["usage"][key] for key in whole["usage"]}}
    assert len(choice["logprobs"]["content"]) == whole["usage"]["completion_tokens"]
    assert whole["object"] == "chat.completion"


async def test_several_choices(api: Api) -> None:
    answer = await api.post("/v1/chat/completions", {**CHAT, "n": 3, "seed": 5})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]


async def test_parts_of_a_message(api: Api) -> None:
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture()}"}}
    message = {"role": "user", "content": [{"type": "text", "text": "ab"}, url]}
    answer = await api.post("/v1/chat/completions", {"messages": [message], "max_tokens": 4})
    assert answer["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": [3]},
        {"messages": [{"content": "ab"}]},
        {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/a.png"}}]}]},
        {"tools": [{}]},
        {"tool_choice": "required"},
        {"n": 0},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"top_logprobs": 99, "logprobs": True},
    ],
)
async def test_a_wrong_chat_is_refused(api: Api, fields: JSON) -> None:
    answer = await api.post("/v1/chat/completions", {**CHAT, **fields}, 400)
    assert answer["error"]["type"] == "invalid_request_error"


async def test_a_template_that_spins_holds_no_worker_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MAX_SECONDS", 0.05)
    spin = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    template = "{% for m in messages %}{{ m.content }}{% if m.content == 'spin' %}" + spin + "{% endif %}{% endfor %}"
    config = Config(alias="toy", chat_template=template, threads_http=1)
    async with serving(config) as api:
        body = {"messages": [{"role": "user", "content": "spin"}], "max_tokens": 1}
        for answer in await asyncio.gather(*(api.post("/v1/chat/completions", body, 500) for _ in range(3))):
            assert "the template takes too much time" in answer["error"]["message"]
        tools = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}
        await api.post("/v1/chat/completions", body | tools, 400)
        assert await api.post("/v1/chat/completions", {**CHAT, "max_tokens": 1})


async def test_a_text_completion_with_its_prompt(api: Api) -> None:
    body = {"prompt": ["ab", "cd"], "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 1}
    answer = await api.post("/v1/completions", body)
    assert [choice["text"][:2] for choice in answer["choices"]] == ["ab", "cd"]
    assert answer["choices"][0]["logprobs"]["tokens"]
    events = await api.events("/v1/completions", body)
    assert events[-1] == "[DONE]"
    await api.post("/v1/completions", {"max_tokens": 4}, 400)


async def test_the_prompt_that_a_chat_becomes(api: Api) -> None:
    prompt = (await api.post("/apply-template", CHAT))["prompt"]
    assert "cd e" in prompt
    chosen = await api.post("/v1/chat/completions", {**CHAT, "response_format": {"type": "text"}})
    assert chosen["model"] == "toy"


async def test_the_list_of_models(api: Api) -> None:
    assert [model["id"] for model in (await api.get("/v1/models"))["data"]] == ["toy"]
    assert (await api.get("/v1/models/toy"))["id"] == "toy"
    await api.get("/v1/models/other", 404)


# ---- slots, adapters, monitoring


async def test_a_slot_is_saved_restored_and_erased(api: Api, tmp_path: Path) -> None:
    await api.post("/completion", {"prompt": "ab cd ef gh", "id_slot": 0, **GREEDY})
    saved = await api.post("/slots/0?action=save", {"filename": "a.bin"})
    assert (tmp_path / "a.bin").stat().st_size == saved["n_written"]
    assert (await api.post("/slots/0?action=erase", {}))["n_erased"] == saved["n_saved"]
    restored = await api.post("/slots/1?action=restore", {"filename": "a.bin"})
    assert restored["n_restored"] == saved["n_saved"]
    for path, body in [
        ("/slots/0?action=save", {"filename": "../a"}),
        ("/slots/0?action=restore", {"filename": "missing"}),
        ("/slots/7?action=erase", {}),
        ("/slots/0?action=dance", {}),
    ]:
        response = await api.clients.post(path, json=body)
        assert response.status in (400, 404), path
    (tmp_path / "bad.bin").write_bytes(b"nothing")
    await api.post("/slots/0?action=restore", {"filename": "bad.bin"}, 400)


@pytest.mark.parametrize("action", ["save", "restore"])
async def test_who_waits_for_a_busy_slot_holds_up_nobody(api: Api, action: str) -> None:
    await api.post("/completion", {"prompt": "ab c", "id_slot": 1, **GREEDY})
    await api.post("/slots/1?action=save", {"filename": "one"})
    engine = api.clients.server.app[CONTEXT].engine  # type: ignore[union-attr]
    endless = {"prompt": "ab c", **GREEDY, "id_slot": 0, "n_predict": -1, "ignore_eos": True, "stream": True}
    unread = await api.clients.post("/completion", json=endless)
    waiting = asyncio.create_task(api.post(f"/slots/0?action={action}", {"filename": "one"}))
    await eventually(lambda: engine._futures, "the call waits for its slot")
    await asyncio.wait_for(api.post("/slots/1?action=save", {"filename": "two"}), 10)
    assert not waiting.done()
    unread.close()
    assert (await waiting)["id_slot"] == 0


async def test_slots_and_properties(api: Api) -> None:
    await api.post("/completion", {"prompt": "ab cd", **GREEDY})
    slots = await api.get("/slots")
    assert [slot["id"] for slot in slots] == [0, 1]
    assert (await api.get("/props"))["total_slots"] == 2
    assert (await api.get("/health?include_slots"))["status"] == "ok"
    await api.get("/slots?fail_on_no_slot=1")


async def test_adapters() -> None:
    settings = replace(SETTINGS, lora_scales=(1.0,))
    async with serving(Config(lora=(("a.gguf", 1.0),), alias="toy"), settings, n_lora=1) as api:
        assert [item["scale"] for item in await api.get("/lora-adapters")] == [1.0]
        await api.post("/lora-adapters", [{"id": 5, "scale": 0.5}], 400)
        await api.post("/lora-adapters", {"id": 0}, 400)
        await api.post("/lora-adapters", [{"id": 0, "scale": 0.5}])
        body = {"prompt": "ab", **GREEDY}
        half = await api.post("/completion", body)
        assert (
            half["content"] == (await api.post("/completion", {**body, "lora": [{"id": 0, "scale": 0.5}]}))["content"]
        )


async def test_metrics_status_and_probes(api: Api) -> None:
    await api.post("/completion", {"prompt": "ab cd", **GREEDY})
    for metrics in (await api.get("/metrics"), await (await api.management.get("/metrics")).text()):
        assert "llamacpp:tokens_predicted_total" in metrics
    for path in ("/livez", "/readyz", "/readyz?wait=1", "/status"):
        assert (await api.management.get(path)).status == 200, path
    assert (await (await api.management.get("/status")).json())["state"]


async def test_no_kv_store(api: Api) -> None:
    response = await api.clients.get("/kv-store")
    assert response.status in (404, 501)


async def test_the_page_and_the_description(api: Api) -> None:
    assert "<html" in (await api.get("/")).lower()
    assert (await api.get("/openapi.json"))["openapi"]
    await api.get("/nowhere", 404)


async def test_a_key_is_asked_for() -> None:
    async with serving(Config(api_keys=("k",), alias="toy")) as api:
        await api.post("/completion", {"prompt": "ab", **GREEDY}, 401)
        headers = {"Authorization": "Bearer k"}
        response = await api.clients.post("/completion", json={"prompt": "ab", **GREEDY}, headers=headers)
        assert response.status == 200
        await api.get("/health")


async def test_the_system_prompt_comes_first(tmp_path: Path, api: Api) -> None:
    file = tmp_path / "system.json"
    file.write_text(json.dumps({"system_prompt": {"prompt": "ab cd ef", "anti_prompt": "a:", "assistant_name": "b:"}}))
    without = await api.post("/completion", {"prompt": "gh", **GREEDY})
    async with serving(Config(system_prompt_file=str(file), alias="toy")) as other:
        answer = await other.post("/completion", {"prompt": "gh", **GREEDY})
        changed = {"prompt": "gh", **GREEDY, "system_prompt": {"prompt": "ef"}}
        await other.post("/completion", changed)
    assert answer["tokens_evaluated"] > without["tokens_evaluated"]


class Gate:
    """A projector that works on nothing until it is opened."""

    def __init__(self, media: Any) -> None:
        self._media, self.began, self.opened = media, threading.Event(), threading.Event()

    def wait(self) -> None:
        self.began.set()
        assert self.opened.wait(30)

    def build(self, *args: Any, **options: Any) -> Any:
        self.wait()
        return self._media.build(*args, **options)


async def test_images_do_not_hold_the_threads_of_texts() -> None:
    async with serving(Config(mmproj="projector.gguf", alias="toy")) as api:
        engine = api.clients.server.app[CONTEXT].engine  # type: ignore[attr-defined]
        gate = engine.media = Gate(engine.media)
        body = {"prompt": "ab [img-0]", "image_data": [{"data": picture()}], **GREEDY}
        waiting = [asyncio.create_task(api.post("/completion", body)) for _ in range(8)]
        await eventually(gate.began.is_set, "an image is decoded")
        assert await api.post("/tokenize", {"content": "ab cd"})
        assert await api.post("/tokenize", {"content": "ab cd" * 20_100})
        gate.opened.set()
        assert len(await asyncio.gather(*waiting)) == 8


async def test_large_bodies_of_one_client_do_not_stop_those_of_another(api: Api) -> None:
    context = api.clients.server.app[CONTEXT]  # type: ignore[attr-defined]
    gate = Gate(None)
    greedy = [asyncio.create_task(context.blocking(gate.wait, 200_000, "greedy")) for _ in range(5)]
    await eventually(gate.began.is_set, "one of them runs")
    assert await api.post("/tokenize", {"content": "ab cd" * 20_100})
    gate.opened.set()
    await asyncio.gather(*greedy)


# ---- what is kept of a body


@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
async def test_an_answer_holds_the_bytes_of_its_prompt_only(path: str) -> None:
    """The rest of the body is gone, however long the answer takes."""
    async with serving() as api:
        bodies = api.clients.app[CONTEXT].bodies
        body = {"prompt": "abc", "padding": "x" * 50_000, "n_predict": 10**6, "ignore_eos": True, "stream": True}
        running = await api.clients.post(path, json=body)
        assert bodies.total == 3
        running.close()
        await eventually(lambda: bodies.total == 0, "all is released")


# ---- probabilities in one piece


async def test_an_answer_ends_when_its_probabilities_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_PROBABILITIES", 40)
    async with serving() as api:
        body = {"prompt": "ab", **GREEDY, "n_predict": 100, "ignore_eos": True, "n_probs": 5}
        answer = await api.post("/completion", body)
        assert (answer["tokens_predicted"], answer["stop_type"]) == (8, "limit")
        assert answer["generation_settings"]["n_predict"] == 100
        events = await api.events("/completion", body)
        assert events[-1]["tokens_predicted"] == 100  # a stream may carry as many as it likes
        chat = {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 100, "logprobs": True, "top_logprobs": 5}
        answer = await api.post("/v1/chat/completions", {**chat, "n": 2, "ignore_eos": True, "temperature": 0})
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 2
        assert answer["usage"]["completion_tokens"] < 20  # an answer that ends inside a character goes on a little


# ---- bounds of texts


async def test_a_prompt_that_no_slot_can_hold_is_refused(api: Api) -> None:
    most = SETTINGS.slot_ctx * 64 + 65_536
    for prompt in ("x" * (most + 1), [1] * (most + 1)):
        error = (await api.post("/completion", {"prompt": prompt, **GREEDY}, 400))["error"]
        assert error["param"] == "prompt"
        assert "characters or ids) exceeds the available context size (512 tokens)" in error["message"]
    answer = await api.post("/completion", {"prompt": [1] * most, **GREEDY})
    assert answer["truncated"]


async def test_texts_for_tokenize_have_a_bound(api: Api) -> None:
    most = SETTINGS.slot_ctx * 64 + 2**20
    error = (await api.post("/tokenize", {"content": "x" * (most + 1)}, 400))["error"]
    assert error["param"] == "content"
    await api.post("/tokenize", {"content": "x" * (most // 8)})
