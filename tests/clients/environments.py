"""The client libraries, in environments of their own in the cache. They need other versions of packages than we do."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from tools.cache import cache_dir, exclusive, replacing
from tools.install import create, fill

HERE = Path(__file__).parent
PYTHON_LOCK = HERE / "requirements.lock"
NODE_FILES = (HERE / "node" / "package.json", HERE / "node" / "package-lock.json")


def python() -> Path:
    """A Python that has the libraries of requirements.lock."""
    folder = _place("clients-python", PYTHON_LOCK)
    with exclusive(folder):
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            create(folder)  # in its place: an environment cannot be moved
            fill(folder / "bin" / "python", PYTHON_LOCK.read_text())
            (folder / ".complete").touch()
    return folder / "bin" / "python"


def node_modules() -> Path:
    """A folder whose node_modules has the libraries of package-lock.json."""
    folder = _place("clients-node", *NODE_FILES)
    with exclusive(folder):
        if not folder.exists():
            with replacing(folder) as scratch:
                for file in NODE_FILES:
                    shutil.copy(file, scratch)
                command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
                subprocess.run(command, cwd=scratch, check=True)
    return folder


def _place(name: str, *locks: Path) -> Path:
    digest = hashlib.sha256(b"\0".join(lock.read_bytes() for lock in locks)).hexdigest()
    return cache_dir() / name / digest[:16]
