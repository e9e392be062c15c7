"""Every field that becomes an argument of the server is read back by the server's parser."""

from collections.abc import Callable
from pathlib import Path as File
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from llamaserver import options
from llamaserver.config import Config
from llamaserver_operator import names
from llamaserver_operator.files import model_files
from llamaserver_operator.parsing import parse
from llamaserver_operator.resources.pod import pod_template

from tests.contract.conftest import IMAGE, rendered
from tests.support.operator.random_specs import specs
from tests.support.operator.schema import LEAVES, Path, defaulted, errors, get, path_of, put, text
from tests.support.operator.specs import BASES, variants
from tests.support.operator.worlds import CONFIG

Raw = dict[str, Any]
HTTP: Raw = {"http": {"url": "http://models.example/model.gguf"}}
PLAIN: Raw = {"model": {"source": HTTP}}
GPU: Raw = {**PLAIN, "accelerator": {"vendor": "NVIDIA", "count": 2}}
STORE: Raw = {**PLAIN, "kvCache": {"persistence": "Continuous", "volume": {"emptyDir": {}}}}
MEMORY: Raw = {**PLAIN, "kvCache": {"hostMemory": "1Gi"}}
MIB = {"1Mi": 1, "4Gi": 4096, "1.5Gi": 1536, "1G": 953, "2.9Mi": 2, "1Pi": 2**30}


def cases(words: str, base: Raw, field: str, values: dict[Any, Any]) -> list[tuple[str, Raw, str, Any]]:
    """One field: values in the spec, and the values in the server's Config."""
    made = []
    for value, expected in values.items():
        spec = put(base, path_of(words), list(value) if isinstance(value, tuple) else value)
        made.append((words, spec, field, expected))
    return made


def requested(word: str, name: str, *values: float) -> list[tuple[str, Raw, str, Any]]:
    """A field of requests that leave it out."""
    put_in = {value: ((name, value),) for value in values}
    return cases(f"sampling.{word}", PLAIN, "request_defaults", put_in)


