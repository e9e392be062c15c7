"""The command line of the server. It has only what the spec asks for, so that an older server accepts it.

A default of the spec that needs a new option is set by a variable: an older server ignores variables it does not know.
"""

import json
import math

from .. import names
from ..files import ModelFiles
from ..quantity import bytes_of, mebibytes_of
from ..spec import Chat, KvCache, Sampling, Spec

DRAIN_DELAY = 8  # most seconds that an ending pod accepts connections, until all nodes have removed its endpoint
_SAVE_RATE = 100 * 2**20  # bytes per second of a slow network volume
_SAVE_DEFAULT = 60  # seconds, without maxSize
_SAVE_LEAST = 10  # seconds; a volume may need this long before the first write
_SAVE_MOST = 86400  # seconds; the largest value that the server accepts


def server_arguments(spec: Spec, files: ModelFiles, namespace: str, name: str) -> list[str]:
    """Arguments of the server container. extraArgs may refer to variables with $(NAME), as in any pod."""
    ours = [
        *_model(spec, files, namespace, name),
        *_chat(spec.chat),
        *_sampling(spec.sampling),
        *_context(spec),
        *_engine(spec),
        *_gpu(spec),
        *_kv_cache(spec.kv_cache),
        *_serving(spec),
    ]
    return [*map(literal, ours), *spec.engine.extra_args]


def server_variables(spec: Spec) -> dict[str, str]:
    """Variables of the server container. extraArgs may say --unlimited-answers."""
    allowed = spec.serving.request_system_prompt == "Enabled"
    return {
        "LLAMA_ARG_REQUEST_SYSTEM_PROMPT": "true" if allowed else "false",
        "LLAMA_ARG_UNLIMITED_ANSWERS": "false",
    }


def literal(argument: str) -> str:
    """Escapes an argument, because Kubernetes replaces $(NAME) by the value of a variable."""
    return argument.replace("$", "$$")


def _option(flag: str, value: object) -> list[str]:
    return [flag, str(value)] if value not in (None, "", 0, 0.0) else []


def _number(value: float) -> str:
    return f"{value:.10g}"


def _model(spec: Spec, files: ModelFiles, namespace: str, name: str) -> list[str]:
    arguments = [
        "--model",
        files.model.path,
        f"--alias={spec.model.alias or name}",
    ]  # with =, because an alias may begin with a dash
    for item, file in zip(spec.lora_adapters, files.adapters, strict=True):
        arguments += ["--lora-scaled", f"{file.path}:{_number(item.scale)}"]
    if files.projector:
        arguments += ["--mmproj", files.projector.path]
    if spec.chat_template:
        arguments += ["--chat-template-file", f"{names.CONFIG_DIR}/chat-template"]
    if spec.system_prompt:
        arguments += ["--system-prompt-file", f"{names.CONFIG_DIR}/system-prompt"]
    if spec.model.cache and files.downloads:
        arguments += ["--models-dir", names.MODELS_DIR, "--models-owner", f"{namespace}/{name}"]
        arguments += ["--models-use", ",".join(file.key for file in files.downloads)]
    return arguments


def _chat(chat: Chat) -> list[str]:
    reasoning = chat.reasoning
    arguments = [f"--chat-template-kwargs={json.dumps(chat.template_arguments)}"] if chat.template_arguments else []
    words = {"Enabled": "on", "Disabled": "off"}
    formats = {"Separate": "deepseek", "InContent": "none", "Both": "deepseek-legacy"}
    arguments += _option("--reasoning", words.get(reasoning.thinking))
    arguments += _option("--reasoning-effort", reasoning.effort)
    if reasoning.budget_tokens is not None:
        arguments += ["--reasoning-budget", str(reasoning.budget_tokens)]
    if reasoning.budget_message:
        arguments += [f"--reasoning-budget-message={reasoning.budget_message}"]  # it may begin with a dash
    arguments += _option("--reasoning-format", formats.get(reasoning.format))
    return [
        *arguments,
        *_switch("reasoning-preserve", reasoning.history, on="All"),
        *_switch("skip-chat-parsing", chat.parsing, on="Disabled"),
        *_switch("prefill-assistant", chat.prefill, on="Enabled"),
    ]


def _sampling(sampling: Sampling) -> list[str]:
    values = {
        "temp": sampling.temperature,
        "top-k": sampling.top_k,
        "top-p": sampling.top_p,
        "min-p": sampling.min_p,
        "repeat-penalty": sampling.repeat_penalty,
        "presence-penalty": sampling.presence_penalty,
        "frequency-penalty": sampling.frequency_penalty,
    }
    return [f"--{name}={_number(value)}" for name, value in values.items() if value is not None]


def _switch(name: str, value: str, *, on: str) -> list[str]:
    return [f"--{'' if value == on else 'no-'}{name}"] if value else []


def _context(spec: Spec) -> list[str]:
    context = spec.context
    arguments = ["--ctx-size", str(context.tokens_per_slot * context.slots), "--parallel", str(context.slots)]
    arguments += ["--cont-batching"]
    if extend := spec.engine.self_extend:
        arguments += ["--grp-attn-n", str(extend.factor), "--grp-attn-w", str(extend.width)]
    return arguments


