"""The CPU modules of a portable build: libraries beside libllama, of which ggml loads the best for the machine."""

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

FILE = re.compile(r"libggml-cpu-(.+)\.so")
_FEATURE = re.compile(rb"\0ggml_cpu_has_(\w+)(?=\0)")  # functions of a module, by their names in its symbol table


@dataclass(frozen=True, slots=True)
class Module:
    """`score` orders modules as ggml does, 0: this CPU cannot run it. `features` are those it was compiled for."""

    score: int
    features: tuple[str, ...]


def name_of(path: Path) -> str:
    """The name of a module's file, such as zen4; "" for other files."""
    found = FILE.fullmatch(path.name)
    return found[1] if found else ""


def modules(folder: Path) -> dict[str, Path]:
    """All modules of a folder, by name; none where the CPU code is compiled in."""
    return {name: path for path in sorted(folder.iterdir()) if (name := name_of(path))}


def inspect(path: Path) -> Module:
    """Load a module into this process and read its score, as ggml does at each start. That needs no CPU feature."""
    ctypes.CDLL(str(path.with_name("libggml-base.so")), ctypes.RTLD_GLOBAL)  # which it would not find by itself
    library = ctypes.CDLL(str(path))
    names = [name.decode() for name in _FEATURE.findall(path.read_bytes())]
    features = (name.upper() for name in sorted(set(names)) if getattr(library, f"ggml_cpu_has_{name}")())
    return Module(int(library.ggml_backend_score()), tuple(features))