FORMATS = {"Separate": "deepseek", "InContent": "none", "Both": "deepseek-legacy"}
KV_TYPES = {name: name.lower() for name in ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")}
ROPE = {"None": "none", "Linear": "linear", "YaRN": "yarn"}
POOLING = {"None": "none", "Mean": "mean", "CLS": "cls", "Last": "last", "Rank": "rank"}
EXTEND: Raw = {**PLAIN, "engine": {"selfExtend": {"factor": 2, "width": 512}}}
TABLE = [
    *cases("model.alias", PLAIN, "alias", {"chat": "chat", "-x y": "-x y", "🦙 $(HOME) $$5": "🦙 $(HOME) $$5"}),
    *cases("chat.reasoning.thinking", PLAIN, "reasoning", {"Enabled": "on", "Disabled": "off"}),
    *cases("chat.reasoning.effort", PLAIN, "reasoning_effort", {"high": "high", "default": ""}),
    *cases("chat.reasoning.budgetTokens", PLAIN, "reasoning_budget", {0: 0, 512: 512}),
    *cases("chat.reasoning.budgetMessage", PLAIN, "reasoning_budget_message", {"-so $(A)\n": "-so $(A)\n"}),
    *cases("chat.reasoning.format", PLAIN, "reasoning_format", FORMATS),
    *cases("chat.reasoning.history", PLAIN, "reasoning_preserve", {"All": True, "LastAnswer": False}),
    *cases("chat.parsing", PLAIN, "skip_chat_parsing", {"Enabled": False, "Disabled": True}),
    *cases("chat.prefill", PLAIN, "prefill_assistant", {"Enabled": True, "Disabled": False}),
    *requested("temperature", "temperature", 0, 0.6),
    *requested("topK", "top_k", 0, 20),
    *requested("topP", "top_p", 0.95, 1),
    *requested("minP", "min_p", 0, 0.05),
    *requested("repeatPenalty", "repeat_penalty", 1, 1.1),
    *requested("presencePenalty", "presence_penalty", -1.5, 1e-9),
    *requested("frequencyPenalty", "frequency_penalty", -2, 0),
    *cases("context.tokensPerSlot", PLAIN, "ctx_size", {64: 256, 8192: 32768}),
    *cases("context.slots", PLAIN, "parallel", {1: 1, 256: 256}),
    *cases("context.slots", PLAIN, "ctx_size", {1: 4096, 3: 12288}),
    *cases("engine.gpuLayers", GPU, "n_gpu_layers", {"All": -1, 0: 0, 20: 20}),
    *cases("engine.gpuLayers", PLAIN, "n_gpu_layers", {"All": 0, 20: 0}),
    *cases("engine.splitMode", GPU, "split_mode", {"None": "none", "Layer": "layer", "Row": "row"}),
    *cases("engine.mainGpu", GPU, "main_gpu", {0: 0, 1: 1}),
    *cases("engine.tensorSplit", GPU, "tensor_split", {(3, 1): (3.0, 1.0), (0.25,): (0.25,)}),
    *cases("engine.flashAttention", PLAIN, "flash_attn", {"Auto": "auto", "On": "on", "Off": "off"}),
    *cases("engine.batchTokens", PLAIN, "batch_size", {32: 32, 4096: 4096}),
    *cases("engine.microBatchTokens", PLAIN, "ubatch_size", {32: 32, 256: 256}),
    *cases("engine.threads", PLAIN, "threads", {1: 1, 6: 6}),
    *cases("engine.kvType.key", PLAIN, "cache_type_k", KV_TYPES),
    *cases("engine.kvType.value", PLAIN, "cache_type_v", KV_TYPES),
    *cases("engine.ropeScaling.type", PLAIN, "rope_scaling", ROPE),
    *cases("engine.ropeScaling.frequencyBase", PLAIN, "rope_freq_base", {0: 0.0, 1e6: 1e6, 12345.5: 12345.5}),
    *cases("engine.ropeScaling.frequencyScale", PLAIN, "rope_freq_scale", {0: 0.0, 0.25: 0.25, 1e-9: 1e-9}),
    *cases("engine.ropeScaling.originalContext", PLAIN, "yarn_orig_ctx", {32768: 32768}),
    *cases("engine.selfExtend.factor", EXTEND, "grp_attn_n", {4: 4}),
    *cases("engine.selfExtend.width", EXTEND, "grp_attn_w", {2048: 2048}),
    *cases("engine.embeddings.pooling", PLAIN, "pooling", POOLING),
    *cases("engine.embeddings.pooling", PLAIN, "embedding", {"Mean": True}),
    *cases("engine.extraArgs", PLAIN, "mmap", {("--mmap",): True, ("--no-mmap",): False}),
    *cases("engine.extraArgs", PLAIN, "n_predict", {("--n-predict", "-1"): -1, ("--n-predict=9",): 9}),
    *cases("accelerator.onFallback", GPU, "require_offload", {"Fail": True, "Warn": False}),
    *cases("kvCache.persistence", STORE, "kv_store_mode", {"OnShutdown": "shutdown", "Continuous": "continuous"}),
    *cases("kvCache.hostMemory", MEMORY, "cache_ram", MIB),
    *cases("kvCache.hostMemory", STORE, "cache_ram", MIB),
    *cases("kvCache.minTokens", STORE, "kv_store_min_tokens", {1: 1, 100: 100}),
    *cases("kvCache.minTokens", MEMORY, "kv_store_min_tokens", {1: 1, 100: 100}),
    *cases("kvCache.ttlSeconds", STORE, "kv_store_ttl", {60: 60.0, 86400: 86400.0}),
    *cases("kvCache.maxSize", STORE, "kv_store_max_bytes", {"1Gi": 2**30, "1.5k": 1500, "100m": 1}),
    *cases("kvCache.maxSize", STORE, "save_timeout", {"1k": 10.0, "5Gi": 52.0, "3E": 86400.0}),
    *cases("kvCache.volume.emptyDir.sizeLimit", STORE, "kv_store_max_bytes", {"5Gi": 4 * 2**30, "1k": 800}),
    *cases("rollout.drainTimeoutSeconds", PLAIN, "drain_timeout", {0: 0.0, 86400: 86400.0}),
    *cases("serving.maxQueue", PLAIN, "max_queue", {0: 0, 64: 64}),
    *cases("serving.requestTimeoutSeconds", PLAIN, "timeout", {1: 1, 3600: 3600}),
    *cases("serving.requestSystemPrompt", PLAIN, "request_system_prompt", {"Enabled": True, "Disabled": False}),
    *cases("security.cacheIsolation", PLAIN, "cache_isolation", {"PerKey": "per-key", "Shared": "shared"}),
    *cases("serving.slotsEndpoint", PLAIN, "slots_endpoint", {"Enabled": True, "Disabled": False}),
]
# Fields below the server's parts of the spec that are no argument, or one of those in tests of their own.
NOT_HERE = {
    "model.sha256": "an argument of the download (test_fetch.py)",
    "model.credentialsSecretRef.name": "the download's environment",
    "model.cache.claimName": "a volume",
    "model.cache.claimTemplate.size": "a volume",
    "model.cache.claimTemplate.storageClassName": "a volume",
    "model.cache.claimTemplate.accessModes": "a volume",
    "model.cache.retentionPolicy": "a volume",
    "chat.templateArguments": "an object, in test_the_arguments_of_the_template",
    "serving.port": "the Service",
    "serving.serviceType": "the Service",
    "kvCache.scope": "what rollouts may do",
    "kvCache.manualSlots": "a folder, in test_the_kv_volume",
    "kvCache.integritySecretRef.name": "a file, in test_the_kv_volume",
}
PARTS = ("model", "chat", "sampling", "context", "engine", "serving", "kvCache")


def test_the_table_has_every_field():
    covered = {row[0] for row in TABLE} | set(NOT_HERE)
    fields = {text(path) for path in LEAVES if path[0] in PARTS and "source" not in path and "volume" not in path}
    assert fields - covered == set()
    assert covered <= {text(path) for path in LEAVES}


def test_the_table_has_every_word():
    """The table has every enum value, except those that set nothing."""
    seen: dict[str, set[Any]] = {}
    for words, spec, _, _ in TABLE:
        value = get(spec, path_of(words))
        seen.setdefault(words, set()).add(value if isinstance(value, str) else None)
    for words, values in seen.items():
        missing = set(LEAVES[path_of(words)].get("enum", ())) - values
        assert missing <= ({"None"} if words == "kvCache.persistence" else set()), words


@pytest.mark.parametrize(("words", "spec", "field", "expected"), TABLE, ids=[f"{r[0]}-{r[2]}-{r[3]}" for r in TABLE])
def test_the_server_reads_the_value_of_each_field(
    words: str, spec: Raw, field: str, expected: object, config: Callable[..., Config]
):
    assert errors(spec) == [], "a value that the API server would refuse proves nothing"
    assert getattr(config(spec), field) == expected
    assert getattr(config(defaulted(spec)), field) == expected


def test_what_is_not_set_is_the_servers_default(config: Callable[..., Config]):
    """Except what a pod needs."""
    plain, bare = config(PLAIN), Config()
    set_here = {
        "model": f"{names.MODELS_DIR}/{model_files(parse(PLAIN)).model.key}/model.gguf",
        "alias": "demo",
        "ctx_size": 4096 * 4,
        "parallel": 4,
        "cont_batching": True,
        "n_gpu_layers": 0,
        "host": "0.0.0.0",
        "management_port": 8081,
        "log_disable": True,
        "drain_delay": 8.0,
        "slots_endpoint": False,
        "request_system_prompt": False,
        "unlimited_answers": False,
    }
    differing = {name for name in Config.__slots__ if getattr(plain, name) != getattr(bare, name)}
    assert differing == set(set_here)
    assert {name: getattr(plain, name) for name in set_here} == set_here


def test_embeddings_without_pooling_take_the_models(config: Callable[..., Config]):
    read = config({**PLAIN, "engine": {"embeddings": {}}})
    assert (read.embedding, read.pooling) == (True, "")


def test_a_cpu_gets_no_gpu_options(config: Callable[..., Config]):
    engine = {"splitMode": "Row", "mainGpu": 1}
    assert (config({**PLAIN, "engine": engine}).split_mode, config({**PLAIN, "engine": engine}).main_gpu) == (
        "layer",
        0,
    )


def test_zero_gpu_layers_require_no_offload(config: Callable[..., Config]):
    assert not config({**GPU, "engine": {"gpuLayers": 0}}).require_offload


def test_the_arguments_of_the_template(config: Callable[..., Config]):
    arguments = {"enable_thinking": False, "name": '$(HOME) "é"', "more": {"numbers": [1, 2.5, None]}}
    assert dict(config({**PLAIN, "chat": {"templateArguments": arguments}}).chat_template_kwargs) == arguments
    assert config({**PLAIN, "chat": {"templateArguments": {}}}).chat_template_kwargs == ()


def test_the_kv_volume(config: Callable[..., Config]):
    read = config({**PLAIN, "kvCache": {"manualSlots": "Enabled", "volume": {"emptyDir": {}}}})
    assert (read.slot_save_path, read.kv_store) == (f"{names.KV_DIR}/slots", "")
    read = config(STORE)
    assert (read.slot_save_path, read.kv_store) == ("", f"{names.KV_DIR}/store")
    assert (read.kv_store_max_bytes, read.kv_store_ttl, read.cache_ram) == (0, 0.0, 0)
    assert read.kv_store_key_file == ""
    (File(names.KV_KEY_DIR) / "key").write_text("k" * 32)
    signed = {**STORE["kvCache"], "integritySecretRef": {"name": "kv-key"}}
    assert config({**PLAIN, "kvCache": signed}).kv_store_key_file == f"{names.KV_KEY_DIR}/key"


def test_host_memory_alone_needs_no_volume(config: Callable[..., Config]):
    read = config(MEMORY)
    assert (read.cache_ram, read.slot_save_path, read.kv_store, read.save_timeout) == (1024, "", "", 0.0)


@pytest.mark.parametrize("size", [None, "1k", "1Gi", "100Gi", "3E"])
@pytest.mark.parametrize("drain", [0, 300])
def test_the_server_ends_by_itself_before_it_is_killed(size: str | None, drain: int, config: Callable[..., Config]):
    """The server takes less time than the grace period, however slow the volume is."""
    cache = {**STORE["kvCache"], **({"maxSize": size} if size else {})}
    spec = {**STORE, "kvCache": cache, "rollout": {"drainTimeoutSeconds": drain}}
    read = config(spec)
    pod = pod_template(parse(spec), "models", "demo", "image", CONFIG)["spec"]
    assert read.save_timeout >= 10  # 0 would be without end
    assert pod["terminationGracePeriodSeconds"] == read.drain_delay + drain + read.save_timeout + 10


def test_keys_and_certificates(config: Callable[..., Config]):
    read = config({**PLAIN, "security": {"apiKeysSecretRef": {"name": "keys"}, "tls": {"secretName": "tls"}}})
    assert read.api_key_file == names.API_KEYS_DIR
    assert (read.ssl_cert_file, read.ssl_key_file) == (f"{names.TLS_DIR}/tls.crt", f"{names.TLS_DIR}/tls.key")


def test_texts(config: Callable[..., Config]):
    read = config(
        {**PLAIN, "chatTemplate": {"inline": "t"}, "systemPrompt": {"configMapKeyRef": {"name": "a", "key": "b"}}}
    )
    assert read.chat_template_file == f"{names.CONFIG_DIR}/chat-template"
    assert read.system_prompt_file == f"{names.CONFIG_DIR}/system-prompt"


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ({"persistentVolumeClaim": {"claimName": "c", "path": "a b/x: y.gguf"}}, "a b/x: y.gguf"),
        ({"image": {"reference": "i", "path": "x.gguf"}}, "x.gguf"),
    ],
)
def test_files_that_are_mounted(kind: Raw, path: str, config: Callable[..., Config]):
    adapters = [{"name": "a", "source": kind, "scale": -0.5}, {"name": "b", "source": kind}]
    read = config({"model": {"source": kind}, "loraAdapters": adapters, "projector": {"source": kind}})
    at = names.SOURCES_DIR
    assert read.model == f"{at}/0/{path}"
    assert read.lora == ((f"{at}/1/{path}", -0.5), (f"{at}/2/{path}", 1.0))
    assert read.mmproj == f"{at}/3/{path}"
    assert (read.models_owner, read.models_use) == ("", ())


