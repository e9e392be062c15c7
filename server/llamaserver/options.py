"""Command line and environment to Config: one table of options, each with its LLAMA_ARG_* variable.

The spellings are those of the April 2024 document and, as aliases, of today's llama-server, so that
its arguments can be reused. The command line wins over the environment.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .config import Config
from .errors import ConfigError
from .option_readers import Reader, choice, integer, number

_TRUE = frozenset({"1", "true", "on", "yes", "enabled"})
_FALSE = frozenset({"0", "false", "off", "no", "disabled"})


@dataclass(frozen=True, slots=True)
class Option:
    """One option: where it lands in Config, how it is written, what it does.

    `flags` with `off` spellings make a switch; `read` makes an option with a value (a dict sets
    several fields); `bare` is the value of a flag given without one; `many` collects repetitions.
    """

    field: str
    flags: tuple[str, ...]
    help: str
    read: Reader | None = None
    env: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    bare: str | None = None
    many: bool = False
    value: str = "N"
    default: str = ""

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables; the first that is set counts."""
        return self.env or (f"LLAMA_ARG_{self.field.upper()}",)

    @property
    def key(self) -> str:
        """What tells this option from all others, those of the same field included."""
        return self.variables[0]


def _layers(text: str) -> int:
    return -1 if text in ("all", "auto") else integer(-1)(text)


def _flash(text: str) -> str:
    words = {"1": "on", "true": "on", "0": "off", "false": "off"}
    return str(choice("auto", "on", "off")(words.get(text, text)))


def _load_mode(text: str) -> dict[str, bool]:
    choice("auto", "none", "mmap", "mlock", "mmap+mlock")(text)
    return {"mmap": text in ("auto", "mmap", "mmap+mlock"), "mlock": "mlock" in text}


def _rope_scale(text: str) -> float:
    return 1.0 / float(number(1e-3)(text))


def _verbosity(text: str) -> bool:
    return bool(integer(0)(text) >= 4)


def _splits(text: str) -> tuple[float, ...]:
    return tuple(number(0.0)(part) for part in text.replace("/", ",").split(","))


def _lora(text: str) -> list[tuple[str, float]]:
    return [(path, 1.0) for path in text.split(",") if path]


def _lora_scaled(text: str) -> list[tuple[str, float]]:
    found = []
    for item in text.split(","):
        path, colon, scale = item.rpartition(":")
        if not colon:
            raise ConfigError("must be FILE:SCALE")
        found.append((path, number(-1e3, 1e3)(scale)))
    return found


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_text: Reader = str

