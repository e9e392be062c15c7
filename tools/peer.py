"""The peer of the benchmarks: llama.cpp's own server, from the source of our library.

It is compiled with the flags of our library, but without CPU modules. It gets copies of the modules in our wheel, so
both sides compute with the same machine code. `python -m tools.peer` prints the path of the binary. LLAMA_SERVER_BIN
names another one.
"""

import os
import shlex
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from . import sdist, wheel
from .build import FLAGS as LIBRARY_FLAGS
from .build import build_key, processors, require_compiler, run_build
from .cache import cache_dir, exclusive, replacing

MODULES = "libggml-cpu-*.so"
FLAGS = (
    *(flag for flag in LIBRARY_FLAGS if "ALL_VARIANTS" not in flag and "_INSTALL_" not in flag),
    "-DGGML_CPU=OFF",
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
)


def folder() -> Path:
    """Where the cache keeps this build."""
    key = build_key(*sdist.identity(), *FLAGS, wheel.folder().name)
    return cache_dir() / "peer" / f"llama-server-{sdist.pin().version}-{key}"


def ensure() -> Path:
    """The path of llama-server. It is built when the cache has none."""
    if chosen := os.environ.get("LLAMA_SERVER_BIN"):
        if not os.access(chosen, os.X_OK):
            sys.exit(f"LLAMA_SERVER_BIN is not a program: {chosen}")
        return Path(chosen)
    place = folder()
    if not place.exists():
        with exclusive(place):
            if not place.exists():
                _build(place)
    return place / "llama-server"


def _build(place: Path) -> None:
    require_compiler()
    place.parent.mkdir(parents=True, exist_ok=True)
    tools = Path(sys.executable).parent  # the locked cmake and ninja
    env = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory(prefix=".build.", dir=place.parent) as work:
        source = sdist.unpack(Path(work, "src")) / "vendor" / "llama.cpp"
        build = Path(work, "build")
        configure = ["cmake", "-S", str(source), "-B", str(build), "-G", "Ninja", *FLAGS]
        log = place.with_name(f"{place.name}.configure.log")
        run_build(configure, "configuring llama-server", log, env=env)
        compile_it = ["cmake", "--build", str(build), "--target", "llama-server", "-j", str(processors())]
        log = place.with_name(f"{place.name}.compile.log")
        run_build(compile_it, "compiling llama-server (once)", log, env=env)
        with replacing(place) as scratch:
            shutil.copytree(build / "bin", scratch, symlinks=True, dirs_exist_ok=True)
            _copy_modules(scratch)
            (scratch / "flags.txt").write_text(shlex.join(FLAGS) + "\n")


def _copy_modules(folder: Path) -> None:
    with zipfile.ZipFile(wheel.ensure()) as archive:
        for name in archive.namelist():
            if Path(name).match(MODULES):
                (folder / Path(name).name).write_bytes(archive.read(name))


if __name__ == "__main__":
    print(ensure())
