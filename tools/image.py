"""Build the server's image: `python -m tools.image NAME ACCELERATOR [options of the engine]`.

Uses docker, podman or buildah, whichever is there (CONTAINER_ENGINE names one).
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_CUDA, _ROCM = "12.8.1", "7.2.1"
ARGUMENTS: dict[str, dict[str, str]] = {
    "cpu": {},
    "cuda": {
        "BUILD_BASE": f"nvidia/cuda:{_CUDA}-devel-ubuntu24.04",
        "RUN_BASE": f"nvidia/cuda:{_CUDA}-runtime-ubuntu24.04",
        "CMAKE_ARGS": "-DGGML_CUDA=ON",
    },
    "rocm": {
        "BUILD_BASE": f"rocm/dev-ubuntu-24.04:{_ROCM}-complete",
        "RUN_BASE": f"rocm/dev-ubuntu-24.04:{_ROCM}-complete",
        "CMAKE_ARGS": "-DGGML_HIP=ON -DCMAKE_HIP_COMPILER=/opt/rocm/llvm/bin/clang++",
    },
    "vulkan": {
        "BUILD_BASE": "ubuntu:26.04",
        "RUN_BASE": "ubuntu:26.04",
        "BUILD_PACKAGES": "libvulkan-dev glslc spirv-headers",
        "RUN_PACKAGES": "libgomp1 libvulkan1 mesa-vulkan-drivers",
        "CMAKE_ARGS": "-DGGML_VULKAN=ON",
    },
}


def version() -> str:
    """The server's version."""
    text = (ROOT / "server" / "llamaserver" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"', text, re.MULTILINE)
    return found[1] if found else sys.exit("server/llamaserver/__init__.py has no __version__")


def command(engine: str, name: str, accelerator: str, options: list[str]) -> list[str]:
    """The engine's command line for one image."""
    tag = f"{name}:{version()}" + ("" if accelerator == "cpu" else f"-{accelerator}")
    verb = "bud" if Path(engine).name == "buildah" else "build"
    build = [engine, verb, "-f", "Dockerfile.server", "-t", tag]
    for key, value in {**ARGUMENTS[accelerator], "VERSION": version()}.items():
        build += ["--build-arg", f"{key}={value}"]
    return [*build, *options, "."]


def _engine() -> str:
    if chosen := os.environ.get("CONTAINER_ENGINE"):
        return chosen
    for name in ("docker", "podman", "buildah"):
        works = shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False)
        if works and works.returncode == 0:
            return name
    sys.exit("no working docker, podman or buildah; on Debian or Ubuntu: sudo apt-get install buildah")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[2] not in ARGUMENTS:
        sys.exit(f"usage: python -m tools.image NAME {'|'.join(ARGUMENTS)} [options]")
    build = command(_engine(), sys.argv[1], sys.argv[2], sys.argv[3:])
    sys.exit(subprocess.run(build, cwd=ROOT, check=False).returncode)
