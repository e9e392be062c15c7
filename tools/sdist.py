"""The source distribution of llama-cpp-python: fetched once, checked against the lock, and patched on demand."""

import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from . import locked, patches
from .cache import cache_dir, exclusive, replacing, say, sha256_of
from .pip import pip, requirements

PACKAGE = "llama-cpp-python"


def pin() -> locked.Pin:
    """The locked version and hash."""
    return locked.read()[PACKAGE]


def fetch() -> Path:
    """The path of the archive in the cache. This Python must have pip and scikit-build-core."""
    wanted = pin()
    folder = cache_dir() / "src" / f"{PACKAGE}-{wanted.version}"
    if archive := _archive_in(folder, wanted):
        return archive
    with exclusive(folder):
        say(f"fetching the source of {PACKAGE} {wanted.version}")
        with replacing(folder) as scratch:
            _download(wanted, scratch)
    if archive := _archive_in(folder, wanted):
        return archive
    sys.exit(f"the source of {PACKAGE} in {folder} does not have the hash in {locked.LOCK.name}")


def unpack(into: Path, without: Sequence[patches.Patch] = ()) -> Path:
    """Unpack the archive and patch it, except for the patches `without`. Returns its top folder."""
    with tarfile.open(fetch()) as archive:
        archive.extractall(into, filter="data")
    (top,) = into.iterdir()
    patches.apply(top, without)
    return top


def identity() -> tuple[str, ...]:
    """The result of `unpack` as a text, for a build's key."""
    wanted = pin()
    return (wanted.version, *sorted(wanted.hashes), patches.digest())


def _archive_in(folder: Path, wanted: locked.Pin) -> Path | None:
    found = [path for path in folder.glob("*.tar.gz") if sha256_of(path) in wanted.hashes]
    return found[0] if found else None


def _download(wanted: locked.Pin, into: Path) -> None:
    with requirements(wanted.text) as exactly:
        pip("download", "--no-build-isolation", "--no-binary", PACKAGE, "--dest", str(into), *exactly)
