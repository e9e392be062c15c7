"""Where the library puts the parts of a model, and what it reads instead of the metadata in the file."""

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as lib

from ..errors import ConfigError
from . import devices
from .options import LoadOptions

_MIB = 1024 * 1024
_SPLIT = {"none": 0, "layer": 1, "row": 2}
_LOAD_MODE = {  # the key is (mmap, mlock)
    (False, False): lib.LLAMA_LOAD_MODE_NONE,
    (True, False): lib.LLAMA_LOAD_MODE_AUTO,  # maps the file if the devices can use it so
    (False, True): lib.LLAMA_LOAD_MODE_MLOCK,
    (True, True): lib.LLAMA_LOAD_MODE_MMAP_MLOCK,
}


class _BufferOverride(ctypes.Structure):
    """llama_model_tensor_buft_override. A null pattern ends an array of them."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffers", ctypes.c_void_p))


def model_parameters(options: LoadOptions) -> tuple[Any, list[Any]]:
    """The library's parameters of a model, and what must live as long as the model. Raises ConfigError."""
    params = lib.llama_model_default_params()
    params.n_gpu_layers = options.n_gpu_layers
    params.main_gpu = options.main_gpu
    params.split_mode = _SPLIT[options.split_mode]
    params.load_mode = lib.LLAMA_LOAD_MODE_DIRECT_IO if options.direct_io else _LOAD_MODE[options.mmap, options.mlock]
    kept: list[Any] = []
    if options.tensor_split:
        splits = (ctypes.c_float * max(lib.llama_max_devices(), 1))(*options.tensor_split)
        params.tensor_split = splits
        kept.append(splits)
    if options.device:
        kept.append(_devices(options.device))
        params.devices = ctypes.cast(kept[-1], ctypes.c_void_p)
    if options.override_tensor:
        kept.append(_buffers(options.override_tensor))
        params.tensor_buft_overrides = ctypes.cast(kept[-1], ctypes.c_void_p)
    if options.override_kv:
        kept.append(_metadata(options.override_kv))
        params.kv_overrides = kept[-1]
    return params, kept


def check(names: Sequence[str], overrides: Sequence[tuple[str, str]]) -> None:
    """Raise ConfigError for a device or buffer type that the library does not know. Loads the backends."""
    devices.initialise()
    _devices(names)
    _buffers(overrides)


def _devices(names: Sequence[str]) -> Any:
    """A null-terminated array of devices."""
    known = {device.name: device.handle for device in devices.available() if not device.is_cpu}
    for name in names:
        if name not in known and name != "none":
            has = ", ".join(known) or "none"
            raise ConfigError(f"--device {name}: there is no such device. Devices of this machine: {has}")
    return (ctypes.c_void_p * (len(names) + 1))(*(known.get(name) for name in names))


def _buffers(overrides: Sequence[tuple[str, str]]) -> Any:
    """An array that ends with a null pattern."""
    known = {device.buffers: device.buffer_type for device in devices.available()}
    for pattern, name in overrides:
        if name not in known:
            has = ", ".join(known)
            raise ConfigError(f"--override-tensor {pattern}={name}: buffer types of this machine are {has}")
    pairs = [_BufferOverride(pattern.encode(), known[name]) for pattern, name in overrides]
    return (_BufferOverride * (len(pairs) + 1))(*pairs)


def _metadata(overrides: Sequence[tuple[str, int | float | bool | str]]) -> Any:
    """An array that ends with an empty key."""
    array = (lib.llama_model_kv_override * (len(overrides) + 1))()
    for item, (key, value) in zip(array, overrides, strict=False):
        item.key = key.encode()
        if isinstance(value, bool):
            item.tag, item.value.val_bool = lib.LLAMA_KV_OVERRIDE_TYPE_BOOL, value
        elif isinstance(value, int):
            item.tag, item.value.val_i64 = lib.LLAMA_KV_OVERRIDE_TYPE_INT, value
        elif isinstance(value, float):
            item.tag, item.value.val_f64 = lib.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
        else:
            item.tag, item.value.val_str = lib.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
    return array


def listed() -> str:
    """The devices that can take layers, in the form of llama-server's --list-devices. Loads the backends."""
    devices.initialise()
    lines = [
        f"  {each.name}: {each.description} ({each.total // _MIB} MiB, {each.free // _MIB} MiB free)"
        for each in devices.available()
        if not each.is_cpu
    ]
    return "\n".join(["Available devices:", *(lines or ["  (none)"])])
