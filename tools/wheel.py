"""The llama-cpp-python wheel: compiled once and kept in the cache.

`python -m tools.wheel` prints its path. The Python that runs it must have the locked build tools. CMAKE_ARGS adds
flags, such as -DGGML_CUDA=ON.
"""

import os
import shlex
import sys
import tempfile
from pathlib import Path

from . import sdist
from .build import FLAGS, build_key, processors, require_compiler, run_build
from .cache import cache_dir, exclusive, replacing

# Files that only a C++ build against the library reads.
_LEFT_OUT = ("include/**", "**/cmake/**", "**/pkgconfig/**", "bin/**")


def flags() -> tuple[str, ...]:
    """The CMake flags, and those of the environment."""
    return (*FLAGS, *shlex.split(os.environ.get("CMAKE_ARGS", "")))


def folder() -> Path:
    """Where the cache keeps this build."""
    key = build_key(*sdist.identity(), *_LEFT_OUT, *flags())
    return cache_dir() / "wheels" / f"{sdist.PACKAGE}-{sdist.pin().version}-{key}"


def ensure() -> Path:
    """The path of the wheel. It is built when the cache has none."""
    place = folder()
    if not place.exists():
        with exclusive(place):
            if not place.exists():
                _build(place)
    (wheel,) = place.glob("*.whl")
    return wheel


def _build(place: Path) -> None:
    require_compiler()
    place.parent.mkdir(parents=True, exist_ok=True)
    work = tempfile.TemporaryDirectory(prefix=".source.", dir=place.parent)
    with work as unpacked, replacing(place) as scratch:
        source = sdist.unpack(Path(unpacked))
        (scratch / "flags.txt").write_text(shlex.join(flags()) + "\n")
        # The locked cmake and ninja are beside this Python.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = os.environ | {"PATH": path, "CMAKE_ARGS": shlex.join(flags())}
        env.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(processors()))
        command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation"]
        command += [f"--config-settings=wheel.exclude={';'.join(_LEFT_OUT)}"]
        command += ["--no-cache-dir", "--wheel-dir", str(scratch), str(source)]
        run_build(command, f"compiling {sdist.PACKAGE} (once)", place.with_name(f"{place.name}.log"), env=env)


if __name__ == "__main__":
    print(ensure())
