"""Readers of option values that are more than one number or one word. Each raises ConfigError."""

import csv
import re
from ipaddress import ip_network
from typing import Any

from ..config import MAX_SEQUENCES
from ..errors import ConfigError
from ..option_readers import Reader, choice, integer, number

_AUTOMATIC_SLOTS = 4
_VERBOSE_FROM = 4  # llama-server's level of debug messages
_METADATA: dict[str, Reader] = {
    "int": integer(-(2**63), 2**63 - 1),
    "float": number(-1e308, 1e308),
    "bool": lambda text: choice("true", "false")(text) == "true",
    "str": str,
}
_LONGEST_METADATA = 127  # bytes, of llama_model_kv_override
_ESCAPE = re.compile(r"""\\([nrt'"\\])""")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "'": "'", '"': '"', "\\": "\\"}
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_FLASH_ATTENTION = {"1": "on", "true": "on", "enabled": "on", "0": "off", "false": "off", "disabled": "off"}


def switch(text: str) -> bool:
    """True or false, in the words that llama-server accepts in environment variables."""
    if is_true(text):
        return True
    if text.lower() in ("0", "false", "off", "no", "disabled"):
        return False
    raise ConfigError(f"must be true or false, not {text!r}")


def is_true(text: str) -> bool:
    """Whether a text is a word for true."""
    return text.lower() in ("1", "true", "on", "yes", "enabled")


def reranking(text: str) -> dict[str, Any]:
    """The values of --embedding and --pooling."""
    return {"embedding": True, "pooling": "rank"} if switch(text) else {}


def layers(text: str) -> int:
    """A number of layers. -1 is all of them."""
    return -1 if text in ("all", "auto") else int(integer(-1)(text))


def flash_attention(text: str) -> str:
    """Auto, on or off."""
    return str(choice("auto", "on", "off")(_FLASH_ATTENTION.get(text, text)))


def load_mode(text: str) -> dict[str, bool]:
    """The values of --mmap and --mlock, and whether to read past the system's cache."""
    choice("auto", "none", "mmap", "mlock", "mmap+mlock", "dio")(text)
    return {"mmap": text in ("auto", "mmap", "mmap+mlock"), "mlock": "mlock" in text, "direct_io": text == "dio"}


def slots(text: str) -> int | dict[str, Any]:
    """The number of slots. -1 is what llama-server makes of it: four slots that share the KV cache."""
    number_of = int(integer(-1, MAX_SEQUENCES)(text))
    if number_of == 0:
        raise ConfigError(f"must be -1, or between 1 and {MAX_SEQUENCES}")
    return number_of if number_of > 0 else {"parallel": _AUTOMATIC_SLOTS, "kv_unified": True}


def rope_scale(text: str) -> float:
    """The frequency scale for a context factor."""
    return 1.0 / float(number(1e-3)(text))


def verbosity(text: str) -> bool:
    """Whether this level of llama-server means more messages than usual."""
    return int(integer(0)(text)) >= _VERBOSE_FROM


def proportions(text: str) -> tuple[float, ...]:
    """Numbers with commas or slashes between them."""
    return tuple(number(0.0)(part) for part in text.replace("/", ",").split(","))


def adapters(text: str) -> list[tuple[str, float]]:
    """Files of LoRA adapters, each with the scale 1."""
    return [(path, 1.0) for path in words(text)]


def scaled_adapters(text: str) -> list[tuple[str, float]]:
    """Files of LoRA adapters, each with its scale."""
    found = []
    for item in words(text):
        path, colon, scale = item.rpartition(":")
        if not colon:
            raise ConfigError("must be FILE:SCALE")
        found.append((path, number(-1e3, 1e3)(scale)))
    return found


def metadata(text: str) -> list[tuple[str, int | float | bool | str]]:
    """Keys of a model's metadata with values, KEY=TYPE:VALUE. Quotes protect commas, as in CSV."""
    return [_entry(item) for item in next(csv.reader([text]), [])]


def _entry(item: str) -> tuple[str, int | float | bool | str]:
    key, _, typed = item.partition("=")
    kind, colon, text = typed.partition(":")
    if not (key and colon and kind in _METADATA):
        raise ConfigError(f"must be KEY=TYPE:VALUE with the type int, float, bool or str, not {item!r}")
    value: int | float | bool | str = _METADATA[kind](text)
    if max(len(key.encode()), len(text.encode())) > _LONGEST_METADATA:
        raise ConfigError(f"a key or value is longer than {_LONGEST_METADATA} bytes")
    return key, value


def secrets(text: str) -> list[str]:
    """API keys between commas. An empty one would leave the server open to all."""
    keys = text.split(",")
    if not all(key.strip() for key in keys):
        raise ConfigError("an API key is empty")
    return keys


def given(text: str) -> str:
    """A text that must not be empty."""
    if not text:
        raise ConfigError("must not be empty")
    return text


def unescaped(text: str) -> str:
    """The text with its escape sequences replaced, as llama-server does it."""
    return _ESCAPE.sub(lambda found: _ESCAPES[found[1]], text)


def words(text: str) -> list[str]:
    """The parts between commas, without empty ones."""
    return [part for part in text.split(",") if part]


def hosts(text: str) -> list[str]:
    """Hosts between commas, each with or without a port, and networks."""
    for part in words(text):
        try:
            ip_network(part, strict=False)
        except ValueError:
            if not _HOST.fullmatch(part):
                raise ConfigError(f"{part!r} is not a host, a host with a port, or a network") from None
    return words(text)


def any_or_words(text: str) -> tuple[str, ...]:
    """The parts between commas, none if one of them is *."""
    found = tuple(part.strip() for part in words(text))
    return () if "*" in found else found
