"""The options for fields that requests leave out. Types, bounds and texts come from the table of fields."""

import json
import re
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...interfaces.params import GENERATION_PARAMETERS, SAMPLING_PARAMETERS
from ...option_readers import Reader, integer, number
from ..option import Option
from ..values import given, unescaped

_FIELDS = {item.attribute: item for item in (*GENERATION_PARAMETERS, *SAMPLING_PARAMETERS)}
_BIAS = re.compile(r"\s*(\d+)\s*([+-])\s*(inf|[0-9.]+(?:e[+-]?\d+)?)\s*", re.IGNORECASE)
_LARGEST_SEED = 2**64


def _option(attribute: str, *flags: str, read: Reader | None = None, **more: Any) -> Option:
    """The option for one field."""
    item = _FIELDS[attribute]
    kinds: dict[Any, Reader] = {
        int: integer(**{"low": -(2**31), **item.bounds}),
        float: number(**{"low": -1e9, **item.bounds}),
    }
    words: dict[str, Any] = {"env": (f"LLAMA_ARG_{attribute.upper()}",), "default": _shown(item.default)} | more
    return Option(
        "request_defaults", flags, item.text.rstrip("."), read or kinds.get(item.kind), request=item.names[0], **words
    )


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, int | float) else "none"


def _biases(text: str) -> list[list[Any]]:
    """ID+BIAS or ID-BIAS. An infinite negative bias forbids the token, which requests write as false."""
    if (found := _BIAS.fullmatch(text)) is None:
        raise ConfigError(f"must be a token id, + or -, and a number, such as 15043-1, not {text!r}")
    bias = float(found[2] + found[3])
    if bias == float("inf"):
        raise ConfigError("a bias must not be +inf")
    return [[int(found[1]), False if bias == float("-inf") else bias]]


def _breakers(text: str) -> list[str]:
    return [] if text == "none" else [unescaped(text)]


def _stops(text: str) -> list[str]:
    return [unescaped(text)]


def _names(text: str) -> list[str]:
    return [name for name in re.split("[;,]", text) if name]


def _schema(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is no JSON: {error}") from None


def _contents(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


SAMPLING: tuple[Option, ...] = (
    _option(
        "seed",
        *("-s", "--seed"),
        read=integer(-_LARGEST_SEED, _LARGEST_SEED),
        env=("LLAMA_ARG_SEED",),
        default="-1",
    ),
    _option("temperature", "--temp", "--temperature"),
    _option("top_k", "--top-k"),
    _option("top_p", "--top-p"),
    _option("min_p", "--min-p"),
    _option("tfs_z", "--tfs"),
    _option("typical_p", "--typical", "--typical-p"),
    _option("top_n_sigma", "--top-nsigma", "--top-n-sigma"),
    _option("dynatemp_range", "--dynatemp-range"),
    _option("dynatemp_exponent", "--dynatemp-exp"),
    _option("xtc_probability", "--xtc-probability"),
    _option("xtc_threshold", "--xtc-threshold"),
    _option("repeat_last_n", "--repeat-last-n"),
    _option("repeat_penalty", "--repeat-penalty", default="1.1; 1 on the endpoints of OpenAI's API"),
    _option("presence_penalty", "--presence-penalty"),
    _option("frequency_penalty", "--frequency-penalty"),
    _option("penalize_nl", "--penalize-nl", off=("--no-penalize-nl",)),
    _option("dry_multiplier", "--dry-multiplier"),
    _option("dry_base", "--dry-base"),
    _option("dry_allowed_length", "--dry-allowed-length"),
    _option("dry_penalty_last_n", "--dry-penalty-last-n"),
    _option(
        "dry_sequence_breakers",
        "--dry-sequence-breaker",
        read=_breakers,
        many=True,
        value="STRING",
        default=r'\n, :, ", *',
    ),
    _option("mirostat", "--mirostat"),
    _option("mirostat_eta", "--mirostat-lr"),
    _option("mirostat_tau", "--mirostat-ent"),
    _option("samplers", "--samplers", read=_names, value="NAMES", default="chosen by the other options"),
    _option(
        "samplers",
        *("--sampler-seq", "--sampling-seq"),
        read=given,
        value="LETTERS",
        env=("LLAMA_ARG_SAMPLING_SEQ",),
    ),
    _option("ignore_eos", "--ignore-eos"),
    _option("logit_bias", "-l", "--logit-bias", read=_biases, many=True, value="ID+BIAS"),
    _option("grammar", "--grammar", read=given, value="GBNF"),
    _option(
        "grammar",
        "--grammar-file",
        read=lambda path: given(_contents(path)),
        value="FNAME",
        env=("LLAMA_ARG_GRAMMAR_FILE",),
    ),
    Option(
        "request_defaults",
        ("-j", "--json-schema"),
        "JSON schema of the answer",
        _schema,
        env=("LLAMA_ARG_JSON_SCHEMA",),
        request="json_schema",
        value="SCHEMA",
        default="none",
    ),
    Option(
        "request_defaults",
        ("-jf", "--json-schema-file"),
        "File with a JSON schema of the answer",
        lambda path: _schema(_contents(path)),
        env=("LLAMA_ARG_JSON_SCHEMA_FILE",),
        request="json_schema",
        value="FNAME",
        default="none",
    ),
    _option("stop", "-r", "--reverse-prompt", read=_stops, many=True, value="TEXT", env=("LLAMA_ARG_REVERSE_PROMPT",)),
    _option("n_keep", "--keep", env=("LLAMA_ARG_KEEP",)),
    _option("cache_prompt", "--cache-prompt", off=("--no-cache-prompt",)),
)
