"""The chat templates of many models, from llama.cpp's source inside the source distribution of llama-cpp-python."""

import tarfile
from functools import lru_cache
from pathlib import PurePath

from tools import sdist

ROOT = "vendor/llama.cpp"
FOLDER = f"{ROOT}/models/templates"


@lru_cache
def vendored_templates() -> dict[str, str]:
    """Name of the model to Jinja. The archive is fetched into the cache when it is not there."""
    found: dict[str, str] = {}
    with tarfile.open(sdist.fetch()) as archive:
        for member in archive:
            path = PurePath(member.name)
            if path.suffix == ".jinja" and str(path.parent).endswith(FOLDER):
                file = archive.extractfile(member)
                assert file is not None
                found[path.stem] = file.read().decode()
    return found


def vendored_text(path: str) -> str:
    """A file of llama.cpp's source."""
    with tarfile.open(sdist.fetch()) as archive:
        for member in archive:
            if member.name.endswith(f"/{ROOT}/{path}"):
                file = archive.extractfile(member)
                assert file is not None
                return file.read().decode()
    raise FileNotFoundError(path)


@lru_cache
def vendored_readme() -> str:
    """The document of llama-server in the same source."""
    return vendored_text("tools/server/README.md")
