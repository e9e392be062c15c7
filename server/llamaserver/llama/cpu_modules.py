"""The CPU modules of a portable build: libraries beside libllama. ggml loads the best one for the machine."""

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

FILE = re.compile(r"libggml-cpu-(.+)\.so")
_FEATURE = re.compile(rb"\0ggml_cpu_has_(\w+)(?=\0)")  # a module's functions, by their names in its symbol table


@dataclass(frozen=True, slots=True)
class Module:
    """One module. `score` orders modules as ggml does, and 0 means that this CPU cannot run it.

    `features` are the CPU features that it was compiled for.
    """

    score: int
    features: tuple[str, ...]


def name_of(path: Path) -> str:
    """The name in a module's file name, such as zen4. "" for other files."""
    found = FILE.fullmatch(path.name)
    return found[1] if found else ""


def modules(folder: Path) -> dict[str, Path]:
    """All modules of a folder, by name. A build with the CPU code compiled in has none."""
    return {name: path for path in sorted(folder.iterdir()) if (name := name_of(path))}


def inspect(path: Path) -> Module:
    """Load a module into this process and read its score, as ggml does at each start. This needs no CPU feature."""
    ctypes.CDLL(str(path.with_name("libggml-base.so")), ctypes.RTLD_GLOBAL)  # the module does not find this itself
    library = ctypes.CDLL(str(path))
    names = [name.decode() for name in _FEATURE.findall(path.read_bytes())]
    features = (name.upper() for name in sorted(set(names)) if getattr(library, f"ggml_cpu_has_{name}")())
    return Module(int(library.ggml_backend_score()), tuple(features))
