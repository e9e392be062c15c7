"""The endpoints around generation: tokenize, detokenize, props, slots, metrics, health, models."""

import json

import pytest

from tests.support.paths import model_path
from tests.support.server.client import Client

pytestmark = pytest.mark.model


def test_tokenize_and_detokenize(client: Client) -> None:
    text = "Hello, world! Grüße \U0001f999\n"
    tokens = client.post("/tokenize", content=text)["tokens"]
    assert client.post("/detokenize", tokens=tokens)["content"] == text
    assert client.post("/tokenize", content="")["tokens"] == []
    assert client.post("/tokenize", content=[text, 5])["tokens"] == [*tokens, 5]
    assert client.post("/detokenize", tokens=[])["content"] == ""


def test_tokenize_never_inserts_bos(client: Client) -> None:
    plain = client.post("/tokenize", content="Hello")["tokens"]
    props = client.get("/props")
    bos = client.post("/tokenize", content=props["bos_token"])["tokens"]
    assert plain[0] != bos[0]


def test_tokenize_with_pieces(client: Client) -> None:
    tokens = client.post("/tokenize", content="\U0001f999 a", with_pieces=True)["tokens"]
    data = b"".join(bytes(t["piece"]) if isinstance(t["piece"], list) else t["piece"].encode() for t in tokens)
    assert data.decode() == "\U0001f999 a"


def test_health(client: Client) -> None:
    assert client.get("/health") == {"status": "ok", "slots_idle": 4, "slots_processing": 0}
    assert client.get("/health", include_slots="")["slots"] == client.slots()


def test_props(client: Client) -> None:
    props = client.get("/props")
    assert props["total_slots"] == 4
    assert (props["assistant_name"], props["user_name"]) == ("", "")
    settings = client.complete("x", n_predict=1)["generation_settings"]
    assert set(settings) <= set(props["default_generation_settings"])
    assert props["default_generation_settings"]["top_k"] == 40
    assert "im_start" in props["chat_template"]


DOCUMENT_SLOT = """dynatemp_exponent dynatemp_range frequency_penalty grammar id ignore_eos logit_bias min_p mirostat
mirostat_eta mirostat_tau model n_ctx n_keep n_predict n_probs next_token penalize_nl penalty_prompt_tokens
presence_penalty prompt repeat_last_n repeat_penalty samplers seed state stop stream task_id temperature tfs_z top_k
top_p typical_p use_penalty_prompt_tokens""".split()


def test_slots(client: Client) -> None:
    client.complete("Say hello to llama.cpp", id_slot=2, seed=42, n_predict=3, stop=["\n"], min_p=0.25)
    slots = client.slots()
    assert [slot["id"] for slot in slots] == [0, 1, 2, 3]
    for slot in slots:
        assert set(DOCUMENT_SLOT) <= set(slot)
    slot = slots[2]
    assert slot["prompt"] == "Say hello to llama.cpp"
    assert (slot["state"], slot["seed"], slot["min_p"], slot["stop"]) == (0, 42, 0.25, ["\n"])
    assert slot["next_token"]["n_decoded"] <= 3
    assert not slot["next_token"]["has_next_token"]
    assert slot["next_token"]["stopped_limit"] or slot["next_token"]["stopped_word"]


def test_slots_while_running(client: Client) -> None:
    body = {"prompt": "Count: one, two,", "n_predict": 900, "stream": True, "ignore_eos": True, "id_slot": 1}
    with client.http.stream("POST", "/completion", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        slot = client.slots()[1]
        assert (slot["state"], slot["stream"], slot["n_predict"]) == (1, True, 900)
        assert slot["next_token"]["has_next_token"]
        assert 0 < slot["next_token"]["n_remain"] <= 900
        health = client.get("/health")
        assert (health["slots_processing"], health["slots_idle"]) == (1, 3)
        assert client.metric("llamacpp:requests_processing") == 1


METRICS = (
    "prompt_tokens_total tokens_predicted_total prompt_tokens_seconds predicted_tokens_seconds "
    "kv_cache_usage_ratio kv_cache_tokens requests_processing requests_deferred"
).split()


@pytest.mark.parametrize("name", METRICS)
def test_metric(client: Client, name: str) -> None:
    client.complete(f"Something to count for {name}", n_predict=4, ignore_eos=True)
    value = client.metric(f"llamacpp:{name}")
    if name.startswith("requests_"):
        assert value == 0
    elif name == "kv_cache_usage_ratio":
        assert value == pytest.approx(client.metric("llamacpp:kv_cache_tokens") / 4096)
    elif name == "kv_cache_tokens":
        assert value == sum(slot["n_past"] for slot in client.slots())
    else:
        assert value > 0


def test_metrics_format(client: Client) -> None:
    answer = client.http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4"
    from prometheus_client.parser import text_string_to_metric_families

    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    for name in ("llamaserver:time_to_first_token_seconds", "llamaserver:inter_token_seconds"):
        assert families[name].type == "histogram"


def test_models(client: Client) -> None:
    models = client.get("/v1/models")
    assert models["object"] == "list"
    assert models["data"][0]["id"] == str(model_path())
    assert models["data"][0]["meta"]["n_vocab"] == 49152


def test_apply_template(client: Client) -> None:
    prompt = client.post("/apply-template", messages=[{"role": "user", "content": "Hi"}])["prompt"]
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_unknown_path_and_wrong_method(client: Client) -> None:
    answer = client.http.get("/nothing-here")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    assert client.http.post("/nothing-here", json={}).status_code == 404
    answer = client.http.delete("/completion")
    assert answer.status_code in (404, 405)
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", None])
def test_any_content_type(client: Client, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client.http.post("/tokenize", content=json.dumps({"content": "Hi"}).encode(), headers=headers)
    assert answer.json()["tokens"]


def test_slot_files(client: Client) -> None:
    prompt = "A slot that is kept on disk, with words nobody else uses: tarn, fell, beck, ghyll"
    text = client.complete(prompt, id_slot=3, n_predict=6)["content"]
    saved = client.post("/slots/3?action=save", filename="tarn.bin")
    assert set(saved) == {"id_slot", "filename", "n_saved", "n_written", "timings"}
    assert saved["timings"]["save_ms"] > 0
    assert client.post("/slots/3?action=erase") == {"id_slot": 3, "n_erased": saved["n_saved"]}
    assert client.post("/slots/3?action=erase") == {"id_slot": 3, "n_erased": 0}
    restored = client.post("/slots/3?action=restore", filename="tarn.bin")
    assert restored["n_restored"] == saved["n_saved"]
    assert restored["n_read"] == saved["n_written"]
    assert restored["timings"]["restore_ms"] > 0
    again = client.complete(prompt, id_slot=3, n_predict=6)
    assert (again["timings"]["prompt_n"], again["content"]) == (2, text)


def test_slot_file_restored_into_another_slot(client: Client) -> None:
    prompt = "Another slot that is kept on disk: corrie, strath, machair, skerry"
    text = client.complete(prompt, id_slot=3, n_predict=6)["content"]
    client.post("/slots/3?action=save", filename="strath.bin")
    client.post("/slots/3?action=erase")
    client.post("/slots/1?action=restore", filename="strath.bin")
    again = client.complete(prompt, id_slot=1, n_predict=6)
    assert (again["timings"]["prompt_n"], again["content"]) == (2, text)
