"""The files of an image's archive (docker-archive), for tests."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path


def entries(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every entry of every layer, with the open layer that it is in. A later layer may have the same name again."""
    with tarfile.open(path) as archive:
        (manifest,) = json.loads(_bytes(archive, "manifest.json"))
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(name)) as layer:
                for entry in layer:
                    yield layer, entry


def _bytes(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file
    return file.read()
