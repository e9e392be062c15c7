"""The GPU and the CUDA toolkit of this machine, as `nvidia-smi` and the file system tell."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .report import NotRun

_FIELDS = ("name", "memory.total", "compute_cap", "driver_version")
_TARGET = "targets/x86_64-linux"


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first one."""

    name: str
    memory_mib: int
    capability: str  # "9.0"
    driver: str

    @property
    def architecture(self) -> str:
        """As CMAKE_CUDA_ARCHITECTURES has it: code for this card alone."""
        return f"{self.capability.replace('.', '')}-real"


def gpu() -> Gpu | None:
    """The GPU; None without one."""
    lines = _smi(_FIELDS)
    if not lines:
        return None
    name, memory, capability, driver = (part.strip() for part in lines[0].split(","))
    return Gpu(name, int(memory), capability, driver)


def memory_used_mib() -> int:
    """Of the first GPU, by all processes; 0 where that is not told."""
    lines = _smi(("memory.used",))
    return int(lines[0]) if lines and lines[0].strip().isdigit() else 0


def _smi(fields: Sequence[str]) -> list[str]:
    program = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/local/nvidia/bin")
    if not program:
        return []
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.splitlines() if done.returncode == 0 else []


@dataclass(frozen=True, slots=True)
class Toolkit:
    """What a build with nvcc needs. Parts that the toolkit itself lacks may come from Python packages of NVIDIA."""

    nvcc: Path
    root: Path
    release: str  # "13.0"
    blas_include: Path  # has cublas_v2.h
    blas: Path  # libcublas.so*
    blas_lt: Path
    driver: Path  # libcuda.so*, the stub or the real one

    @property
    def library_folders(self) -> list[Path]:
        """Where the module finds the runtime and cuBLAS when it is loaded."""
        runtime = [folder for folder in _libraries(self.root) if any(folder.glob("libcudart.so*"))]
        return list(dict.fromkeys([*runtime, self.blas.parent]))


def toolkit() -> Toolkit:
    """The toolkit; NotRun says which part of it is missing."""
    nvcc = _nvcc()
    root = nvcc.resolve().parent.parent
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+\.\d+)", told)
    if not release:
        raise NotRun(f"{nvcc} does not tell its release")
    major = release[1].partition(".")[0]
    packages = sorted(path for entry in sys.path for path in Path(entry or ".").glob("nvidia/*") if path.is_dir())
    libraries = [*_libraries(root), *(path / "lib" for path in packages)]
    includes = [*_includes(root), *(path / "include" for path in packages)]
    _first((path / "cub" / "cub.cuh" for path in (*includes, *(path / "cccl" for path in includes))), "cub/cub.cuh")
    return Toolkit(
        nvcc=nvcc,
        root=root,
        release=release[1],
        blas_include=_first((path / "cublas_v2.h" for path in includes), "cublas_v2.h").parent,
        blas=_library(libraries, "libcublas.so", major),
        blas_lt=_library(libraries, "libcublasLt.so", major),
        driver=_first(_drivers(root), "libcuda.so"),
    )


def _nvcc() -> Path:
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [Path(home, "bin", "nvcc") for home in (*homes, "/usr/local/cuda") if home]
    on_path = shutil.which("nvcc")
    found = [*([Path(on_path)] if on_path else []), *places, *sorted(Path("/usr/local").glob("cuda-*/bin/nvcc"))]
    return _first(found, "nvcc")


def _includes(root: Path) -> list[Path]:
    return [root / "include", root / _TARGET / "include"]


def _libraries(root: Path) -> list[Path]:
    return [root / "lib64", root / _TARGET / "lib", root / "lib"]


def _library(folders: Sequence[Path], name: str, major: str) -> Path:
    return _first((folder / each for folder in folders for each in (name, f"{name}.{major}")), name)


def _drivers(root: Path) -> list[Path]:
    stubs = [folder / "stubs" / "libcuda.so" for folder in _libraries(root)]
    known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    real = [Path(line.rpartition("=> ")[2]) for line in known.splitlines() if "libcuda.so.1 " in line]
    return [*stubs, *real, *Path("/usr/local/nvidia").glob("lib*/libcuda.so.1")]


def _first(places: Iterable[Path], what: str) -> Path:
    for place in places:
        if place.exists():
            return place
    raise NotRun(f"{what} is not on this machine")
