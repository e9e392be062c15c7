"""The libraries of the chat page: `python -m tools.web_libraries` copies them into `server/llamaserver/web/vendor`.

`tools/web/package.json` pins them, and `package-lock.json` beside it has the digests of what npm fetches. The files are
the packages' own, byte for byte, each with its licence.
"""

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .cache import cache_dir, exclusive, replacing

ROOT = Path(__file__).parent.parent
VENDOR = ROOT / "server" / "llamaserver" / "web" / "vendor"
_PINS = (ROOT / "tools" / "web" / "package.json", ROOT / "tools" / "web" / "package-lock.json")
_NPM = ("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--loglevel=error")

# Files of each package that the page takes.
FILES = {
    "dompurify": ("dist/purify.es.mjs", "LICENSE"),
    "marked": ("lib/marked.esm.js", "LICENSE"),
}


@dataclass(frozen=True)
class Library:
    """A package of the lock. `integrity` is the digest of its archive: "sha512-" and base64."""

    name: str
    version: str
    license: str  # an SPDX expression
    integrity: str


def libraries() -> list[Library]:
    """The packages that the page takes files of, as locked."""
    packages = json.loads(_PINS[1].read_text(encoding="utf-8"))["packages"]
    found = {name: packages[f"node_modules/{name}"] for name in FILES}
    return [Library(name, entry["version"], entry["license"], entry["integrity"]) for name, entry in found.items()]


def fetched() -> dict[str, bytes]:
    """The files by their paths below VENDOR. npm fetches the packages once, and checks them against the lock."""
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in _PINS)).hexdigest()
    folder = cache_dir() / "chat-page" / digest[:16]
    with exclusive(folder):
        if not folder.exists():
            with replacing(folder) as scratch:
                for file in _PINS:
                    shutil.copy(file, scratch)
                subprocess.run(_NPM, cwd=scratch, check=True)
    return {
        f"{package}/{Path(file).name}": (folder / "node_modules" / package / file).read_bytes()
        for package, files in FILES.items()
        for file in files
    }


def vendored() -> dict[str, bytes]:
    """The files that VENDOR has, in the same form."""
    return {str(file.relative_to(VENDOR)): file.read_bytes() for file in VENDOR.rglob("*") if file.is_file()}


def _main() -> None:
    wanted = fetched()
    shutil.rmtree(VENDOR, ignore_errors=True)
    for name, data in wanted.items():
        (VENDOR / name).parent.mkdir(parents=True, exist_ok=True)
        (VENDOR / name).write_bytes(data)


if __name__ == "__main__":
    _main()
