"""The table of options. The spellings are those of the April 2024 document and of today's llama-server."""

from pathlib import Path

from ..config import HTTP_THREADS, MAX_SEQUENCES
from ..option_readers import choice, integer, number
from .chat_options import CHAT
from .option import Option
from .values import (
    adapters,
    flash_attention,
    given,
    layers,
    load_mode,
    proportions,
    rope_scale,
    scaled_adapters,
    secrets,
    verbosity,
    words,
)

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")

GROUPS: dict[str, tuple[Option, ...]] = {
    "model": (
        Option("model", ("-m", "--model"), "Path of the model file (GGUF)", str, value="FNAME"),
        Option("model_url", ("-mu", "--model-url"), "URL of the model file to download", str, value="URL"),
        Option(
            "hf_repo",
            ("-hf", "-hfr", "--hf-repo"),
            "Hugging Face repository of the model to download, REPO or REPO:QUANT",
            str,
            value="REPO",
        ),
        Option("hf_file", ("-hff", "--hf-file"), "File in the Hugging Face repository", str, value="FILE"),
        Option(
            "hf_token",
            ("-hft", "--hf-token"),
            "Hugging Face access token",
            str,
            value="TOKEN",
            env=("HF_TOKEN", "LLAMA_ARG_HF_TOKEN"),
            safer="the variable HF_TOKEN",
        ),
        Option(
            "hf_revision", ("--hf-revision",), "Branch, tag or commit of the Hugging Face repository", str, value="REV"
        ),
        Option(
            "model_sha256", ("--model-sha256",), "SHA-256 that the downloaded model file must have", str, value="HEX"
        ),
        Option("models_dir", ("--models-dir",), "Folder for downloaded models", Path, value="DIR"),
        Option(
            "models_owner",
            ("--models-owner",),
            "Owner of the folders of --models-use, as NAMESPACE/NAME",
            str,
            value="NAME",
        ),
        Option(
            "models_use",
            ("--models-use",),
            "Folders of --models-dir that the owner uses, comma-separated. Its other folders are removed",
            words,
            many=True,
            value="KEY",
        ),
        Option(
            "models_prune_after",
            ("--models-prune-after",),
            "Remove unused model folders after this many seconds",
            number(0.1),
        ),
        Option(
            "alias", ("-a", "--alias"), "Name of the model in answers", str, value="NAME", default="the model's path"
        ),
        Option(
            "lora",
            ("--lora",),
            "LoRA adapter files, comma-separated. Can be repeated",
            adapters,
            many=True,
            value="FNAME",
        ),
        Option(
            "lora",
            ("--lora-scaled",),
            "LoRA adapter files with scales, FILE:SCALE, comma-separated. Can be repeated",
            scaled_adapters,
            many=True,
            env=("LLAMA_ARG_LORA_SCALED",),
            value="FNAME:SCALE",
        ),
        Option("mmproj", ("-mm", "--mmproj"), "Multimodal projector file", str, value="FNAME"),
        Option(
            "max_image_pixels",
            ("--max-image-pixels",),
            "Most pixels of one image. All images of a request can have 4 times as many",
            integer(1, 2**28),
        ),
        Option(
            "chat_template",
            ("--chat-template",),
            "Jinja chat template, or the name of a built-in one",
            str,
            value="JINJA_TEMPLATE",
            default="the model's",
        ),
        Option("chat_template_file", ("--chat-template-file",), "File with a Jinja chat template", str, value="FNAME"),
        Option("spm_infill", ("--spm-infill",), "Put the suffix before the prefix in prompts of /infill"),
        Option(
            "system_prompt_file",
            ("-spf", "--system-prompt-file"),
            "File with a system prompt, which comes before the prompt of every request",
            str,
            value="FNAME",
        ),
    ),
    "chat": CHAT,
    "context and scheduling": (
        Option(
            "ctx_size",
            ("-c", "--ctx-size"),
            "Context size in tokens, divided among the slots (0 = the size the model was trained with)",
            integer(0),
        ),
        Option(
            "parallel",
            ("-np", "--parallel"),
            "Number of slots: requests that can run at the same time",
            integer(1, MAX_SEQUENCES),
            env=("LLAMA_ARG_N_PARALLEL",),
        ),
        Option(
            "cont_batching",
            ("-cb", "--cont-batching"),
            "Start new requests while others generate (continuous batching)",
            off=("-nocb", "--no-cont-batching"),
        ),
        Option(
            "batch_size", ("-b", "--batch-size"), "Logical batch size in tokens", integer(1), env=("LLAMA_ARG_BATCH",)
        ),
        Option(
            "ubatch_size",
            ("-ub", "--ubatch-size"),
            "Physical batch size in tokens",
            integer(1),
            env=("LLAMA_ARG_UBATCH",),
        ),
        Option(
            "prompt_budget",
            ("--prompt-budget",),
            "Most prompt tokens in one step while other requests generate",
            integer(2),
        ),
        Option(
            "n_predict",
            ("-n", "--predict", "--n-predict"),
            "Most tokens to generate for one request (-1 = no limit)",
            integer(-1),
        ),
        Option(
            "unlimited_answers",
            ("--unlimited-answers",),
            "Let an answer outgrow its slot, by context shifts. If off, an answer ends when its slot is full",
            off=("--no-unlimited-answers",),
        ),
        Option(
            "context_shift",
            ("--context-shift",),
            "Remove old tokens when a slot is full, and go on generating",
            off=("--no-context-shift",),
        ),
        Option("grp_attn_n", ("-gan", "--grp-attn-n"), "Self-extend: group attention factor", integer(1)),
        Option("grp_attn_w", ("-gaw", "--grp-attn-w"), "Self-extend: group attention width", integer(1)),
        Option(
            "kv_unified",
            ("-kvu", "--kv-unified"),
            "Share one KV cache among all slots",
            off=("-no-kvu", "--no-kv-unified"),
        ),
        Option(
            "cache_type_k",
            ("-ctk", "--cache-type-k"),
            "Data type of K in the KV cache",
            choice(*CACHE_TYPES),
            value="TYPE",
        ),
        Option(
            "cache_type_v",
            ("-ctv", "--cache-type-v"),
            "Data type of V in the KV cache",
            choice(*CACHE_TYPES),
            value="TYPE",
        ),
        Option(
            "cache_ram",
            ("-cram", "--cache-ram"),
            "Host memory in MiB for conversations that leave the KV cache (0 = none, -1 = no limit)",
            integer(-1),
        ),
        Option(
            "cache_isolation",
            ("--cache-isolation",),
            "Whether requests reuse cached prompts of their own API key only (per-key), or of all keys (shared)",
            choice("per-key", "shared"),
            value="MODE",
        ),
        Option(
            "kv_store",
            ("--kv-store",),
            "Folder for saved conversations. A restarted server restores them",
            str,
            value="DIR",
        ),
        Option(
            "kv_store_mode",
            ("--kv-store-mode",),
            "When to save conversations: after each answer (continuous), when they leave the KV cache and at shutdown "
            "(shutdown), or never (off)",
            choice("off", "shutdown", "continuous"),
            value="MODE",
        ),
        Option(
            "kv_store_max_bytes",
            ("--kv-store-max-bytes",),
            "Largest size of --kv-store in bytes (0 = no limit). The least recently used conversations are deleted "
            "first",
            integer(0, 2**63 - 1),
        ),
        Option(
            "kv_store_ttl",
            ("--kv-store-ttl",),
            "Delete saved conversations not used for this many seconds (0 = never)",
            number(0.0),
        ),
        Option(
            "kv_store_min_tokens",
            ("--kv-store-min-tokens",),
            "Save only conversations of at least this many tokens",
            integer(0),
        ),
        Option(
            "kv_store_key_file",
            ("--kv-store-key-file",),
            "File with the secret key of --kv-store, at least 32 bytes. Without it, a key is made in the folder",
            str,
            value="FNAME",
        ),
        Option(
            "flash_attn",
            ("-fa", "--flash-attn"),
            "Flash attention: auto, on or off",
            flash_attention,
            bare="on",
            value="auto|on|off",
        ),
        Option(
            "rope_scaling",
            ("--rope-scaling",),
            "RoPE scaling method",
            choice("none", "linear", "yarn"),
            value="KIND",
            default="the model's",
            env=("LLAMA_ARG_ROPE_SCALING_TYPE",),
        ),
        Option("rope_freq_base", ("--rope-freq-base",), "RoPE base frequency (0 = the model's)", number(0.0)),
        Option("rope_freq_scale", ("--rope-freq-scale",), "RoPE frequency scale (0 = the model's)", number(0.0)),
        Option(
            "rope_freq_scale",
            ("--rope-scale",),
            "RoPE context factor, the inverse of --rope-freq-scale",
            rope_scale,
            env=("LLAMA_ARG_ROPE_SCALE",),
            default="none",
        ),
        Option(
            "yarn_orig_ctx",
            ("--yarn-orig-ctx",),
            "YaRN: context size the model was trained with (0 = the model's)",
            integer(0),
        ),
        Option(
            "yarn_ext_factor", ("--yarn-ext-factor",), "YaRN: extrapolation mix factor (-1 = the model's)", number(-1.0)
        ),
        Option(
            "yarn_attn_factor",
            ("--yarn-attn-factor",),
            "YaRN: attention magnitude factor (-1 = the model's)",
            number(-1.0),
        ),
        Option(
            "yarn_beta_slow", ("--yarn-beta-slow",), "YaRN: high correction dimension (-1 = the model's)", number(-1.0)
        ),
        Option(
            "yarn_beta_fast", ("--yarn-beta-fast",), "YaRN: low correction dimension (-1 = the model's)", number(-1.0)
        ),
        Option(
            "embedding",
            ("--embedding", "--embeddings"),
            "Enable the embedding endpoints",
            env=("LLAMA_ARG_EMBEDDINGS",),
        ),
        Option(
            "pooling",
            ("--pooling",),
            "Pooling of embeddings",
            choice("none", "mean", "cls", "last", "rank"),
            value="KIND",
            default="the model's",
        ),
    ),
    "compute": (
        Option(
            "threads",
            ("-t", "--threads"),
            "Threads for generation",
            integer(-1, 1024),
            default="what the container may use",
        ),
        Option(
            "threads_batch",
            ("-tb", "--threads-batch"),
            "Threads for prompts",
            integer(-1, 1024),
            default="same as --threads",
        ),
        Option(
            "threads_http",
            ("--threads-http",),
            "Threads for tokenizing and parsing requests",
            integer(-1, 1024),
            default=str(HTTP_THREADS),
        ),
        Option(
            "n_gpu_layers",
            ("-ngl", "--gpu-layers", "--n-gpu-layers"),
            "Layers to offload to GPUs: all, or a number",
            layers,
            default="all",
        ),
        Option(
            "main_gpu",
            ("-mg", "--main-gpu"),
            "GPU for the whole model (--split-mode none) or for small tensors",
            integer(0, 1023),
            value="i",
        ),
        Option(
            "split_mode",
            ("-sm", "--split-mode"),
            "How to split the model over several GPUs",
            choice("none", "layer", "row"),
            value="MODE",
        ),
        Option(
            "tensor_split",
            ("-ts", "--tensor-split"),
            "Share of the model on each GPU, comma-separated",
            proportions,
            value="SPLIT",
        ),
        Option("mlock", ("--mlock",), "Lock the model in memory"),
        Option("mmap", ("--mmap",), "Map the model file into memory", off=("--no-mmap",)),
        Option(
            "mmap",
            ("-lm", "--load-mode"),
            "--mmap and --mlock in one option: auto, none, mmap, mlock or mmap+mlock",
            load_mode,
            value="MODE",
            env=("LLAMA_ARG_LOAD_MODE",),
            default="auto",
        ),
        Option(
            "numa",
            ("--numa",),
            "NUMA strategy",
            choice("distribute", "isolate", "numactl"),
            bare="distribute",
            value="STRATEGY",
        ),
        Option(
            "warmup",
            ("--warmup",),
            "Run a full micro-batch and every kind of computation that requests can need before the server is ready. "
            "Without it, the first requests are slow, and problems of the machine appear only then",
            off=("--no-warmup",),
        ),
        Option("require_offload", ("--require-offload",), "Stay unready if no layer is on a GPU"),
    ),
    "serving": (
        Option(
            "host",
            ("--host",),
            "Address to listen on, or the path of a UNIX socket, which must end in .sock",
            str,
            value="HOST",
        ),
        Option("port", ("--port",), "Port to listen on (0 = a free one)", integer(0, 65535)),
        Option("management_host", ("--management-host",), "Address of the management port", str, value="HOST"),
        Option(
            "management_port",
            ("--management-port",),
            "Port for /livez, /readyz, /metrics and /status (0 = off)",
            integer(0, 65535),
        ),
        Option(
            "path",
            ("--path",),
            "Folder of static files. They replace files of the built-in page",
            str,
            value="DIR",
            env=("LLAMA_ARG_STATIC_PATH",),
        ),
        Option(
            "api_keys",
            ("--api-key",),
            "API keys, comma-separated. Can be repeated. Other users of the machine can read a command line",
            secrets,
            many=True,
            value="KEY",
            env=("LLAMA_API_KEY", "LLAMA_ARG_API_KEY"),
            safer="--api-key-file or the variable LLAMA_API_KEY",
        ),
        Option(
            "api_key_file",
            ("--api-key-file",),
            "File with one API key per line and its settings, or a folder of such files. Read again when they change",
            given,
            value="FNAME",
        ),
        Option(
            "allowed_hosts",
            ("--allowed-hosts",),
            "Names that requests may have in Host beside localhost, comma-separated. Can be repeated. * allows any",
            words,
            many=True,
            value="NAME",
            default="any; without API keys on a loopback --host: names of this machine only",
        ),
        Option(
            "allowed_origins",
            ("--allowed-origins",),
            "Origins of web pages that may send requests, such as https://example.com, beside those of localhost, "
            "comma-separated. Can be repeated. * allows any",
            words,
            many=True,
            value="ORIGIN",
            default="any; without API keys on a loopback --host: localhost only",
        ),
        Option("ssl_key_file", ("--ssl-key-file",), "File with the private key for TLS (PEM)", str, value="FNAME"),
        Option(
            "ssl_cert_file",
            ("--ssl-cert-file",),
            "File with the certificate for TLS (PEM). It is read again when it changes",
            str,
            value="FNAME",
        ),
        Option(
            "timeout",
            ("-to", "--timeout"),
            "Timeout in seconds for reading a request and for writing to a client (0 = none)",
            integer(0),
        ),
        Option(
            "header_timeout",
            ("--header-timeout",),
            "Seconds for a TLS handshake, and for a client to send the whole head of a request (0 = no limit)",
            number(0.0, 86400.0),
        ),
        Option(
            "keep_alive_timeout",
            ("--keep-alive-timeout",),
            "Seconds for which an idle connection stays open after an answer",
            number(1.0, 86400.0),
        ),
        Option(
            "max_connections",
            ("--max-connections",),
            "Most open connections of clients. At the limit, the one that was idle longest is closed",
            integer(1),
            default="as open files allow, at most 4096",
        ),
        Option(
            "max_connections_per_address",
            ("--max-connections-per-address",),
            "Most open connections of one client address (0 = no limit). Behind a proxy all clients have its address",
            integer(0),
        ),
        Option(
            "decode_timeout",
            ("--decode-timeout",),
            "Seconds after which a decode counts as hanging: then the server is unready, and after twice the time not "
            "alive (0 = never). Automatic is 20 times the usual time of such a decode, at least 60",
            number(0.0),
        ),
        Option(
            "max_body",
            ("--max-body",),
            "Largest request body in bytes (0 = 8 MiB, or 64 MiB with --mmproj)",
            integer(0),
        ),
        Option(
            "max_body_bytes_in_flight",
            ("--max-body-bytes-in-flight",),
            "Most bytes in the bodies of all requests that are read or answered at the same time. One client can have "
            "half of them while others have some. Requests beyond get 503 (0 = 128 MiB, or 4 times --max-body if that "
            "is more)",
            integer(0),
        ),
        Option("max_queue", ("--max-queue",), "Most requests that can wait for a slot (0 = no limit)", integer(0)),
        Option("metrics", ("--metrics",), "Serve /metrics on the clients' port", env=("LLAMA_ARG_ENDPOINT_METRICS",)),
        Option(
            "slots_endpoint",
            ("--slots",),
            "Serve /slots",
            off=("--no-slots", "--slots-endpoint-disable"),
            env=("LLAMA_ARG_ENDPOINT_SLOTS",),
        ),
        Option(
            "request_system_prompt",
            ("--request-system-prompt",),
            "Let requests set the system prompt of all requests. With API keys, only admins may",
            off=("--no-request-system-prompt",),
        ),
        Option(
            "slot_save_path",
            ("--slot-save-path",),
            "Folder for saved slots. It is created if it is missing",
            str,
            value="PATH",
        ),
        Option(
            "slot_save_max_bytes",
            ("--slot-save-max-bytes",),
            "Most bytes of all saved slots together (0 = no limit)",
            integer(0),
        ),
        Option(
            "slot_save_max_files", ("--slot-save-max-files",), "Most files of saved slots (0 = no limit)", integer(0)
        ),
        Option(
            "drain_delay",
            ("--drain-delay",),
            "Seconds after SIGTERM in which new connections are still accepted, because load balancers need time to "
            "stop sending them. The delay ends early after 3 seconds without a request",
            number(0.0, 3600.0),
        ),
        Option(
            "drain_timeout",
            ("--drain-timeout",),
            "Seconds for running requests to end after --drain-delay",
            number(0.0, 86400.0),
        ),
        Option(
            "save_timeout",
            ("--save-timeout",),
            "Extra seconds after the drain for saving conversations (0 = wait while progress is made)",
            number(0.0, 86400.0),
        ),
        Option(
            "stay_on_load_error",
            ("--stay-on-load-error",),
            "Keep running and answer /health with the error if the model cannot be loaded",
        ),
    ),
    "logs": (
        Option("log_disable", ("--log-disable",), "Log to stdout only, not to --log-file"),
        Option(
            "log_format", ("--log-format",), "Format of log lines: json or text", choice("json", "text"), value="FORMAT"
        ),
        Option(
            "log_file", ("--log-file",), "Log file", str, value="FNAME", env=("LLAMA_ARG_LOG_FILE", "LLAMA_LOG_FILE")
        ),
        Option("verbose", ("-v", "--log-verbose", "--verbose"), "Log more"),
        Option(
            "verbose",
            ("-lv", "--verbosity", "--log-verbosity"),
            "Verbosity of the log. 4 or more is the same as --verbose",
            verbosity,
            env=("LLAMA_ARG_LOG_VERBOSITY",),
            default="3",
        ),
        Option(
            "termination_log",
            ("--termination-log",),
            "File for the reason of a failure, as JSON. The default file is used only if it exists",
            str,
            value="FNAME",
        ),
    ),
}
OPTIONS = tuple(option for group in GROUPS.values() for option in group)
