"""The options that place parts of a model on devices."""

from typing import Any

from ...errors import ConfigError
from ...option_readers import choice, integer
from ..option import Option
from ..values import layers, proportions, switch, words

_CPU = "CPU"  # the library's name for the buffer type of host memory
_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # of tensors. As in llama.cpp (common.h)
_DENSE = r"\.ffn_(up|down|gate)\."


def _devices(text: str) -> list[str]:
    names = words(text)
    if not names or ("none" in names and len(names) > 1):
        raise ConfigError("must be none, or names of devices with commas between them (see --list-devices)")
    return names


def _overrides(text: str) -> list[tuple[str, str]]:
    found = []
    for item in words(text):
        pattern, equals, buffers = item.partition("=")
        if not (pattern and equals and buffers):
            raise ConfigError(f"must be PATTERN=BUFFER, such as exps=CPU, not {item!r}")
        found.append((pattern, buffers))
    return found


def _experts(text: str) -> list[tuple[str, str]]:
    return [(_EXPERTS, _CPU)] if switch(text) else []


def _first(pattern: str) -> Any:
    """A reader of a number of layers, for tensors whose names have this pattern."""
    return lambda text: [(rf"blk\.{layer}{pattern}", _CPU) for layer in range(integer(0, 10_000)(text))]


def _split_mode(text: str) -> str:
    if text == "tensor":
        raise ConfigError("tensor is not supported. It is experimental in llama.cpp. Use layer or row")
    return str(choice("none", "layer", "row")(text))


PLACEMENT: tuple[Option, ...] = (
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
        _split_mode,
        value="MODE",
    ),
    Option(
        "tensor_split",
        ("-ts", "--tensor-split"),
        "Share of the model on each GPU, comma-separated",
        proportions,
        value="SPLIT",
    ),
    Option(
        "device",
        ("-dev", "--device"),
        "Devices for the model, comma-separated, or none. --list-devices shows their names",
        _devices,
        value="DEVICES",
        default="all",
    ),
    Option(
        "override_tensor",
        ("-ot", "--override-tensor"),
        "Put tensors whose names match PATTERN into BUFFER, such as exps=CPU. Several are comma-separated. "
        "The first that matches counts, before the options below",
        _overrides,
        many=True,
        value="PATTERN=BUFFER",
    ),
    Option(
        "override_tensor",
        ("-cmoe", "--cpu-moe"),
        "Keep all weights of experts on the CPU",
        _experts,
        bare="on",
        value="on|off",
        env=("LLAMA_ARG_CPU_MOE",),
        default="off",
    ),
    Option(
        "override_tensor",
        ("-ncmoe", "--n-cpu-moe"),
        "Keep the weights of experts of the first N layers on the CPU",
        _first(_EXPERTS),
        env=("LLAMA_ARG_N_CPU_MOE",),
        default="0",
    ),
    Option(
        "override_tensor",
        ("-ncffn", "--n-cpu-ffn"),
        "Keep the feed-forward weights of the first N layers on the CPU",
        _first(_DENSE),
        env=("LLAMA_ARG_N_CPU_FFN",),
        default="0",
    ),
    Option(
        "kv_offload",
        ("-kvo", "--kv-offload"),
        "Keep the KV cache on the device of its layer",
        off=("-nkvo", "--no-kv-offload"),
    ),
    Option("require_offload", ("--require-offload",), "Stay unready if no layer is on a GPU"),
)