def _engine(spec: Spec) -> list[str]:
    engine, rope = spec.engine, spec.engine.rope_scaling
    arguments = [
        *_option("--batch-size", engine.batch_tokens),
        *_option("--ubatch-size", engine.micro_batch_tokens),
        *_option("--threads", engine.threads),
        *_option("--rope-scaling", rope.type.lower()),
        *_option("--rope-freq-base", _number(rope.frequency_base) if rope.frequency_base else ""),
        *_option("--rope-freq-scale", _number(rope.frequency_scale) if rope.frequency_scale else ""),
        *_option("--yarn-orig-ctx", rope.original_context),
    ]
    if engine.flash_attention != "Auto":
        arguments += ["--flash-attn", engine.flash_attention.lower()]
    if engine.kv_type.key != "F16":
        arguments += ["--cache-type-k", engine.kv_type.key.lower()]
    if engine.kv_type.value != "F16":
        arguments += ["--cache-type-v", engine.kv_type.value.lower()]
    if engine.embeddings:
        arguments += ["--embedding", *_option("--pooling", engine.embeddings.pooling.lower())]
    return arguments


def _gpu(spec: Spec) -> list[str]:
    engine = spec.engine
    if not spec.accelerator:
        return ["--n-gpu-layers", "0"]
    arguments = ["--n-gpu-layers", str(engine.gpu_layers).lower(), *_option("--split-mode", engine.split_mode.lower())]
    if engine.main_gpu is not None:
        arguments += ["--main-gpu", str(engine.main_gpu)]
    if engine.tensor_split:
        arguments += ["--tensor-split", ",".join(_number(share) for share in engine.tensor_split)]
    if spec.accelerator.on_fallback == "Fail" and engine.gpu_layers != 0:
        arguments += ["--require-offload"]
    return arguments


def _kv_cache(cache: KvCache | None) -> list[str]:
    if cache is None:
        return []
    arguments = ["--slot-save-path", f"{names.KV_DIR}/slots"] if cache.manual_slots == "Enabled" else []
    if cache.host_memory:
        arguments += ["--cache-ram", str(mebibytes_of(cache.host_memory))]
    if cache.stores:
        mode = {"OnShutdown": "shutdown", "Continuous": "continuous"}[cache.persistence]
        arguments += ["--kv-store", f"{names.KV_DIR}/store", "--kv-store-mode", mode]
        arguments += _option("--kv-store-max-bytes", _most_bytes(cache))
        arguments += _option("--kv-store-ttl", cache.ttl_seconds)
        arguments += ["--save-timeout", str(save_seconds(cache))]
        if cache.integrity_secret_ref:
            arguments += ["--kv-store-key-file", f"{names.KV_KEY_DIR}/key"]
    if cache.stores or cache.host_memory:
        arguments += _option("--kv-store-min-tokens", cache.min_tokens)
    return arguments


def save_seconds(cache: KvCache | None) -> int:
    """Seconds after the drain for saving conversations, enough for a slow volume."""
    if cache is None or not cache.stores:
        return 0
    if not cache.max_size:
        return _SAVE_DEFAULT
    return min(max(math.ceil(bytes_of(cache.max_size) / _SAVE_RATE), _SAVE_LEAST), _SAVE_MOST)


def _most_bytes(cache: KvCache) -> int:
    """Size limit of the KV store in bytes. With 0 the server uses the free space, whatever the emptyDir's limit."""
    if cache.max_size:
        return bytes_of(cache.max_size)
    directory = cache.volume.empty_dir if cache.volume else None
    limit = directory.size_limit if directory else None
    # A fifth is left for slots saved by hand. Above the limit the pod is evicted.
    return bytes_of(limit) * 4 // 5 if limit else 0


def _serving(spec: Spec) -> list[str]:
    serving, security = spec.serving, spec.security
    arguments = ["--host", "0.0.0.0", "--port", str(names.HTTP_PORT)]  # noqa: S104 - clients are outside the pod
    arguments += ["--management-port", str(names.MANAGEMENT_PORT), "--log-disable"]
    if serving.max_queue is not None:
        arguments += ["--max-queue", str(serving.max_queue)]
    arguments += _option("--timeout", serving.request_timeout_seconds)
    if serving.slots_endpoint == "Disabled":
        arguments += ["--no-slots"]
    if security.api_keys_secret_ref:
        arguments += ["--api-key-file", names.API_KEYS_DIR]
    if security.cache_isolation == "Shared":
        arguments += ["--cache-isolation", "shared"]
    if security.tls:
        arguments += ["--ssl-cert-file", f"{names.TLS_DIR}/tls.crt", "--ssl-key-file", f"{names.TLS_DIR}/tls.key"]
    arguments += ["--drain-delay", str(DRAIN_DELAY)]
    return [*arguments, "--drain-timeout", str(spec.rollout.drain_timeout_seconds)]
