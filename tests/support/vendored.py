"""The chat templates of many models, from llama.cpp's source inside the source distribution of llama-cpp-python."""

import tarfile
from functools import lru_cache
from pathlib import PurePath

from tools import sdist

ROOT = "vendor/llama.cpp"


@lru_cache
def vendored_templates() -> dict[str, str]:
    """Name of the model to Jinja. The archive is fetched into the cache when it is not there."""
    return _texts("models/templates", ".jinja")


@lru_cache
def vendored_grammars() -> dict[str, str]:
    """Name to GBNF: the examples of llama.cpp."""
    return _texts("grammars", ".gbnf")


def _texts(folder: str, suffix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    with tarfile.open(sdist.fetch()) as archive:
        for member in archive:
            path = PurePath(member.name)
            if path.suffix == suffix and str(path.parent).endswith(f"{ROOT}/{folder}"):
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
