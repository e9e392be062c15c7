"""Speculative decoding, and llama-server's names for well-known models."""

from .argument import Argument, ignored, refused

_DRAFTS = "no tokens are drafted. Answers are the same without drafts, but may take longer"


def _with_value(env: str, *flags: str) -> Argument:
    return ignored(*flags, values=1, env=env and f"LLAMA_ARG_{env}", text=_DRAFTS)


def _preset(flag: str, repo: str, *, drafts: bool = False) -> Argument:
    about = f"give the model with -hf {repo}, and the port that llama-server would use with --port"
    return refused(flag, text=about + (". There are no drafts" if drafts else ""))


DRAFTS: tuple[Argument, ...] = (
    _with_value("", "-lcs", "--lookup-cache-static"),
    _with_value("", "-lcd", "--lookup-cache-dynamic"),
    _with_value("SPEC_DRAFT_CACHE_TYPE_K", "--spec-draft-type-k", "-ctkd", "--cache-type-k-draft"),
    _with_value("SPEC_DRAFT_CACHE_TYPE_V", "--spec-draft-type-v", "-ctvd", "--cache-type-v-draft"),
    _with_value("SPEC_DRAFT_HF_REPO", "--spec-draft-hf", "-hfd", "-hfrd", "--hf-repo-draft"),
    _with_value("", "--spec-draft-threads", "-td", "--threads-draft"),
    _with_value("", "--spec-draft-threads-batch", "-tbd", "--threads-batch-draft"),
    _with_value("", "--spec-draft-cpu-mask", "-Cd", "--cpu-mask-draft"),
    _with_value("", "--spec-draft-cpu-range", "-Crd", "--cpu-range-draft"),
    _with_value("", "--spec-draft-cpu-strict", "--cpu-strict-draft"),
    _with_value("", "--spec-draft-prio", "--prio-draft"),
    _with_value("", "--spec-draft-poll", "--poll-draft"),
    _with_value("", "--spec-draft-cpu-mask-batch", "-Cbd", "--cpu-mask-batch-draft"),
    _with_value("", "--spec-draft-cpu-strict-batch", "--cpu-strict-batch-draft"),
    _with_value("", "--spec-draft-prio-batch", "--prio-batch-draft"),
    _with_value("", "--spec-draft-poll-batch", "--poll-batch-draft"),
    _with_value("", "--spec-draft-override-tensor", "-otd", "--override-tensor-draft"),
    ignored(*("--spec-draft-cpu-moe", "-cmoed", "--cpu-moe-draft"), env="LLAMA_ARG_SPEC_DRAFT_CPU_MOE", text=_DRAFTS),
    _with_value("SPEC_DRAFT_N_CPU_MOE", "--spec-draft-n-cpu-moe", "--spec-draft-ncmoe", "-ncmoed", "--n-cpu-moe-draft"),
    _with_value("SPEC_DRAFT_N_MAX", "--spec-draft-n-max"),
    _with_value("SPEC_DRAFT_N_MIN", "--spec-draft-n-min"),
    _with_value("SPEC_SYNTH_LEN", "--spec-synth-len"),
    _with_value("SPEC_SYNTH_RATES", "--spec-synth-rates"),
    _with_value("SPEC_DRAFT_P_SPLIT", "--spec-draft-p-split", "--draft-p-split"),
    _with_value("SPEC_DRAFT_P_MIN", "--spec-draft-p-min", "--draft-p-min"),
    ignored("--spec-draft-backend-sampling", env="LLAMA_ARG_SPEC_DRAFT_BACKEND_SAMPLING", text=_DRAFTS),
    ignored(
        "--no-spec-draft-backend-sampling",
        env="LLAMA_ARG_SPEC_DRAFT_BACKEND_SAMPLING",
        negative=True,
        text=_DRAFTS,
    ),
    _with_value("SPEC_DRAFT_SAMPLING", "--spec-draft-sampling"),
    _with_value("", "--spec-draft-device", "-devd", "--device-draft"),
    _with_value("N_GPU_LAYERS_DRAFT", "--spec-draft-ngl", "-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft"),
    _with_value("SPEC_DRAFT_MODEL", "--spec-draft-model", "-md", "--model-draft"),
    _with_value("SPEC_TYPE", "--spec-type"),
    *(
        _with_value("", f"--spec-ngram-{name}")
        for name in (
            *("mod-n-min", "mod-n-max", "mod-n-match", "simple-size-n", "simple-size-m", "simple-min-hits"),
            *("map-k-size-n", "map-k-size-m", "map-k-min-hits"),
            *("map-k4v-size-n", "map-k4v-size-m", "map-k4v-min-hits"),
        )
    ),
    # Of older releases. Today's llama-server refuses them.
    _with_value("DRAFT_MAX", "--draft", "--draft-n", "--draft-max"),
    _with_value("DRAFT_MIN", "--draft-min", "--draft-n-min"),
    _with_value("CTX_SIZE_DRAFT", "-cd", "--ctx-size-draft"),
    _with_value("", "--spec-ngram-size-n", "--spec-ngram-size-m", "--spec-ngram-min-hits"),
    ignored("--spec-default", text=_DRAFTS),
    _preset("--embd-gemma-default", "ggml-org/embeddinggemma-300M-qat-q4_0-GGUF"),
    _preset("--fim-qwen-1.5b-default", "ggml-org/Qwen2.5-Coder-1.5B-Q8_0-GGUF"),
    _preset("--fim-qwen-3b-default", "ggml-org/Qwen2.5-Coder-3B-Q8_0-GGUF"),
    _preset("--fim-qwen-7b-default", "ggml-org/Qwen2.5-Coder-7B-Q8_0-GGUF"),
    _preset("--fim-qwen-7b-spec", "ggml-org/Qwen2.5-Coder-7B-Q8_0-GGUF", drafts=True),
    _preset("--fim-qwen-14b-spec", "ggml-org/Qwen2.5-Coder-14B-Q8_0-GGUF", drafts=True),
    _preset("--fim-qwen-30b-default", "ggml-org/Qwen3-Coder-30B-A3B-Instruct-Q8_0-GGUF"),
    _preset("--gpt-oss-20b-default", "ggml-org/gpt-oss-20b-GGUF"),
    _preset("--gpt-oss-120b-default", "ggml-org/gpt-oss-120b-GGUF"),
    _preset("--vision-gemma-4b-default", "ggml-org/gemma-3-4b-it-qat-GGUF"),
    _preset("--vision-gemma-12b-default", "ggml-org/gemma-3-12b-it-qat-GGUF"),
)
