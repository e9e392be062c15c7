"""What llama-server shares with the other programs of llama.cpp: threads, memory, model files, logs, sampling."""

from .argument import Argument, always, ignored, refused

_CPUS = "threads run on the CPUs that the system gives to the process. taskset or a cpuset can limit them"
_PRIORITY = "the priority of the process is not changed"
_POLL = "the server itself chooses how threads wait"
_FIT = "nothing is adjusted to the memory of the devices. --ctx-size and --n-gpu-layers are used as they are given"
_VECTORS = "control vectors are not supported, and answers without them would differ"
_LOGS = "--log-format sets the format of log lines"
_ADAPTIVE = "the adaptive-p sampler is not supported. Tokens are chosen without it"

GENERAL: tuple[Argument, ...] = (
    refused("-cl", "--cache-list", text="there is no list of models. They are in the folder --models-dir"),
    refused("--completion-bash", text="there is no script for bash completion"),
    ignored("-C", "--cpu-mask", "-Cr", "--cpu-range", "--cpu-strict", values=1, text=_CPUS),
    ignored("-Cb", "--cpu-mask-batch", "-Crb", "--cpu-range-batch", "--cpu-strict-batch", values=1, text=_CPUS),
    ignored("--prio", "--prio-batch", values=1, text=_PRIORITY),
    ignored("--poll", "--poll-batch", values=1, text=_POLL),
    always("--swa-full", env="LLAMA_ARG_SWA_FULL", text="the cache of sliding windows always has its full size"),
    ignored("--perf", env="LLAMA_ARG_PERF", text="the library's timings are off. Answers and metrics have timings"),
    always("--no-perf", env="LLAMA_ARG_PERF", negative=True, text="the library's timings are always off"),
    always("-e", "--escape", text="escape sequences in --reverse-prompt and --dry-sequence-breaker are replaced"),
    ignored("--no-escape", text="escape sequences in --reverse-prompt and --dry-sequence-breaker are replaced"),
    ignored(
        "-dt", "--defrag-thold", values=1, env="LLAMA_ARG_DEFRAG_THOLD", text="the library has no defragmentation now"
    ),
    refused("--rpc", values=1, env="LLAMA_ARG_RPC", text="models are not spread over other machines"),
    ignored(
        "--moe-cache-mib",
        values=1,
        env="LLAMA_ARG_MOE_CACHE_MIB",
        text="the library of this build has no cache of experts. Answers are the same",
    ),
    always("--repack", env="LLAMA_ARG_REPACK", text="weights are repacked where that helps"),
    ignored("-nr", "--no-repack", env="LLAMA_ARG_REPACK", negative=True, text="weights are repacked where that helps"),
    ignored("--no-host", env="LLAMA_ARG_NO_HOST", text="the library chooses the buffers of the host"),
    ignored("-lzm", "--lazy-mode", values=1, env="LLAMA_ARG_LAZY_MODE", text="the library's mode is used: auto"),
    ignored("--check-tensors", text="the values of tensors are not checked. --model-sha256 checks a downloaded file"),
    always("--op-offload", text="operations on tensors of the host go to the GPU where that helps"),
    ignored("--no-op-offload", text="operations on tensors of the host go to the GPU where that helps"),
    ignored("--offline", env="LLAMA_ARG_OFFLINE", text="only -m prevents access to the network"),
    ignored("-fit", "--fit", values=1, env="LLAMA_ARG_FIT", text=_FIT),
    ignored("-fitt", "--fit-target", values=1, env="LLAMA_ARG_FIT_TARGET", text=_FIT),
    ignored("-fitc", "--fit-ctx", values=1, env="LLAMA_ARG_FIT_CTX", text=_FIT),
    refused(
        "--lora-base",
        values=1,
        text="the library applies adapters to the loaded model as it runs and cannot use another base. "
        "Merge the adapter into that base offline instead",
    ),
    refused("--control-vector", "--control-vector-scaled", values=1, text=_VECTORS),
    refused("--control-vector-layer-range", values=2, text=_VECTORS),
    refused(
        "-dr",
        "--docker-repo",
        values=1,
        env="LLAMA_ARG_DOCKER_REPO",
        text="models of Docker Hub are not supported. Give the model with -m, -hf or --model-url",
    ),
    always("--log-jsonl", env="LLAMA_ARG_LOG_JSONL", text=f"log lines are JSON by default. {_LOGS}"),
    ignored("--no-log-jsonl", env="LLAMA_ARG_LOG_JSONL", negative=True, text=f"log lines are JSON by default. {_LOGS}"),
    ignored("--log-colors", values=1, env="LLAMA_ARG_LOG_COLORS", text="the log has no colors"),
    ignored("--log-prefix", env="LLAMA_ARG_LOG_PREFIX", text=_LOGS),
    ignored("--no-log-prefix", env="LLAMA_ARG_LOG_PREFIX", negative=True, text=_LOGS),
    ignored("--log-timestamps", env="LLAMA_ARG_LOG_TIMESTAMPS", text=_LOGS),
    ignored("--no-log-timestamps", env="LLAMA_ARG_LOG_TIMESTAMPS", negative=True, text=_LOGS),
    ignored("--adaptive-target", "--adaptive-decay", values=1, text=_ADAPTIVE),
    ignored(
        "-bs",
        "--backend-sampling",
        env="LLAMA_ARG_BACKEND_SAMPLING",
        text="tokens are chosen on the CPU. The answers are the same",
    ),
)
