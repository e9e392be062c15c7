"""Hugging Face repositories: the URL of a file, and the file of a quantization.

HF_ENDPOINT names a mirror, HF_TOKEN opens what is not public.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from .download import Source, bearer, check_status, retried, session
from .errors import DownloadError, ModelLoadError


def source(repo: str, file: str, revision: str, environ: Mapping[str, str]) -> Source:
    """The file of a repository, through HF_ENDPOINT and with HF_TOKEN where they are set."""
    url = f"{_endpoint(environ)}/{quote(repo)}/resolve/{quote(revision, safe='')}/{quote(file)}"
    return Source(url, headers=_authorization(environ))


async def choose_file(repo: str, quant: str, revision: str, environ: Mapping[str, str]) -> str:
    """The GGUF file of a repository for a quantization such as Q4_K_M ("" takes Q4_K_M, else the first)."""
    url = f"{_endpoint(environ)}/api/models/{quote(repo)}/revision/{quote(revision, safe='')}"
    async with session() as client:
        listing = await retried(repo, lambda: _listing(client, url, _authorization(environ)))
    names = sorted(str(item.get("rfilename", "")) for item in listing.get("siblings", []))
    models = [name for name in names if name.endswith(".gguf") and "mmproj" not in name]
    # whole words: F16 must not find BF16, nor Q4_K a file of Q4_K_M
    wanted = re.compile(rf"(?<![a-z0-9]){re.escape(quant or 'Q4_K_M')}(?![a-z0-9_])", re.IGNORECASE)
    found = [name for name in models if wanted.search(name)] or ([] if quant else models)
    if not found:
        others = ", ".join(models) or "none at all"
        raise DownloadError(f"{repo} has no GGUF file for {quant!r}; it has {others}", "ModelNotFound")
    return found[0]


def _endpoint(environ: Mapping[str, str]) -> str:
    return (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _authorization(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return bearer(environ.get("HF_TOKEN", ""))


async def _listing(client: aiohttp.ClientSession, url: str, headers: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    async with client.get(url, headers=headers) as response:
        check_status(response, url)
        try:
            listing = await response.json(content_type=None)
        except ValueError as error:
            raise ModelLoadError(f"{url} did not answer with JSON") from error
    if not isinstance(listing, dict):
        raise ModelLoadError(f"{url} did not answer with a repository")
    return listing
