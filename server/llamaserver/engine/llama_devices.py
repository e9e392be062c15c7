"""Library-wide matters: initialisation, compute devices, and what the library says in its log.

llama.cpp tells only its log why a load failed and how many layers went to the GPU.
"""

import ctypes
import logging
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp.llama_cpp as lib

_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR, 5: logging.DEBUG}
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers")
_log = logging.getLogger("llama.cpp")
_lock = threading.Lock()
_started = False


class LogCapture:
    """The log of one load: errors kept for messages, offload figures for status."""

    def __init__(self) -> None:
        self.layers_offloaded = 0
        self.layers_total = 0
        self._errors: deque[str] = deque(maxlen=8)

    def see(self, level: int, text: str) -> None:
        """Take one complete message."""
        if level == 4:
            self._errors.append(text.strip())
        if found := _OFFLOADED.search(text):
            self.layers_offloaded, self.layers_total = int(found[1]), int(found[2])

    def last_error(self) -> str:
        """The first thing that went wrong: later messages only pass it on."""
        return self._errors[0] if self._errors else "no reason given by llama.cpp"


_capture: LogCapture | None = None
_level = logging.INFO


def _receive(level: int, text: bytes | None, _: Any) -> None:
    global _level
    if not text:
        return
    _level = _LEVELS.get(level, _level)  # 5 continues the message before
    message = text.decode(errors="replace").rstrip("\n")
    if _capture is not None:
        _capture.see(level, message)
    if message.strip(". "):
        _log.log(logging.DEBUG if _level < logging.WARNING else _level, message)


_callback = lib.llama_log_callback(_receive)  # must outlive every use of the library


def initialise() -> None:
    """Load the compute backends, once a process."""
    global _started
    with _lock:
        if not _started:
            lib.llama_log_set(_callback, ctypes.c_void_p(0))
            lib.llama_backend_init()
            _started = True


@contextmanager
def capture_log() -> Iterator[LogCapture]:
    """Collect the library's log while a model loads."""
    global _capture
    _capture = capture = LogCapture()
    try:
        yield capture
    finally:
        _capture = None


def accelerator() -> str:
    """Description of the first device that is not the CPU, "GPU" when it cannot be told."""
    ggml = ctypes.CDLL(lib._lib._name.replace("libllama", "libggml"))
    base = ctypes.CDLL(lib._lib._name.replace("libllama", "libggml-base"))
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_description.restype = ctypes.c_char_p
    for index in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(index)
        if base.ggml_backend_dev_type(device) != 0:
            return str(base.ggml_backend_dev_description(device).decode(errors="replace"))
    return "GPU"
