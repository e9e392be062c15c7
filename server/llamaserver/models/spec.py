"""The argument of `llamaserver fetch --file`, parsed and checked: {path, huggingFace | http, sha256}."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from ..errors import DownloadError
from . import huggingface
from .source import Source, bearer, is_http, shard_urls, shards, shown

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_SHA256 = re.compile(r"(?i)[0-9a-f]{64}")
_PRIVATE = "LLAMA_ARG_PRIVATE_SOURCES"
_TOKEN = "BEARER_TOKEN"  # noqa: S105  a variable's name


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to fetch: its source, and its path below the models folder."""

    source: Source
    path: str

    @property
    def key(self) -> str:
        """The folder of the file's source."""
        return self.path.partition("/")[0]


def keys(files: Iterable[Wanted]) -> tuple[str, ...]:
    """The folders of the files' sources, each once."""
    return tuple(dict.fromkeys(file.key for file in files))


def wanted(text: str, environ: Mapping[str, str]) -> list[Wanted]:
    """The files of one --file argument, several for a split model. Raises DownloadError BadSpec with the mistake.

    With LLAMA_ARG_PRIVATE_SOURCES=refuse, no source may be on this machine or at a metadata service.
    """
    try:
        spec = _object(json.loads(text), "--file", {"path", "huggingFace", "http", "sha256"})
    except ValueError as error:
        raise _bad(f"--file is not valid JSON: {error}") from error
    path, sha256 = _path(_text(spec, "path")), _text(spec, "sha256", "")
    if sha256 and not _SHA256.fullmatch(sha256):
        raise _bad(f"sha256 must be 64 hexadecimal digits, not {sha256!r}")
    sources = _sources(spec, environ)
    paths = [str(path.with_name(name)) for name in shards(path.name)]
    if len(paths) != len(sources):
        like = shown(sources[0].url)
        raise _bad(f"{path.name} must be named like {like}: names of the parts of a split model contain their number")
    private = environ.get(_PRIVATE, "allow")
    if private not in ("allow", "refuse"):
        raise _bad(f"{_PRIVATE} must be allow or refuse, not {private!r}")
    hashes = [sha256, *[""] * (len(sources) - 1)]
    return [
        Wanted(replace(source, sha256=digest, guarded=private == "refuse"), place)
        for source, digest, place in zip(sources, hashes, paths, strict=True)
    ]


def _sources(spec: dict[str, Any], environ: Mapping[str, str]) -> list[Source]:
    if ("huggingFace" in spec) == ("http" in spec):
        raise _bad("exactly one of huggingFace and http is needed")
    if "http" in spec:
        url = _text(_object(spec["http"], "http", {"url"}), "url")
        if not is_http(url):
            raise _bad(f"http.url must begin with http:// or https://, not be {shown(url)!r}")
        headers = bearer(url, environ.get(_TOKEN, ""))
        return [Source(part, headers=headers, token_name=_TOKEN) for part in shard_urls(url)]
    hub = _object(spec["huggingFace"], "huggingFace", {"repo", "revision", "file"})
    repo, file, revision = _text(hub, "repo"), _text(hub, "file"), _text(hub, "revision", "main")
    if not _REPO.fullmatch(repo):
        raise _bad(f"huggingFace.repo must be OWNER/NAME, not {repo!r}")
    return [huggingface.source(repo, part, revision, environ) for part in shards(file)]


def _path(text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if len(path.parts) < 2 or path.is_absolute() or str(path) != text or "\0" in text:
        raise _bad(f"path must be KEY/FILE, not {text!r}")
    if any(part.startswith(".") for part in path.parts):
        raise _bad(f"no part of path may begin with a dot: {text!r}")
    return path


def _object(value: Any, name: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(f"{name} must be a JSON object")
    if unknown := sorted(set(value) - known):
        raise _bad(f"{name} has no field {', '.join(unknown)}")
    return value


def _text(values: dict[str, Any], name: str, default: str | None = None) -> str:
    value = values.get(name, default)
    if not isinstance(value, str) or (default is None and not value):
        raise _bad(f"{name} must be a string that is not empty")
    return value or default or ""


def _bad(message: str) -> DownloadError:
    return DownloadError(message, "BadSpec")
