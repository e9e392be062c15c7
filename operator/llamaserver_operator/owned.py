"""Options of the server that users may not set, and the field that sets each.

A contract test compares the list with the options of the server, and the rules of the CRD with the list.
"""

_OPERATOR = "set by the operator"

# Field: all long spellings of its options.
_FIELDS = {
    "model.source": "--model",
    "model.source.http": "--model-url",
    "model.source.huggingFace": "--hf-repo --hf-file --hf-revision",
    "model.credentialsSecretRef": "--hf-token",
    "model.sha256": "--model-sha256",
    "model.cache": "--models-dir --models-owner --models-use",
    "model.alias": "--alias",
    "loraAdapters": "--lora --lora-scaled",
    "projector": "--mmproj",
    "chatTemplate": "--chat-template --chat-template-file",
    "systemPrompt": "--system-prompt-file",
    "chat.templateArguments": "--chat-template-kwargs",
    "chat.reasoning.thinking": "--reasoning",
    "chat.reasoning.effort": "--reasoning-effort",
    "chat.reasoning.budgetTokens": "--reasoning-budget",
    "chat.reasoning.budgetMessage": "--reasoning-budget-message",
    "chat.reasoning.format": "--reasoning-format",
    "chat.reasoning.history": "--reasoning-preserve --no-reasoning-preserve",
    "chat.parsing": "--skip-chat-parsing --no-skip-chat-parsing",
    "chat.prefill": "--prefill-assistant --no-prefill-assistant",
    "sampling.temperature": "--temp --temperature",
    "sampling.topK": "--top-k",
    "sampling.topP": "--top-p",
    "sampling.minP": "--min-p",
    "sampling.repeatPenalty": "--repeat-penalty",
    "sampling.presencePenalty": "--presence-penalty",
    "sampling.frequencyPenalty": "--frequency-penalty",
    "context.tokensPerSlot": "--ctx-size",
    "context.slots": "--parallel",
    "engine.batchTokens": "--batch-size",
    "engine.microBatchTokens": "--ubatch-size",
    "engine.selfExtend.factor": "--grp-attn-n",
    "engine.selfExtend.width": "--grp-attn-w",
    "engine.kvType.key": "--cache-type-k",
    "engine.kvType.value": "--cache-type-v",
    "engine.flashAttention": "--flash-attn",
    "engine.ropeScaling.type": "--rope-scaling",
    "engine.ropeScaling.frequencyBase": "--rope-freq-base",
    "engine.ropeScaling.frequencyScale": "--rope-freq-scale --rope-scale",
    "engine.ropeScaling.originalContext": "--yarn-orig-ctx",
    "engine.embeddings": "--embedding --embeddings --rerank --reranking",
    "engine.embeddings.pooling": "--pooling",
    "engine.threads": "--threads",
    "engine.gpuLayers": "--gpu-layers --n-gpu-layers",
    "engine.mainGpu": "--main-gpu",
    "engine.splitMode": "--split-mode",
    "engine.tensorSplit": "--tensor-split",
    "accelerator.onFallback": "--require-offload",
    "serving.port": "--port",
    "security.apiKeysSecretRef": "--api-key --api-key-file",
    "security.tls": "--ssl-key-file --ssl-cert-file",
    "serving.requestTimeoutSeconds": "--timeout",
    "serving.maxQueue": "--max-queue",
    "serving.slotsEndpoint": "--slots --no-slots --slots-endpoint-disable",
    "kvCache.volume": "--kv-store",
    "kvCache.manualSlots": "--slot-save-path",
    "kvCache.hostMemory": "--cache-ram",
    "kvCache.persistence": "--kv-store-mode",
    "kvCache.maxSize": "--kv-store-max-bytes",
    "kvCache.ttlSeconds": "--kv-store-ttl",
    "kvCache.minTokens": "--kv-store-min-tokens",
    "kvCache.integritySecretRef": "--kv-store-key-file",
    "security.cacheIsolation": "--cache-isolation",
    "serving.requestSystemPrompt": "--request-system-prompt --no-request-system-prompt",
    "rollout.drainTimeoutSeconds": "--drain-timeout",
    _OPERATOR: (
        "--cont-batching --no-cont-batching --host --management-host --management-port --drain-delay --save-timeout "
        "--stay-on-load-error --log-disable --termination-log --path --grammar-file --json-schema-file"
    ),
}
# Variables with another name than the option. HF_TOKEN is allowed, because downloads also read it from podTemplate.env.
_OTHERWISE = {
    "--reasoning-budget": "LLAMA_ARG_THINK_BUDGET",
    "--reasoning-budget-message": "LLAMA_ARG_THINK_BUDGET_MESSAGE",
    "--reasoning-format": "LLAMA_ARG_THINK",
    "--reasoning-preserve": "LLAMA_ARG_REASONING_PRESERVE LLAMA_ARG_NO_REASONING_PRESERVE",
    "--skip-chat-parsing": "LLAMA_ARG_SKIP_CHAT_PARSING LLAMA_ARG_NO_SKIP_CHAT_PARSING",
    "--prefill-assistant": "LLAMA_ARG_PREFILL_ASSISTANT LLAMA_ARG_NO_PREFILL_ASSISTANT",
    "--parallel": "LLAMA_ARG_N_PARALLEL",
    "--batch-size": "LLAMA_ARG_BATCH",
    "--ubatch-size": "LLAMA_ARG_UBATCH",
    "--rope-scaling": "LLAMA_ARG_ROPE_SCALING_TYPE",
    "--api-key": "LLAMA_API_KEY LLAMA_ARG_API_KEY",
    "--slots": "LLAMA_ARG_ENDPOINT_SLOTS LLAMA_ARG_NO_ENDPOINT_SLOTS",
    "--path": "LLAMA_ARG_STATIC_PATH",
    "--request-system-prompt": "LLAMA_ARG_REQUEST_SYSTEM_PROMPT LLAMA_ARG_NO_REQUEST_SYSTEM_PROMPT",
    "--cont-batching": "LLAMA_ARG_CONT_BATCHING LLAMA_ARG_NO_CONT_BATCHING",
}
_WITHOUT_VARIABLE = {
    *("--no-cont-batching", "--embedding", "--rerank", "--gpu-layers", "--no-slots", "--slots-endpoint-disable"),
    "--temp",
    *("--no-request-system-prompt", "--no-reasoning-preserve", "--no-skip-chat-parsing", "--no-prefill-assistant"),
}


def _means(field: str) -> str:
    return field if field == _OPERATOR else f"spec.{field}"


def _variables(flag: str) -> str:
    return _OTHERWISE.get(flag, f"LLAMA_ARG_{flag[2:].upper().replace('-', '_')}")


# Variables of the download that are no option of the server.
_OF_THE_DOWNLOAD = {"LLAMA_ARG_PRIVATE_SOURCES": _OPERATOR}

ARGUMENTS = {flag: _means(field) for field, flags in _FIELDS.items() for flag in flags.split()}
VARIABLES = {
    variable: means
    for flag, means in ARGUMENTS.items()
    if flag not in _WITHOUT_VARIABLE
    for variable in _variables(flag).split()
} | _OF_THE_DOWNLOAD
