"""The state of the whole library: compute backends, devices and the log.

The reason of a failed load and the number of layers on the GPU are only in the log of llama.cpp.
"""

import ctypes
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from ..errors import ModelLoadError
from . import cpu_modules

_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers")
_BUFFER = re.compile(r"(\S+) model buffer size =")
_FLASH = re.compile(r"Flash Attention (enabled|not supported)")  # logged if the library makes the choice
_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_log = logging.getLogger("llama.cpp")

# These symbols are looked up through libllama. The dynamic linker finds ggml's symbols in the copy that libllama
# uses. Loading libggml by its own path may map a second copy with its own registry.
_ggml: Any = lib._lib
_ggml.ggml_backend_reg_count.restype = ctypes.c_size_t
_ggml.ggml_backend_reg_by_name.restype = ctypes.c_void_p
_ggml.ggml_backend_reg_by_name.argtypes = [ctypes.c_char_p]
_ggml.ggml_backend_load.restype = ctypes.c_void_p
_ggml.ggml_backend_load.argtypes = [ctypes.c_char_p]
_ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
_ggml.ggml_backend_load_all_from_path.restype = None
_ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
_ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
_ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
_ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
_ggml.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
_ggml.ggml_backend_dev_description.restype = ctypes.c_char_p
_ggml.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
_ggml.ggml_backend_dev_name.restype = ctypes.c_char_p
_ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
_ggml.ggml_backend_dev_memory.restype = None
_ggml.ggml_backend_dev_buffer_type.argtypes = [ctypes.c_void_p]
_ggml.ggml_backend_dev_buffer_type.restype = ctypes.c_void_p
_ggml.ggml_backend_buft_name.argtypes = [ctypes.c_void_p]
_ggml.ggml_backend_buft_name.restype = ctypes.c_char_p


class LogCapture:
    """The log of one load: its errors, and the number of layers on the GPU."""

    def __init__(self) -> None:
        self.layers_offloaded = 0
        self.layers_total = 0
        self.flash_attn = ""  # on or off: the library's choice for "auto"
        self.buffers: list[str] = []  # kinds of memory that hold the weights
        self._errors: deque[str] = deque(maxlen=8)

    def see(self, level: int, text: str) -> None:
        """Read one complete message."""
        if level == logging.ERROR:
            self._errors.append(text.strip())
        if found := _OFFLOADED.search(text):
            self.layers_offloaded, self.layers_total = int(found[1]), int(found[2])
        if found := _BUFFER.search(text):
            self.buffers.append(found[1])
        if found := _FLASH.search(text):
            self.flash_attn = "on" if found[1] == "enabled" else "off"

    def last_error(self, otherwise: str = "no reason given by llama.cpp") -> str:
        """The first error. Later messages only repeat it."""
        return self._errors[0] if self._errors else otherwise


class _LogReceiver:
    """Passes the library's log to our log. During a load, also to the capture of that load."""

    def __init__(self) -> None:
        self.capture: LogCapture | None = None
        self._level = logging.INFO

    def receive(self, level: int, text: bytes | None, _: Any) -> None:
        """The library's log callback."""
        if not text:
            return
        self._level = _LEVELS.get(level, self._level)  # an unknown number continues the message before
        message = text.decode(errors="replace").rstrip("\n")
        if self.capture is not None:
            self.capture.see(self._level, message)
        if message.strip(". "):
            _log.log(logging.DEBUG if self._level < logging.WARNING else self._level, message)


_receiver = _LogReceiver()
_starting = threading.Lock()
_started = threading.Event()
LOG_CALLBACK = lib.llama_log_callback(_receiver.receive)  # must exist as long as the library is used


def folder() -> Path:
    """The folder of libllama and of the loadable backends."""
    return Path(lib._lib._name).parent


def initialise(only: Path | None = None) -> None:
    """Load the compute backends, once in a process. Raises ModelLoadError if there is none.

    A build with loadable backends has them beside libllama. By default, the library would search beside the
    interpreter and in the current folder. `only` names the one module to load, instead of the best one for each
    device.
    """
    with _starting:
        if _started.is_set():
            return
        lib.llama_log_set(LOG_CALLBACK, ctypes.c_void_p(0))
        if only is not None:
            _ggml.ggml_backend_load(os.fsencode(only))
        elif _ggml.ggml_backend_reg_count() == 0:
            _ggml.ggml_backend_load_all_from_path(os.fsencode(folder()))
        if _ggml.ggml_backend_reg_count() == 0:
            raise ModelLoadError(f"llama.cpp has no compute backend in {only or folder()}")
        # Each thread gets one range of a matrix's rows (tools/patches.py). A library without our patch ignores this.
        os.environ.setdefault("GGML_ROWS_BY_THREAD", "1")
        lib.llama_backend_init()
        _started.set()


@contextmanager
def capture_log() -> Iterator[LogCapture]:
    """Collect the library's log while a model loads.

    The backends are loaded before, because their errors about missing devices do not concern the model.
    """
    initialise()
    capture = _receiver.capture = LogCapture()
    try:
        yield capture
    finally:
        _receiver.capture = None


class _Place(ctypes.Structure):
    """Dl_info: the file that contains an address."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def cpu_module() -> str:
    """The module of a portable build that is in use on this CPU, such as zen4. "" in other builds.

    The memory map is no source for it. The library has opened every module, and some stay mapped.
    """
    registered = _ggml.ggml_backend_reg_by_name(b"CPU")
    place = _Place()
    if not registered or not ctypes.CDLL(None).dladdr(ctypes.c_void_p(registered), ctypes.byref(place)):
        return ""
    return cpu_modules.name_of(Path(os.fsdecode(place.file)))


@dataclass(frozen=True, slots=True)
class Device:
    """One device. Memory is in bytes. Tensors on it are in buffers of the type that `buffers` names."""

    name: str
    description: str
    is_cpu: bool
    free: int
    total: int
    buffers: str
    handle: int
    buffer_type: int


def available() -> Iterator[Device]:
    """All devices, in the library's order."""
    for index in range(_ggml.ggml_backend_dev_count()):
        device = _ggml.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        _ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        buffer_type = _ggml.ggml_backend_dev_buffer_type(device)
        yield Device(
            name=_ggml.ggml_backend_dev_name(device).decode(errors="replace"),
            description=_ggml.ggml_backend_dev_description(device).decode(errors="replace"),
            is_cpu=_ggml.ggml_backend_dev_type(device) == _CPU,
            free=free.value,
            total=total.value,
            buffers=_ggml.ggml_backend_buft_name(buffer_type).decode(errors="replace"),
            handle=device,
            buffer_type=buffer_type,
        )


def accelerator(names: Sequence[str]) -> str:
    """The description of the first of these devices, or of all, that is not a CPU. "GPU" if there is none."""
    found = (each.description for each in available() if not each.is_cpu and (not names or each.name in names))
    return next(found, "GPU")