def test_files_that_are_downloaded_are_named_as_in_use(config: Callable[..., Config]):
    """On a claim only. A scratch volume is deleted with its pod."""
    other = {"http": {"url": "http://models.example/lora.gguf?download=true"}}
    spec = {"model": {"source": HTTP}, "loraAdapters": [{"name": "a", "source": other}], "projector": {"source": HTTP}}
    read = config(spec)
    model, lora = File(read.model), File(read.lora[0][0])
    assert (model.name, lora.name, read.mmproj) == ("model.gguf", "lora.gguf", read.model)
    assert {model.parents[1], lora.parents[1]} == {File(names.MODELS_DIR)}
    assert model.parent != lora.parent
    assert read.models_use == ()
    kept = config({**spec, "model": {"source": HTTP, "cache": {"claimName": "c"}}})
    assert (kept.models_dir, kept.models_owner) == (File(names.MODELS_DIR), "models/demo")
    assert kept.models_use == (model.parent.name, lora.parent.name)


NUMBERS = [
    path
    for path, node in LEAVES.items()
    if path[0] in {*PARTS, "loraAdapters", "rollout"} and node.get("type") in ("integer", "number")
]


@pytest.mark.parametrize("path", NUMBERS, ids=text)
@pytest.mark.parametrize("bound", ["minimum", "maximum"])
def test_the_server_takes_the_whole_range_that_the_schema_admits(path: Path, bound: str, config: Callable[..., Config]):
    node = LEAVES[path]
    base = next(base for base in BASES if get(base, path) is not None)
    value = node.get(bound, 2**31 - 1)  # without a bound of its own: what an int32 holds
    if path[:2] == ("engine", "selfExtend"):  # width is a multiple of factor
        base = put(base, path_of("engine.selfExtend"), {"factor": 1, "width": 2**10})
    config(put(base, path, value))


