"""The llama-cpp-python wheel: compiled once for a set of flags, kept in the cache, its path printed.

Run by the Python of .venv, which has the locked build tools: `python -m tools.wheel [native|portable]`.
CMAKE_ARGS in the environment is added to the flags: -DGGML_CUDA=ON, say.
"""

import os
import shlex
import sys
import tempfile
from pathlib import Path

from . import sdist
from .build import NATIVE_FLAGS, PORTABLE_FLAGS, build_key, processors, require_compiler, run_build
from .cache import cache_dir, exclusive, replacing

FLAVOURS = {"native": NATIVE_FLAGS, "portable": PORTABLE_FLAGS}


def flags_for(flavour: str) -> tuple[str, ...]:
    """The CMake flags of a flavour, then those of the environment."""
    return (*FLAVOURS[flavour], *shlex.split(os.environ.get("CMAKE_ARGS", "")))


def folder_for(flavour: str) -> Path:
    """Where the cache keeps this build."""
    flags = flags_for(flavour)
    key = build_key(*sdist.identity(), *flags, native="-DGGML_NATIVE=OFF" not in flags)
    return cache_dir() / "wheels" / f"{sdist.PACKAGE}-{sdist.pin().version}-{flavour}-{key}"


def ensure(flavour: str = "native") -> Path:
    """Path of the wheel, built now if the cache has none."""
    folder = folder_for(flavour)
    if not folder.exists():
        with exclusive(folder):
            if not folder.exists():
                _build(folder, flavour)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _build(folder: Path, flavour: str) -> None:
    require_compiler()
    flags = flags_for(flavour)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = tempfile.TemporaryDirectory(prefix=".source.", dir=folder.parent)
    with work as place, replacing(folder) as scratch:
        source = sdist.unpack(Path(place))
        (scratch / "flags.txt").write_text(shlex.join(flags) + "\n")
        # The locked cmake and ninja are beside this Python.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = os.environ | {"PATH": path, "CMAKE_ARGS": shlex.join(flags)}
        env.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(processors()))
        command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation"]
        command += ["--no-cache-dir", "--wheel-dir", str(scratch), str(source)]
        title = f"compiling {sdist.PACKAGE} ({flavour}, once)"
        run_build(command, title, folder.with_name(f"{folder.name}.log"), env)


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "native"
    if chosen not in FLAVOURS:
        sys.exit(f"usage: python -m tools.wheel [{'|'.join(FLAVOURS)}]")
    print(ensure(chosen))
