"""Our two images: `python -m tools.images build|export FOLDER|push REGISTRY`.

    build            llamaserver:VERSION and llamaserver-operator:VERSION in the container engine's store
    export FOLDER    both as archives, for a cluster without a registry (a second for an unchanged tree)
    push REGISTRY    build both and push them under REGISTRY/

Each gets a bill of materials (tools/sbom.py): in build/sbom/, or beside the archive.
Each is built from a folder that holds exactly what its Dockerfile uses, so a change elsewhere rebuilds nothing.
"""

import argparse
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import bases, buildtools, standin
from .cache import cache_dir, exclusive, say
from .container import Engine, engine

ROOT = Path(__file__).parent.parent
_CUDA, _ROCM = "12.8.1", "7.2.1"
ACCELERATORS: dict[str, dict[str, str]] = {
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
# The C library of Debian bookworm, the release of the base images. A library linked to a newer one does not run there.
_BASE_LIBC = (2, 36)
_LOCKED = ("tools/__init__.py", "tools/locked.py")
_COMPILES = tuple(
    f"tools/{name}.py" for name in ("build", "cache", "patches", "pip", "progress", "sdist", "system_packages", "wheel")
)
_KEPT = 3  # archives of each image in the cache
BILLS = ROOT / "build" / "sbom"


@dataclass(frozen=True)
class Image:
    """One of our images: `package` is the folder of its Python package."""

    name: str
    package: str
    dockerfile: str
    needs_llama: bool

    @property
    def version(self) -> str:
        """The version of both images."""
        return (ROOT / "VERSION").read_text(encoding="utf-8").strip()

    def tag(self, accelerator: str) -> str:
        """Name and tag, without a registry."""
        variant = f"-{accelerator}" if self.needs_llama and accelerator != "cpu" else ""
        return f"{self.name}:{self.version}{variant}"

    def arguments(self, accelerator: str) -> dict[str, str]:
        """Build arguments. The bases are those of the Dockerfile or the accelerator, by the digests of bases.lock."""
        usual = {"BUILD_BASE": _usual_base(), "RUN_BASE": _usual_base()}
        given = usual | (ACCELERATORS[accelerator] if self.needs_llama else {}) | {"VERSION": self.version}
        return {name: bases.pinned(value) if name.endswith("_BASE") else value for name, value in given.items()}


SERVER = Image("llamaserver", "server", "Dockerfile.server", needs_llama=True)
OPERATOR = Image("llamaserver-operator", "operator", "Dockerfile.operator", needs_llama=False)
IMAGES = (SERVER, OPERATOR)


def build(accelerator: str, base: str = "") -> list[str]:
    """Build both images. Returns their tags."""
    used, tags = engine(), []
    for image in IMAGES:
        with _context(image, accelerator) as context:
            tags.append(_build(used, image, accelerator, base, context))
        _bill(used, image, accelerator, base, BILLS / f"{tags[-1].replace(':', '-')}.cdx.json")
    return tags


def export(folder: Path, base: str = "") -> dict[str, Path]:
    """Write both CPU images as archives into `folder`. Returns their paths by image name."""
    folder.mkdir(parents=True, exist_ok=True)
    exported = {}
    for image in IMAGES:
        archive = folder / f"{image.name}.tar"
        made = prepare(image, base)
        for source, target in ((made, archive), (_bill_of(made), _bill_of(archive))):
            target.unlink(missing_ok=True)
            _link(source, target)
        exported[f"localhost/{image.tag('cpu')}"] = archive
    return exported


def prepare(image: Image, base: str = "") -> Path:
    """The path of the CPU image in the cache. The image is built when the cache has none with this content."""
    with _context(image, "cpu") as context:
        cached = cache_dir() / "images" / f"{image.name}-{_digest(context, base)}.tar"
        with exclusive(cached):
            if not (cached.exists() and _bill_of(cached).exists()):
                _export(image, base, context, cached)
            cached.touch()
    return cached


def _bill_of(archive: Path) -> Path:
    return archive.with_suffix(".cdx.json")


def _bill(used: Engine, image: Image, accelerator: str, base: str, file: Path) -> None:
    """Write the bill of materials of an image that was just built."""
    tag = image.tag(accelerator)
    packages = used.output(tag, "cat", "/usr/lib/os-release", "/var/lib/dpkg/status")
    command = [str(buildtools.python()), "-m", "tools.sbom", image.package, accelerator]
    command += [_arguments(used, image, accelerator, base)["RUN_BASE"], str(file)]
    if subprocess.run(command, cwd=ROOT, input=packages, text=True, check=False).returncode != 0:
        sys.exit(f"the bill of materials of {tag} could not be made")
    say(f"{tag}: its bill of materials is {file}")


def push(registry: str, accelerator: str, base: str = "") -> list[str]:
    """Build both images and push them. Returns the names for pulling."""
    used, pushed = engine(), []
    for tag in build(accelerator, base):
        remote = f"{registry.rstrip('/')}/{tag}"
        used.push(tag, remote)
        pushed.append(remote)
    return pushed


def _build(used: Engine, image: Image, accelerator: str, base: str, context: Path) -> str:
    tag = image.tag(accelerator)
    say(f"building {tag} with {used.name}")
    used.build(context / image.dockerfile, tag, _arguments(used, image, accelerator, base), context)
    return tag


def _arguments(used: Engine, image: Image, accelerator: str, base: str) -> dict[str, str]:
    """Build arguments with the base that is asked for, or with the stand-in where the usual one cannot be had."""
    arguments = image.arguments(accelerator)
    usual = arguments["RUN_BASE"] == default_base()
    if usual and (base := base or _base(used)):
        arguments |= {"BUILD_BASE": base, "RUN_BASE": base}
    return arguments


def _export(image: Image, base: str, context: Path, cached: Path) -> None:
    used = engine()
    tag = _build(used, image, "cpu", base, context)
    part = cached.with_suffix(".part")
    part.unlink(missing_ok=True)
    used.save(tag, part)
    _bill(used, image, "cpu", base, _bill_of(cached))
    part.rename(cached)
    made = sorted(cached.parent.glob(f"{image.name}-{'?' * 16}.tar"), key=lambda path: path.stat().st_mtime)
    for old in made[:-_KEPT]:
        old.unlink()
        _bill_of(old).unlink(missing_ok=True)


def default_base() -> str:
    """The base image of both Dockerfiles, by its digest where bases.lock has it."""
    return bases.pinned(_usual_base())


def _usual_base() -> str:
    found = re.search(r"^ARG RUN_BASE=(\S+)", (ROOT / SERVER.dockerfile).read_text(), re.MULTILINE)
    return found[1] if found else sys.exit(f"{SERVER.dockerfile} names no RUN_BASE")


@functools.cache
def _base(used: Engine) -> str:
    """The name of the stand-in, when the usual base cannot be pulled. Otherwise ""."""
    usual = default_base()
    if used.has(usual) or not (refusal := used.pull(usual)):
        return ""
    say(f"{usual} cannot be pulled: {refusal}")
    image = standin.ensure(used)
    say(f"NOTE: {image}, made here from Debian's packages, takes the place of {usual}")
    return image


@contextmanager
def _context(image: Image, accelerator: str) -> Iterator[Path]:
    """A folder with the Dockerfile and exactly what it uses."""
    with tempfile.TemporaryDirectory(prefix="image.") as made:
        context = Path(made)
        wanted = [image.dockerfile, "LICENSE", "requirements.lock", image.package, *_LOCKED]
        if image.needs_llama:
            if wheel := _wheel(accelerator):
                (context / "wheels").mkdir()
                _link(wheel, context / "wheels" / wheel.name)
            else:
                wanted += _COMPILES
        for name in wanted:
            _copy(ROOT / name, context / name)
        yield context


def _wheel(accelerator: str) -> Path | None:
    """The llama-cpp-python wheel for the image: one in wheels/, else ours if it runs in the image."""
    if given := sorted((ROOT / "wheels").glob("*.whl")):
        return given[-1]
    here = tuple(int(part) for part in platform.libc_ver()[1].split(".")[:2] if part.isdigit())
    if accelerator != "cpu" or not here or here > _BASE_LIBC:
        return None
    command = [str(buildtools.python()), "-m", "tools.wheel"]
    made = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    return Path(made.stdout.strip()) if made.returncode == 0 else sys.exit(made.returncode)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist"))
    else:
        shutil.copy2(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _digest(context: Path, base: str) -> str:
    """A short hash of everything that an image is built from."""
    whole = hashlib.sha256((base or f"{default_base()} {standin.key()}").encode())
    for path in sorted(path for path in context.rglob("*") if path.is_file()):
        content = path.read_bytes()
        whole.update(f"{path.relative_to(context)}\0{len(content)}\0{path.stat().st_mode & 0o111}\0".encode() + content)
    return whole.hexdigest()[:16]


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.images")
    commands = parser.add_subparsers(dest="command", required=True)
    for verb in ("build", "export", "push"):
        command = commands.add_parser(verb)
        command.add_argument("--base", default="", help="base image of both stages, instead of the Dockerfile's")
        if verb != "export":
            command.add_argument("--accelerator", choices=ACCELERATORS, default="cpu")
    commands.choices["export"].add_argument("folder", type=Path)
    commands.choices["push"].add_argument("registry")
    chosen = parser.parse_args()
    if chosen.command == "export":
        print(*(f"{name} {path}" for name, path in export(chosen.folder, chosen.base).items()), sep="\n")
    elif chosen.command == "push":
        print(*push(chosen.registry, chosen.accelerator, chosen.base), sep="\n")
    else:
        print(*build(chosen.accelerator, chosen.base), sep="\n")


if __name__ == "__main__":
    _main()
