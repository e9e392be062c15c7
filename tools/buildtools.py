"""A Python that compiles llama-cpp-python: this one if it can, else one in the cache with the locked build tools.

`make images` and `make demo` run on it, so they do not wait for the packages that only tests and checks use.
`python -m tools.buildtools` prints its path.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path

from . import install, locked
from .cache import cache_dir, exclusive, say

_ROOTS = {"pip", "setuptools", "wheel", "cmake", "ninja", "scikit-build-core", "pyyaml"}


def python() -> Path:
    """Path of that Python."""
    if all(map(importlib.util.find_spec, ("pip", "scikit_build_core", "cmake", "ninja", "yaml"))):
        return Path(sys.executable)
    wanted = locked.text_of(locked.needed_by(_ROOTS, locked.read()), without=set())
    key = hashlib.sha256(f"{sys.version}\n{wanted}".encode()).hexdigest()[:12]
    venv = cache_dir() / "buildtools" / key
    found, stamp = venv / "bin" / "python", venv / ".installed"
    if not stamp.exists():
        with exclusive(venv):
            if not stamp.exists():
                say("installing the locked build tools")
                install.create(venv)
                install.fill(found, wanted)
                stamp.touch()
    return found


if __name__ == "__main__":
    print(python())
