"""The two images that the cluster itself needs, made from the system's static busybox."""

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from pathlib import Path

from .binaries import Missing

BUSYBOX = "localhost/busybox:1"
PAUSE = "localhost/pause:1"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_archive(path: Path) -> None:
    """Write a docker archive with both: one layer, two configurations."""
    busybox = Path(shutil.which("busybox") or "busybox")
    if subprocess.run(["ldd", busybox], capture_output=True, check=False).returncode == 0:
        raise Missing(f"{busybox} is not static; on Debian or Ubuntu: apt-get install busybox-static")
    layer = _layer(busybox)
    configs = {BUSYBOX: ["sh"], PAUSE: ["sleep", "infinity"]}
    with tarfile.open(path, "w") as archive:
        _add(archive, "layer.tar", layer)
        manifest = []
        for name, command in configs.items():
            config = json.dumps(_config(layer, command)).encode()
            digest = hashlib.sha256(config).hexdigest()
            _add(archive, f"{digest}.json", config)
            manifest.append({"Config": f"{digest}.json", "RepoTags": [name], "Layers": ["layer.tar"]})
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _layer(busybox: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder, mode in {"bin": 0o755, "etc": 0o755, "tmp": 0o1777, "home": 0o755}.items():
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            layer.addfile(entry)
        _add(layer, "bin/busybox", busybox.read_bytes(), 0o755)
        _add(layer, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
        _add(layer, "etc/group", b"root:x:0:\n")
        for name in ("sh", "sleep", "cat", "ls", "id", "wget", "httpd", "nc", "nslookup", "echo", "test", "stat", "dd"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, "busybox", 0o777
            layer.addfile(entry)
    return buffer.getvalue()


def _config(layer: bytes, command: list[str]) -> dict[str, object]:
    return {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [],
    }


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
