"""The frozen configuration of one server. The package `options` makes it from the command line and the environment."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

MAX_SEQUENCES = 256  # of a llama.cpp context (LLAMA_MAX_SEQ)
MAX_NORM = 1024  # of the norms of embeddings
HTTP_THREADS = 4  # the default
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """Every option, under the name of its long flag. Sizes are in tokens, times in seconds."""

    # model
    model: str = ""
    model_url: str = ""
    hf_repo: str = ""
    hf_file: str = ""
    hf_revision: str = "main"
    hf_token: str = ""
    alias: str = ""  # see aliases
    tags: tuple[str, ...] = ()
    lora: tuple[tuple[str, float], ...] = ()  # (path, scale). --lora F has scale 1, --lora-scaled F:S has scale S
    override_kv: tuple[tuple[str, int | float | bool | str], ...] = ()  # metadata of the model
    mmproj: str = ""
    max_image_pixels: int = 16 * _MIB  # of one image
    image_hosts: tuple[str, ...] = ()  # hosts that images may be fetched from, and networks
    models_dir: Path = Path("models")  # folder for downloads
    models_owner: str = ""  # NAMESPACE/NAME of the user of models_use. With "", unused folders are not removed
    models_use: tuple[str, ...] = ()
    models_prune_after: float = 600.0
    model_sha256: str = ""
    chat_template: str = ""
    chat_template_file: str = ""
    spm_infill: bool = False
    system_prompt_file: str = ""
    # chats
    chat_template_kwargs: tuple[tuple[str, Any], ...] = ()
    reasoning: Literal["auto", "on", "off"] = "auto"
    reasoning_format: Literal["auto", "none", "deepseek", "deepseek-legacy"] = "auto"
    reasoning_effort: str = ""  # "": the template's
    reasoning_budget: int = -1  # tokens, -1: no limit
    reasoning_budget_message: str = ""
    reasoning_preserve: bool = True
    skip_chat_parsing: bool = False
    prefill_assistant: bool = True
    # requests
    request_defaults: tuple[tuple[str, Any], ...] = ()  # what requests get that leave out a field, as in JSON
    # context and engine
    ctx_size: int = 512  # 0: from the model
    parallel: int = 1
    cont_batching: bool = False
    batch_size: int = 2048
    ubatch_size: int = 512
    prompt_budget: int = 96
    n_predict: int = -1
    unlimited_answers: bool = True  # as in the document
    threads: int = 0  # 0: as many as the container may use
    threads_batch: int = 0  # 0: same as threads
    threads_http: int = 0  # 0: the constant HTTP_THREADS
    n_gpu_layers: int = -1  # -1: all
    main_gpu: int = 0
    split_mode: Literal["none", "layer", "row"] = "layer"
    tensor_split: tuple[float, ...] = ()
    device: tuple[str, ...] = ()  # names of devices, or none. (): all
    override_tensor: tuple[tuple[str, str], ...] = ()  # (pattern of names of tensors, buffer type)
    kv_offload: bool = True
    mlock: bool = False
    mmap: bool = True
    direct_io: bool = False
    numa: Literal["", "distribute", "isolate", "numactl"] = ""
    kv_unified: bool | None = None  # None: chosen by measurement (docs/explanation/performance.md)
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: Literal["auto", "on", "off"] = "auto"
    rope_scaling: Literal["", "none", "linear", "yarn"] = ""
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0
    yarn_orig_ctx: int = 0
    yarn_ext_factor: float = -1.0
    yarn_attn_factor: float = -1.0
    yarn_beta_fast: float = -1.0
    yarn_beta_slow: float = -1.0
    grp_attn_n: int = 1
    grp_attn_w: int = 512
    context_shift: bool = True
    embedding: bool = False
    pooling: Literal["", "none", "mean", "cls", "last", "rank"] = ""
    embd_normalize: int = 2  # see api/vectors.py
    cache_ram: int = 0  # MiB, -1: no limit
    cache_isolation: Literal["per-key", "shared"] = "per-key"
    kv_store: str = ""
    kv_store_mode: Literal["off", "shutdown", "continuous"] = "continuous"
    kv_store_max_bytes: int = 0  # 0: no limit
    kv_store_ttl: float = 0.0  # 0: no limit
    kv_store_min_tokens: int = 32
    kv_store_key_file: str = ""
    warmup: bool = True
    require_offload: bool = False
    # serving
    host: str = "127.0.0.1"  # see hosts
    port: int = 8080
    reuse_port: bool = False
    management_host: str = "0.0.0.0"  # noqa: S104  the kubelet and Prometheus connect from outside
    management_port: int = 0  # 0: off
    path: str = ""
    api_keys: tuple[str, ...] = ()  # --api-key and --api-key-file, which is read at the start and again after a change
    api_key_file: str = ""
    allowed_hosts: tuple[str, ...] = ()  # with () for both: loopback only, if there are no keys and host is loopback
    allowed_origins: tuple[str, ...] = ()
    cors_methods: tuple[str, ...] = ()  # (): any
    cors_headers: tuple[str, ...] = ()
    cors_credentials: bool = True
    ssl_key_file: str = ""
    ssl_cert_file: str = ""
    sse_ping_interval: float = 10.0  # 0 and below: off
    timeout: int = 600
    header_timeout: float = 10.0  # 0: none
    keep_alive_timeout: float = 75.0
    max_connections: int = 0  # 0: chosen by file_limit.py
    max_connections_per_address: int = 0  # 0: no limit
    decode_timeout: float | None = None  # None: 20 times the usual time, at least 60 s. 0: off
    max_body: int = 0  # bytes. 0: see largest_body
    max_body_bytes_in_flight: int = 0  # 0: see largest_bodies
    response_store_bytes: int = 16 * _MIB  # 0: no responses are kept
    max_queue: int = 4096
    slots_endpoint: bool = True
    request_system_prompt: bool = True  # with API keys, for admins only
    metrics: bool = False
    slot_save_path: str = ""
    slot_save_max_bytes: int = 4 * 1024**3  # of all files together, 0: no limit
    slot_save_max_files: int = 64  # 0: no limit
    drain_delay: float = 0.0
    drain_timeout: float = 300.0
    save_timeout: float = 0.0  # for the KV store, after the drain. 0: no limit while the save makes progress
    stay_on_load_error: bool = False
    # logs
    log_disable: bool = False
    log_format: Literal["json", "text"] = "json"
    log_file: str = "llama.log"
    verbose: bool = False
    termination_log: str = "/dev/termination-log"
    notes: tuple[str, ...] = ()  # about the command line and the environment, for the log
    warnings: tuple[str, ...] = ()

    @property
    def slot_ctx(self) -> int:
        """Tokens of one slot if ctx_size is set: exactly ctx_size // parallel, as in the document."""
        return self.ctx_size // self.parallel

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names of the model. Answers have the first one."""
        return tuple(name for part in self.alias.split(",") if (name := part.strip()))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses and paths of UNIX sockets to listen on. An empty one is all addresses."""
        return tuple(part.strip() for part in self.host.split(","))

    @property
    def largest_body(self) -> int:
        """Bytes that the body of a request can have. By itself, enough for text, or for images."""
        return self.max_body or (64 if self.mmproj else 8) * _MIB

    @property
    def largest_bodies(self) -> int:
        """Bytes that the bodies of all requests can have together, at least those of one body."""
        return max(self.largest_body, self.max_body_bytes_in_flight or max(128 * _MIB, 4 * self.largest_body))
