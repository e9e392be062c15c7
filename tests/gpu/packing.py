"""`tests/gpu/pack`: a folder with all that `tests/gpu/run` needs beside this checkout, for a machine without a network.

python/*.whl       llama-cpp-python as it was compiled here, and the locked packages that the server needs
source.tar.xz      the part of llama.cpp's patched source that the CUDA module is compiled from
peer.tar.xz        llama-server as tools/peer.py compiled it
vocabulary.gguf    the default model's tokenizer
amx-fault.so       with --with-amx-fault: the AMX module without our patch
the default model  with --with-model (93 MB)
"""

import argparse
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import gguf

from tests.bench.tiny_model import copy_vocabulary
from tools import build, locked, model, patches, peer, sdist, wheel
from tools.cache import say
from tools.pip import pip, requirements

from .session import FAULT, PEER, SOURCE, VOCABULARY

ROOT = Path(__file__).parents[2]
_SOURCE = ("CMakeLists.txt", "LICENSE", "cmake", "ggml", "include", "src", "vendor")
_BACKENDS = {"ggml-cuda", "ggml-cpu"}  # folders below ggml/src to keep; ggml-base takes a header of the latter
_ROOTS = {"llamaserver", "gguf"}
# Wheels of any Linux with a C library of the last years.
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_FAULTY = "ggml-cpu-sapphirerapids"
_FLAGS = (*build.FLAGS, "-DCMAKE_BUILD_TYPE=Release")


def python_packages(folder: Path, version: str, without: set[str]) -> None:
    """The wheels, for that version of Python."""
    folder.mkdir()
    wanted = locked.needed_by(_ROOTS, locked.read())
    with requirements(locked.text_of(wanted, without={*without, sdist.PACKAGE})) as exactly:
        platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
        for_it = ["--only-binary", ":all:", "--python-version", version, "--implementation", "cp", *platforms]
        pip("download", "--quiet", *for_it, "--dest", str(folder), *exactly)
    shutil.copy2(wheel.ensure(), folder)


def source(archive: Path, top: Path) -> None:
    """What the CUDA module is compiled from."""
    llama = top / "vendor" / "llama.cpp"
    backends = llama / "ggml" / "src"
    for folder in backends.glob("ggml-*/"):
        if folder.name not in _BACKENDS:
            shutil.rmtree(folder)
    _archive(archive, llama, _SOURCE)


def amx_fault(target: Path) -> None:
    """The AMX module from a source without the patch of its barriers, by this machine's compiler."""
    with tempfile.TemporaryDirectory(prefix="amx-fault.") as work:
        mends = [patch for patch in patches.PATCHES if "/amx/" in patch.file]
        top = sdist.unpack(Path(work, "src"), without=mends)
        tree = Path(work, "tree")
        env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        command = ["cmake", "-S", str(top / "vendor" / "llama.cpp"), "-B", str(tree), "-G", "Ninja", *_FLAGS]
        build.run_build(command, "configuring the AMX module", Path(work, "configure.log"), env=env)
        command = ["cmake", "--build", str(tree), "--target", _FAULTY, "-j", str(build.processors())]
        build.run_build(command, "compiling the AMX module", Path(work, "compile.log"), env=env)
        shutil.copy2(tree / "bin" / f"lib{_FAULTY}.so", target)


def vocabulary(path: Path) -> None:
    """The default model's tokenizer, without its weights."""
    writer = gguf.GGUFWriter(path, "llama")
    copy_vocabulary(writer, model.ensure())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _archive(path: Path, folder: Path, names: Iterable[str]) -> None:
    with tarfile.open(path, "w:xz") as archive:
        for name in names:
            archive.add(folder / name, name)


def main() -> None:
    """Make the folder anew, and say how large each part is."""
    parser = argparse.ArgumentParser(
        prog="tests/gpu/pack", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "gpu-pack")
    parser.add_argument("--python", default=here, help="version of the other machine's python3 (default: %(default)s)")
    parser.add_argument("--without", default="", help="comma-separated: packages that its Python has already")
    parser.add_argument("--without-peer", action="store_true", help="leave llama-server out")
    parser.add_argument("--with-model", action="store_true", help="take the default model along")
    parser.add_argument(
        "--with-amx-fault", action="store_true", help="also the AMX module as GCC 12 compiles it unpatched"
    )
    chosen = parser.parse_args()
    folder: Path = chosen.folder
    kept = folder / FAULT  # takes minutes to compile
    fault = kept.read_bytes() if chosen.with_amx_fault and kept.exists() else b""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    python_packages(folder / "python", chosen.python, {name for name in chosen.without.split(",") if name})
    with tempfile.TemporaryDirectory(prefix="gpu-pack.") as work:
        source(folder / SOURCE, sdist.unpack(Path(work, "src")))
    vocabulary(folder / VOCABULARY)
    if not chosen.without_peer:
        built = peer.ensure().parent
        _archive(folder / PEER, built, sorted(path.name for path in built.iterdir()))
    if chosen.with_model:
        shutil.copy2(model.ensure(), folder)
    if chosen.with_amx_fault:
        if fault:
            kept.write_bytes(fault)
        else:
            amx_fault(kept)
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    say(json.dumps(sizes, indent=1))
    print(folder, sum(sizes.values()))


if __name__ == "__main__":
    main()
