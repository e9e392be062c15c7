"""A Python with the locked build tools, for compiling llama-cpp-python.

It is this Python, if it has the tools. Otherwise it is one in the cache.

`make images` and `make demo` use it, so they do not wait for the packages of tests and checks.
`python -m tools.buildtools` prints its path.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path

from . import install, locked
from .cache import cache_dir, exclusive, say

_ROOTS = {"pip", "setuptools", "wheel", "cmake", "ninja", "scikit-build-core", "pyyaml", "cyclonedx-python-lib"}


def python() -> Path:
    """The path of that Python."""
    if all(map(importlib.util.find_spec, ("pip", "scikit_build_core", "cmake", "ninja", "yaml", "cyclonedx"))):
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
