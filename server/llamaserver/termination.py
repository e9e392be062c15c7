"""The termination log: the file in which Kubernetes looks for the reason why a container ended.

A failure that the server notices is one JSON object, {reason, message}. While the process runs, the file holds
{phase, cpu, model_bytes}. After a native crash, the lines of faulthandler follow. A clean end leaves the file empty.
"""

import contextlib
import faulthandler
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from . import cpu

FLAG = "--termination-log"
VARIABLE = "LLAMA_ARG_TERMINATION_LOG"
DEFAULT = "/dev/termination-log"
_LONGEST = 1000  # characters of a message; the kubelet reads 4,096 bytes
_LONGEST_CPU = 200
Phase = Literal["download", "load", "warm-up", "serving", "draining"]


def write(path: str, reason: str, message: str) -> None:
    """Write the reason of a failure, if possible. The default file is used only if it exists."""
    value = {"reason": reason, "message": _plain(message)[:_LONGEST]}
    try:
        if path != DEFAULT or Path(path).exists():
            Path(path).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8", errors="replace")
    except OSError:
        return  # the log has the reason too


class CrashLog:
    """The facts for a process that crashes: its phase, its CPU, and the signal of a native crash.

    If the file cannot be written, the process goes on without it.
    """

    def __init__(self, path: str) -> None:
        self.cpu_module = ""  # ggml's module for this CPU, as soon as one is loaded
        self.model_bytes = 0  # size of the model's files, as soon as they are there
        self._phase: Phase = "load"
        self._file = _opened(path)

    def catch_crashes(self) -> None:
        """Have faulthandler write to the termination log, or to stderr if there is none.

        It writes only the stack of the thread that crashed. The kubelet reads the last 4,096 bytes, and the stacks
        of all threads would push the phase out of them.
        """
        with contextlib.suppress(RuntimeError, ValueError, OSError):  # there is no stderr either
            faulthandler.enable(sys.stderr if self._file is None else self._file, all_threads=False)

    def phase(self, phase: Phase) -> None:
        """Record the phase that begins now."""
        self._phase = phase
        where = ", ".join(part for part in (cpu.model(), self.cpu_module) if part)
        about: dict[str, str | int] = {"phase": phase, "cpu": _plain(where)[:_LONGEST_CPU]}
        if self.model_bytes:
            about["model_bytes"] = self.model_bytes
        self._replace(f"{json.dumps(about, ensure_ascii=False)}\n")

    def runs_on(self, cpu_module: str) -> None:
        """Record the CPU module."""
        self.cpu_module = cpu_module
        self.phase(self._phase)

    def clear(self) -> None:
        """Empty the file, at a clean end or when the log has the reason: then the kubelet reads the log instead."""
        self._replace("")

    def _replace(self, text: str) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.write(self._file, text.encode("utf-8", "replace"))


def _opened(path: str) -> int | None:
    """A file descriptor that appends, so that a crash writes after the phase. None without a file."""
    create = 0 if path == DEFAULT else os.O_CREAT
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | create, 0o644)
    except OSError:
        return None


def _plain(text: str) -> str:
    """The text as one line of printable characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def path_in(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """The path that a command line gives, which may be one that cannot be parsed."""
    found = environ.get(VARIABLE, DEFAULT)
    for place, word in enumerate(argv):
        if word == FLAG and place + 1 < len(argv):
            found = argv[place + 1]
        elif word.startswith(f"{FLAG}="):
            found = word.partition("=")[2]
    return found
