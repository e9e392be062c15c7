"""Hugging Face repositories: the URL of a file, and the file of a quantization.

HF_ENDPOINT names a mirror. HF_TOKEN gives access to repositories that are not public.
"""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..errors import DownloadError, ModelLoadError
from .source import Source, bearer, shown

if TYPE_CHECKING:
    import aiohttp

_TOKEN = "HF_TOKEN"  # noqa: S105  a variable's name
_LONGEST_LISTING = 16 << 20  # bytes


def source(repo: str, file: str, revision: str, environ: Mapping[str, str]) -> Source:
    """The file of a repository. HF_ENDPOINT and HF_TOKEN apply if they are set."""
    return _source(f"{quote(repo)}/resolve/{quote(revision, safe='')}/{quote(file)}", repo, environ)


async def choose_file(repo: str, quant: str, revision: str, environ: Mapping[str, str]) -> str:
    """The GGUF file of a repository for a quantization such as Q4_K_M. "" takes Q4_K_M, or else the first file."""
    from .http_client import retried, session

    listed = _source(f"api/models/{quote(repo)}/revision/{quote(revision, safe='')}", repo, environ)
    async with session() as client:
        listing = await retried(listed.url, lambda: _listing(client, listed))
    names = sorted(str(item.get("rfilename", "")) for item in listing.get("siblings", []))
    models = [name for name in names if name.endswith(".gguf") and "mmproj" not in name]
    # Whole words only: F16 must not find BF16, and Q4_K must not find a file of Q4_K_M.
    wanted = re.compile(rf"(?<![a-z0-9]){re.escape(quant or 'Q4_K_M')}(?![a-z0-9_])", re.IGNORECASE)
    found = [name for name in models if wanted.search(name)] or ([] if quant else models)
    if not found:
        others = ", ".join(models) or "none at all"
        raise DownloadError(f"{repo} has no GGUF file for {quant!r}; it has {others}", "ModelNotFound")
    return found[0]


def _source(path: str, repo: str, environ: Mapping[str, str]) -> Source:
    endpoint = (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    headers = bearer(endpoint, environ.get(_TOKEN, ""))
    return Source(f"{endpoint}/{path}", headers=headers, token_name=_TOKEN, page=shown(f"{endpoint}/{repo}"))


async def _listing(client: "aiohttp.ClientSession", source: Source) -> dict[str, Any]:
    from .http_client import check_status, read_at_most

    async with client.get(source.url, headers=dict(source.headers), auto_decompress=False) as response:
        check_status(response, source)
        try:
            listing = json.loads(await read_at_most(response, _LONGEST_LISTING))
        except ValueError as error:
            raise ModelLoadError(f"{shown(source.url)} did not answer with JSON") from error
    if not isinstance(listing, dict):
        raise ModelLoadError(f"{shown(source.url)} did not answer with a repository")
    return listing
