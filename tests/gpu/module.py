"""The CUDA module: libggml-cuda.so for the card at hand, from the source that all other libraries are built from.

The library loads its compute backends as modules. So only this one has to be compiled on a machine with a
GPU; laid beside the CPU's modules it makes the CUDA library of ours, and that of llama-server.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.build import FLAGS as LIBRARY_FLAGS
from tools.build import processors

from .hardware import Gpu, Toolkit
from .report import NotRun

NAME = "libggml-cuda.so"
# Only the module is built, so nothing of the CPU and of the programs is configured. Kernels of flash attention
# for quantized KV caches are left out: the kit does not use them, and they take long to compile.
FLAGS = (
    *(flag for flag in LIBRARY_FLAGS if flag.startswith("-DGGML") and "CPU" not in flag),
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_CUDA=ON",
    "-DGGML_CUDA_FA_QUANTS=f16-f16",
    "-DGGML_CUDA_NCCL=OFF",
    "-DGGML_CUDA_COMPRESSION_MODE=speed",
    "-DGGML_CPU=OFF",
    "-DGGML_CCACHE=OFF",
    *(f"-DLLAMA_BUILD_{part}=OFF" for part in ("COMMON", "TESTS", "TOOLS", "EXAMPLES", "SERVER", "APP")),
)


def build(source: Path, folder: Path, card: Gpu, kit: Toolkit) -> Path:
    """Path of the module, compiled in `folder`; a build that was interrupted goes on. Exits when it fails."""
    tree = folder / "tree"
    tree.mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where .venv has cmake and ninja
    env = os.environ | {"CUDACXX": str(kit.nvcc), "PATH": path}
    command = ["cmake", "-S", str(source), "-B", str(tree), *FLAGS, *_where(folder, card, kit)]
    if shutil.which("ninja", path=path):
        command += ["-G", "Ninja"]
    log = folder / "build.log"
    _run(command, log, env)
    _run(["cmake", "--build", str(tree), "--target", "ggml-cuda", "-j", str(processors())], log, env)
    return tree / "bin" / NAME


def _where(folder: Path, card: Gpu, kit: Toolkit) -> list[str]:
    # A folder with nothing but cuBLAS: the packages of NVIDIA have headers of another release beside it.
    headers = folder / "cublas"
    headers.mkdir(exist_ok=True)
    for header in kit.blas_include.glob("cublas*.h"):
        link = headers / header.name
        link.unlink(missing_ok=True)
        link.symlink_to(header)
    places = ";".join(["$ORIGIN", *map(str, kit.library_folders)])
    return [
        f"-DCMAKE_CUDA_ARCHITECTURES={card.architecture}",
        f"-DCUDAToolkit_ROOT={kit.root}",
        f"-DCUDA_cublas_LIBRARY={kit.blas}",
        f"-DCUDA_cublasLt_LIBRARY={kit.blas_lt}",
        f"-DCUDA_cuda_driver_LIBRARY={kit.driver}",
        f"-DCMAKE_CUDA_FLAGS=-I{headers}",
        "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
        f"-DCMAKE_INSTALL_RPATH={places}",
    ]


def _run(command: list[str], log: Path, env: dict[str, str]) -> None:
    with log.open("a") as out:
        try:
            program = shutil.which(command[0], path=env["PATH"]) or command[0]
            done = subprocess.run(
                [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, check=False
            )
        except FileNotFoundError as error:
            raise NotRun(f"{command[0]} is not on this machine") from error
    if done.returncode != 0:
        end = log.read_text(errors="replace").splitlines()[-40:]
        sys.exit("\n".join([*end, f"{command[0]} failed with status {done.returncode}; all of its output is in {log}"]))


def laid_beside(module: Path, libraries: Path, folder: Path) -> Path:
    """A copy of a folder of libraries with the module in it."""
    if not (folder / NAME).exists():
        shutil.copytree(libraries, folder, symlinks=True, dirs_exist_ok=True)
        shutil.copy2(module, folder / NAME)
    return folder
