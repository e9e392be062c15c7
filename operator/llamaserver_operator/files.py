"""The files that a pod needs (model, adapters, projector): the source and the path of each. Pure."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from . import names
from .spec import Source, Spec


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file: its path in the server container, and its source."""

    field: str  # path of the field that names the file
    source: Source
    sha256: str
    index: int  # number of the file in the pod, also of its volume

    @property
    def key(self) -> str:
        """Folder of a download in the models volume. Empty for other files. Each source has its own folder."""
        if self.source.hugging_face:
            part = self.source.hugging_face
            kind, text = "hf", f"{part.repo}\n{part.revision}\n{part.file}"
        elif self.source.http:
            kind, text = "http", self.source.http.url
        else:
            return ""
        # Another digest gets another folder, because a server may still use the old file.
        digest = hashlib.sha256("\n".join((text, self.sha256)).encode()).hexdigest()
        return f"{kind}-{digest[:12]}"

    @property
    def name(self) -> str:
        """The name of the file."""
        source = self.source
        if source.hugging_face:
            return PurePosixPath(source.hugging_face.file).name
        if source.http:
            return PurePosixPath(source.http.url.partition("?")[0].partition("#")[0]).name or "model.gguf"
        inside = source.persistent_volume_claim or source.image
        return PurePosixPath(inside.path).name if inside else ""

    @property
    def path(self) -> str:
        """Path of the file in the server container."""
        if self.key:
            return f"{names.MODELS_DIR}/{self.key}/{self.name}"
        inside = self.source.persistent_volume_claim or self.source.image
        return f"{names.SOURCES_DIR}/{self.index}/{inside.path if inside else ''}"

    @property
    def fetch_argument(self) -> str:
        """The value of one --file of `llamaserver fetch`."""
        source = self.source
        origin: dict[str, Any] = {"path": f"{self.key}/{self.name}"}
        if source.hugging_face:
            part = source.hugging_face
            origin["huggingFace"] = {"repo": part.repo, "revision": part.revision, "file": part.file}
        elif source.http:
            origin["http"] = {"url": source.http.url}
        if self.sha256:
            origin["sha256"] = self.sha256
        return json.dumps(origin, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """All files of a pod."""

    model: ModelFile
    adapters: tuple[ModelFile, ...]
    projector: ModelFile | None

    def __iter__(self) -> Iterator[ModelFile]:
        yield self.model
        yield from self.adapters
        if self.projector:
            yield self.projector

    @property
    def downloads(self) -> list[ModelFile]:
        """The files to download, each source once."""
        return list({file.key: file for file in self if file.key}.values())


def model_files(spec: Spec) -> ModelFiles:
    """The files that a spec names."""
    adapters = tuple(
        ModelFile(f"spec.loraAdapters[{item.name}].source", item.source, item.sha256, 1 + i)
        for i, item in enumerate(spec.lora_adapters)
    )
    projector = None
    if part := spec.projector:
        projector = ModelFile("spec.projector.source", part.source, part.sha256, 1 + len(adapters))
    model = ModelFile("spec.model.source", spec.model.source, spec.model.sha256, 0)
    return ModelFiles(model, adapters, projector)