GROUPS: dict[str, tuple[Option, ...]] = {
    "model": (
        Option("model", ("-m", "--model"), "path of the model file (GGUF)", _text, value="FNAME"),
        Option("model_url", ("-mu", "--model-url"), "URL to download the model from", _text, value="URL"),
        Option(
            "hf_repo", ("-hf", "-hfr", "--hf-repo"), "Hugging Face repository, also REPO:QUANT", _text, value="REPO"
        ),
        Option("hf_file", ("-hff", "--hf-file"), "file in the Hugging Face repository", _text, value="FILE"),
        Option(
            "hf_token",
            ("-hft", "--hf-token"),
            "Hugging Face access token",
            _text,
            value="TOKEN",
            env=("HF_TOKEN", "LLAMA_ARG_HF_TOKEN"),
        ),
        Option("hf_revision", ("--hf-revision",), "branch, tag or commit of the repository", _text, value="REV"),
        Option("model_sha256", ("--model-sha256",), "SHA-256 that the downloaded model must have", _text, value="HEX"),
        Option("models_dir", ("--models-dir",), "folder for downloads", Path, value="DIR"),
        Option("models_owner", ("--models-owner",), "who uses --models-use: NAMESPACE/NAME", _text, value="NAME"),
        Option(
            "models_use",
            ("--models-use",),
            "folders of --models-dir in use, comma-separated; those that the owner does not name any more are removed",
            _list,
            many=True,
            value="KEY",
        ),
        Option(
            "models_prune_after",
            ("--models-prune-after",),
            "seconds without a sign of use after which they are removed",
            number(0.1),
        ),
        Option("alias", ("-a", "--alias"), "model name in answers", _text, value="NAME"),
        Option("lora", ("--lora",), "LoRA adapters, comma-separated; may be repeated", _lora, many=True, value="FNAME"),
        Option(
            "lora",
            ("--lora-scaled",),
            "LoRA adapters with scale, FILE:SCALE",
            _lora_scaled,
            many=True,
            env=("LLAMA_ARG_LORA_SCALED",),
            value="FNAME:SCALE",
        ),
        Option("mmproj", ("-mm", "--mmproj"), "multimodal projector file", _text, value="FNAME"),
        Option(
            "chat_template",
            ("--chat-template",),
            "Jinja chat template, or the name of a built-in one",
            _text,
            value="JINJA_TEMPLATE",
        ),
        Option(
            "chat_template_file", ("--chat-template-file",), "file with a Jinja chat template", _text, value="FNAME"
        ),
        Option(
            "system_prompt_file",
            ("-spf", "--system-prompt-file"),
            "file with the initial prompt of all slots",
            _text,
            value="FNAME",
        ),
    ),
    "context and scheduling": (
        Option(
            "ctx_size", ("-c", "--ctx-size"), "context size in tokens, shared by the slots; 0: the model's", integer(0)
        ),
        Option("parallel", ("-np", "--parallel"), "number of slots", integer(1, 256), env=("LLAMA_ARG_N_PARALLEL",)),
        Option(
            "cont_batching",
            ("-cb", "--cont-batching"),
            "start prompts while others generate",
            off=("-nocb", "--no-cont-batching"),
        ),
        Option(
            "batch_size", ("-b", "--batch-size"), "logical batch size in tokens", integer(1), env=("LLAMA_ARG_BATCH",)
        ),
        Option(
            "ubatch_size",
            ("-ub", "--ubatch-size"),
            "physical batch size in tokens",
            integer(1),
            env=("LLAMA_ARG_UBATCH",),
        ),
        Option("prompt_budget", ("--prompt-budget",), "prompt tokens a step while others generate", integer(2)),
        Option("n_predict", ("-n", "--predict", "--n-predict"), "most tokens to predict; -1: no limit", integer(-1)),
        Option(
            "context_shift", ("--context-shift",), "drop old tokens when a slot is full", off=("--no-context-shift",)
        ),
        Option("grp_attn_n", ("-gan", "--grp-attn-n"), "self-extend: group attention factor", integer(1)),
        Option("grp_attn_w", ("-gaw", "--grp-attn-w"), "self-extend: group attention width", integer(1)),
        Option(
            "kv_unified", ("-kvu", "--kv-unified"), "one KV buffer for all slots", off=("-no-kvu", "--no-kv-unified")
        ),
        Option("cache_type_k", ("-ctk", "--cache-type-k"), "KV cache type of K", choice(*_CACHE_TYPES), value="TYPE"),
        Option("cache_type_v", ("-ctv", "--cache-type-v"), "KV cache type of V", choice(*_CACHE_TYPES), value="TYPE"),
        Option(
            "cache_ram",
            ("-cram", "--cache-ram"),
            "MiB of host memory for conversations that leave the KV cache; 0: none, -1: no limit",
            integer(-1),
        ),
        Option("kv_store", ("--kv-store",), "folder where conversations outlive the process", _text, value="DIR"),
        Option(
            "kv_store_mode",
            ("--kv-store-mode",),
            "write conversations as they end (continuous) or when they leave the KV cache and at the end (shutdown)",
            choice("off", "shutdown", "continuous"),
            value="MODE",
        ),
        Option(
            "kv_store_max_bytes",
            ("--kv-store-max-bytes",),
            "most bytes in that folder, the least recently used go first; 0: no limit",
            integer(0, 2**63 - 1),
        ),
        Option("kv_store_ttl", ("--kv-store-ttl",), "seconds that unused ones are kept; 0: no limit", number(0.0)),
        Option("kv_store_min_tokens", ("--kv-store-min-tokens",), "shorter conversations are not kept", integer(0)),
        Option(
            "flash_attn",
            ("-fa", "--flash-attn"),
            "flash attention: auto, on or off",
            _flash,
            bare="on",
            value="auto|on|off",
        ),
        Option(
            "rope_scaling",
            ("--rope-scaling",),
            "RoPE scaling",
            choice("none", "linear", "yarn"),
            value="KIND",
            default="the model's",
            env=("LLAMA_ARG_ROPE_SCALING_TYPE",),
        ),
        Option("rope_freq_base", ("--rope-freq-base",), "RoPE base frequency; 0: the model's", number(0.0)),
        Option("rope_freq_scale", ("--rope-freq-scale",), "RoPE frequency scale; 0: the model's", number(0.0)),
        Option(
            "rope_freq_scale",
            ("--rope-scale",),
            "RoPE context factor, the inverse of --rope-freq-scale",
            _rope_scale,
            env=("LLAMA_ARG_ROPE_SCALE",),
            default="none",
        ),
        Option("yarn_orig_ctx", ("--yarn-orig-ctx",), "YaRN: original context size", integer(0)),
        Option("yarn_ext_factor", ("--yarn-ext-factor",), "YaRN: extrapolation mix factor", number(-1.0)),
        Option("yarn_attn_factor", ("--yarn-attn-factor",), "YaRN: attention magnitude", number(-1.0)),
        Option("yarn_beta_slow", ("--yarn-beta-slow",), "YaRN: high correction dim", number(-1.0)),
        Option("yarn_beta_fast", ("--yarn-beta-fast",), "YaRN: low correction dim", number(-1.0)),
        Option("embedding", ("--embedding", "--embeddings"), "enable embeddings", env=("LLAMA_ARG_EMBEDDINGS",)),
        Option(
            "pooling",
            ("--pooling",),
            "pooling of embeddings",
            choice("none", "mean", "cls", "last", "rank"),
            value="KIND",
            default="the model's",
        ),
    ),
    "compute": (
        Option(
            "threads",
            ("-t", "--threads"),
            "threads for generation",
            integer(-1, 1024),
            default="what the container may use",
        ),
        Option(
            "threads_batch",
            ("-tb", "--threads-batch"),
            "threads for prompts",
            integer(-1, 1024),
            default="same as --threads",
        ),
        Option("threads_http", ("--threads-http",), "threads that tokenize and parse", integer(-1, 1024), default="4"),
        Option(
            "n_gpu_layers",
            ("-ngl", "--gpu-layers", "--n-gpu-layers"),
            "layers to offload; all, or a number",
            _layers,
            default="all",
        ),
        Option("main_gpu", ("-mg", "--main-gpu"), "GPU for small tensors", integer(0, 1023), value="i"),
        Option(
            "split_mode",
            ("-sm", "--split-mode"),
            "how to split over GPUs",
            choice("none", "layer", "row"),
            value="MODE",
        ),
        Option(
            "tensor_split",
            ("-ts", "--tensor-split"),
            "proportions for each GPU, comma-separated",
            _splits,
            value="SPLIT",
        ),
        Option("mlock", ("--mlock",), "lock the model in memory"),
        Option("mmap", ("--mmap",), "map the model into memory", off=("--no-mmap",)),
        Option(
            "mmap",
            ("-lm", "--load-mode"),
            "--mmap and --mlock in one: auto, none, mmap, mlock or mmap+mlock",
            _load_mode,
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
            "evaluate one full micro-batch and all else that requests may ask for before the server is ready; "
            "without it, the first users meet what does not work on this machine, and wait for the weights",
            off=("--no-warmup",),
        ),
        Option("require_offload", ("--require-offload",), "stay unready when no layer is on a GPU"),
    ),
    "serving": (
        Option(
            "host", ("--host",), "address to listen on; a path ending in .sock is a UNIX socket", _text, value="HOST"
        ),
        Option("port", ("--port",), "port to listen on", integer(0, 65535)),
        Option("management_host", ("--management-host",), "address of the management port", _text, value="HOST"),
        Option(
            "management_port",
            ("--management-port",),
            "port for /livez /readyz /metrics /status; 0: off",
            integer(0, 65535),
        ),
        Option(
            "path",
            ("--path",),
            "folder of static files that win over the built-in page",
            _text,
            value="DIR",
            env=("LLAMA_ARG_STATIC_PATH",),
        ),
        Option(
            "api_keys",
            ("--api-key",),
            "API key; may be repeated",
            _list,
            many=True,
            value="KEY",
            env=("LLAMA_API_KEY", "LLAMA_ARG_API_KEY"),
        ),
        Option(
            "api_key_file",
            ("--api-key-file",),
            "file with one API key a line, or a folder of such files; read again when they change",
            _text,
            value="FNAME",
        ),
        Option("ssl_key_file", ("--ssl-key-file",), "PEM private key", _text, value="FNAME"),
        Option(
            "ssl_cert_file", ("--ssl-cert-file",), "PEM certificate; read again when it changes", _text, value="FNAME"
        ),
        Option("timeout", ("-to", "--timeout"), "read and write timeout in seconds", integer(0)),
        Option("max_body", ("--max-body",), "largest request body in bytes", integer(1024)),
        Option("max_queue", ("--max-queue",), "most waiting requests; 0: no limit", integer(0)),
        Option("metrics", ("--metrics",), "serve /metrics", env=("LLAMA_ARG_ENDPOINT_METRICS",)),
        Option(
            "slots_endpoint",
            ("--slots",),
            "serve /slots",
            off=("--no-slots", "--slots-endpoint-disable"),
            env=("LLAMA_ARG_ENDPOINT_SLOTS",),
        ),
        Option("slot_save_path", ("--slot-save-path",), "folder for saved slots; made if need be", _text, value="PATH"),
        Option(
            "drain_delay",
            ("--drain-delay",),
            "seconds to take new connections after SIGTERM, as load balancers lag behind; fewer if none comes for 3 s",
            number(0.0, 3600.0),
        ),
        Option(
            "drain_timeout", ("--drain-timeout",), "seconds that running requests get after that", number(0.0, 86400.0)
        ),
        Option(
            "save_timeout",
            ("--save-timeout",),
            "seconds that the KV store gets beyond these to write conversations; 0: as long as it gets on",
            number(0.0, 86400.0),
        ),
        Option("stay_on_load_error", ("--stay-on-load-error",), "keep answering /health when the model cannot load"),
    ),
    "logs": (
        Option("log_disable", ("--log-disable",), "log to stdout only, not to llama.log"),
        Option("log_format", ("--log-format",), "json or text", choice("json", "text"), value="FORMAT"),
        Option(
            "log_file", ("--log-file",), "log file", _text, value="FNAME", env=("LLAMA_ARG_LOG_FILE", "LLAMA_LOG_FILE")
        ),
        Option("verbose", ("-v", "--log-verbose", "--verbose"), "log more"),
        Option(
            "verbose",
            ("-lv", "--verbosity", "--log-verbosity"),
            "log more from 4 on",
            _verbosity,
            env=("LLAMA_ARG_LOG_VERBOSITY",),
            default="3",
        ),
        Option(
            "termination_log",
            ("--termination-log",),
            "file that takes the reason of a failure, as JSON; the default one only where it exists",
            _text,
            value="FNAME",
        ),
    ),
}
OPTIONS = tuple(option for group in GROUPS.values() for option in group)
# Today's arguments that cannot change an answer here: what they ask for is always so, or there is
# nothing that they could tune. Taken with a warning; whatever else is unknown is an error.
_IGNORED = (
    *("--jinja", "--no-jinja", "--ui", "--webui", "--no-ui", "--no-webui", "--perf", "--no-perf", "--props"),
    *("-kvo", "--kv-offload", "--mmproj-auto", "--no-mmproj-auto", "--no-mmproj", "--mmproj-offload", "--swa-full"),
    *("--cache-prompt", "--cache-idle-slots", "--no-cache-idle-slots", "--repack", "--op-offload", "--check-tensors"),
    *("-e", "--escape", "--no-escape", "--prefill-assistant", "--log-jsonl", "--log-prefix", "--no-log-prefix"),
    *("--log-timestamps", "--no-log-timestamps"),
)
_IGNORED_WITH_VALUE = (
    *("-fit", "--fit", "-fitt", "--fit-target", "-fitc", "--fit-ctx", "-ctxcp", "--ctx-checkpoints"),
    *("--swa-checkpoints", "-cms", "--checkpoint-min-step", "-dt", "--defrag-thold", "--cache-reuse", "-lzm"),
    *("--lazy-mode", "-sps", "--slot-prompt-similarity", "--prio", "--prio-batch", "--poll", "--poll-batch"),
    *("--reasoning-format", "--sse-ping-interval", "--log-colors"),
)
_REFUSED = {
    "--lora-base": "the library applies adapters to the loaded model as it runs; it cannot use another base. "
    "Merge the adapter into that base offline instead",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


class _Refuse(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> NoReturn:
        raise ConfigError(f"{option_string} is not supported: {_REFUSED[option_string or '']}")


class _Ignore(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.ignored = (*namespace.ignored, option_string)


def build_parser() -> argparse.ArgumentParser:
    """The command line; values stay text until `parse` reads them with their errors named."""
    parser = _Parser(
        "llamaserver",
        allow_abbrev=False,
        description="llama.cpp models over HTTP.",
        epilog="llamaserver fetch --help: download models into a shared folder, as an init container does.\n"
        "llamaserver selftest --help: test the CPU modules of this build on this machine, with a model of yours.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llamaserver {__version__}")
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            _add(group, option)
    parser.set_defaults(ignored=())
    for flags, nargs in ((_IGNORED, 0), (_IGNORED_WITH_VALUE, None)):
        for flag in flags:
            parser.add_argument(flag, action=_Ignore, nargs=nargs, dest=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for flag, why in _REFUSED.items():
        parser.add_argument(flag, action=_Refuse, help=f"refused: {why}", metavar="FNAME")
    return parser


def _add(group: Any, option: Option) -> None:
    text = f"{option.help} (default: {default_text(option)}; ${option.variables[0]})".replace("%", "%%")
    key = option.key
    if option.read is None:
        group.add_argument(*option.flags, dest=key, action="store_const", const="true", help=text)
        if option.off:
            group.add_argument(
                *option.off, dest=key, action="store_const", const="false", help=f"not {option.flags[-1]}"
            )
    elif option.many:
        group.add_argument(*option.flags, dest=key, action="append", metavar=option.value, help=text)
    elif option.bare is not None:
        group.add_argument(*option.flags, dest=key, nargs="?", const=option.bare, metavar=option.value, help=text)
    else:
        group.add_argument(*option.flags, dest=key, metavar=option.value, help=text)


def default_text(option: Option) -> str:
    """The default as --help and docs/reference/options.md show it."""
    if option.default:
        return option.default
    value = next(f.default for f in fields(Config) if f.name == option.field)
    if value is None:
        return "automatic"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if value not in ("", ()) else "none"


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Read a Config; ConfigError names the flag (or variable) and what is wrong with it."""
    given = vars(build_parser().parse_args(list(argv)))
    values: dict[str, Any] = {"ignored": given["ignored"]}
    for option in sorted(OPTIONS, key=lambda o: given.get(o.key) is not None):  # the command line has the last word
        source, texts = _texts(option, given, environ)
        for text in texts:
            try:
                value = _switch(text) if option.read is None else option.read(text)
            except ConfigError as error:
                raise ConfigError(f"{source}: {error}") from None
            if isinstance(value, dict):
                values |= value
            elif isinstance(value, list):
                values[option.field] = tuple(values.get(option.field, ())) + tuple(value)
            else:
                values[option.field] = value
    if "models_dir" not in values and environ.get("LLAMA_CACHE"):
        values["models_dir"] = Path(environ["LLAMA_CACHE"])
    return _checked(Config(**_normalised(values)))


def _texts(option: Option, given: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Where the option was given, and its values there."""
    value = given.get(option.key)
    if value is not None:
        return option.flags[-1], value if isinstance(value, list) else [value]
    for variable in option.variables:
        text = environ.get(variable)
        if text is None and option.off:
            negated = environ.get(variable.replace("LLAMA_ARG_", "LLAMA_ARG_NO_"), "")
            text = "false" if negated.lower() in _TRUE else None
        if text is not None:
            return variable, [] if text == "" and option.many else [text]
    return "", []


def _switch(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ConfigError(f"must be true or false, not {text!r}")


def _normalised(values: dict[str, Any]) -> dict[str, Any]:
    """-1 means automatic for thread counts, as in llama-server."""
    for name in ("threads", "threads_batch", "threads_http"):
        if values.get(name) == -1:
            values[name] = 0
    return values


def _checked(config: Config) -> Config:
    """What no single option can tell."""
    problems = {
        "--grp-attn-w must be a multiple of --grp-attn-n": config.grp_attn_w % config.grp_attn_n != 0,
        "--ssl-key-file and --ssl-cert-file belong together": bool(config.ssl_key_file) != bool(config.ssl_cert_file),
        "--hf-file needs --hf-repo": bool(config.hf_file) and not config.hf_repo,
        "--model-url and --hf-repo exclude each other": bool(config.model_url) and bool(config.hf_repo),
        "--chat-template and --chat-template-file exclude each other": bool(config.chat_template)
        and bool(config.chat_template_file),
        "--management-port must not be --port": config.management_port > 0 and config.management_port == config.port,
        "a model is needed: -m, --model-url or --hf-repo": not (config.model or config.model_url or config.hf_repo),
        "--ctx-size leaves no room for --parallel slots": 0 < config.ctx_size < 8 * config.parallel,
        f"--slot-save-path {config.slot_save_path} is no folder": bool(config.slot_save_path)
        and not (Path(config.slot_save_path).is_dir() or Path(config.slot_save_path).parent.is_dir()),
        "--models-use needs --models-owner": bool(config.models_use) and not config.models_owner,
        f"--api-key-file {config.api_key_file} is no file or folder that can be read": bool(config.api_key_file)
        and not os.access(config.api_key_file, os.R_OK),
        f"--path {config.path} is no folder": bool(config.path) and not Path(config.path).is_dir(),
    }
    for message, wrong in problems.items():
        if wrong:
            raise ConfigError(message)
    return config


_COMMANDS = (
    "`llamaserver fetch` and `llamaserver selftest` are commands of their own, with options of their own: "
    "`llamaserver fetch --help`, `llamaserver selftest --help`."
)


def markdown() -> str:
    """docs/reference/options.md."""
    lines = ["# Options", "", "Made by `python -m llamaserver.options`; a test keeps it current.", ""]
    for title, options in GROUPS.items():
        lines += [f"## {title.capitalize()}", "", "| option | default | environment | meaning |", "|---|---|---|---|"]
        for option in options:
            names = ", ".join(f"`{flag}`" for flag in (*option.flags, *option.off))
            variables = ", ".join(f"`{variable}`" for variable in option.variables)
            lines.append(f"| {names} | {default_text(option)} | {variables} | {option.help} |")
        lines.append("")
    for flag, why in _REFUSED.items():
        lines += [f"`{flag}` is refused: {why}.", ""]
    lines += [_COMMANDS, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(), end="")