@given(specs())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_takes_whatever_the_api_server_admits(raw: Raw):
    read = options.parse(rendered(raw), IMAGE)
    assert read.port == names.HTTP_PORT
    assert read.management_port == names.MANAGEMENT_PORT
    assert read.alias == raw["model"].get("alias", "demo")
    assert read.warnings == ()
    assert len(read.lora) == len(raw.get("loraAdapters", ()))


def written() -> set[str]:
    """Every option that the operator can write, found by setting every field to every value."""
    found: set[str] = set()
    for path in LEAVES:
        if not {"extraArgs", "hostPath", "serviceAccountToken"} & set(path):
            for pair in variants(path):
                for spec in pair:
                    found |= {word.partition("=")[0] for word in rendered(without_extra(spec)) if word[:2] == "--"}
    return found


def without_extra(spec: Raw) -> Raw:
    return {**spec, "engine": {k: v for k, v in spec.get("engine", {}).items() if k != "extraArgs"}}


def test_variables_of_the_environment_change_nothing_that_is_written():
    """podTemplate.env may set LLAMA_ARG_* variables. Fields win over them."""
    for base in BASES:
        arguments = rendered(base)
        flags = {word.partition("=")[0] for word in arguments}
        variables = {
            variable: "nonsense"
            for option in options.OPTIONS
            if flags & {*option.flags, *option.off}
            for variable in option.variables
        }
        assert len(variables) > 10
        assert options.parse(arguments, variables) == options.parse(arguments, {})
