"""Models from a URL: resumed, retried, checked, and moved into place only when whole.

A partial file lies beside the target as `<name>.part` with `<name>.part.etag`; a later start goes on
where this one ended, as long as the server still has the same file.
"""

import asyncio
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiohttp

from .errors import ModelLoadError

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_ATTEMPTS = 6
_SPARE = 64 << 20  # bytes to leave free
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0: unknown)


@dataclass(frozen=True, slots=True)
class Source:
    """Where one file comes from, and what it must hash to ("" when unknown)."""

    url: str
    sha256: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def file_name(url: str) -> str:
    """The last part of the URL's path; ModelLoadError when that is no file name."""
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ModelLoadError(f"the URL {url} names no file")
    return name


def shard_urls(url: str) -> list[str]:
    """All parts of a split model, given the URL of one; otherwise the URL itself."""
    found = _SHARD.search(urlsplit(url).path)
    if not found:
        return [url]
    total = int(found[2])
    return [url.replace(found[0], f"-{part:05d}-of-{total:05d}.gguf") for part in range(1, total + 1)]


def hugging_face(repo: str, file: str, revision: str, environ: Mapping[str, str]) -> Source:
    """The file of a repository, through HF_ENDPOINT and with HF_TOKEN where they are set."""
    endpoint = environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    headers = (("Authorization", f"Bearer {environ['HF_TOKEN']}"),) if environ.get("HF_TOKEN") else ()
    return Source(f"{endpoint}/{repo}/resolve/{revision}/{file}", headers=headers)


async def hugging_face_file(repo: str, quant: str, revision: str, environ: Mapping[str, str]) -> str:
    """The GGUF file of a repository for a quantization such as Q4_K_M ("" takes Q4_K_M, else the first)."""
    endpoint = environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    headers = {"Authorization": f"Bearer {environ['HF_TOKEN']}"} if environ.get("HF_TOKEN") else {}
    url = f"{endpoint}/api/models/{repo}/revision/{revision}"
    async with aiohttp.ClientSession(trust_env=True) as session, session.get(url, headers=headers) as response:
        if response.status != 200:
            raise ModelLoadError(f"{url} answered {response.status} {response.reason}")
        listing = await response.json(content_type=None)
    names = sorted(str(item.get("rfilename", "")) for item in listing.get("siblings", []))
    models = [name for name in names if name.endswith(".gguf") and "mmproj" not in name]
    wanted = [name for name in models if (quant or "Q4_K_M").lower() in name.lower()] or ([] if quant else models)
    if not wanted:
        raise ModelLoadError(f"{repo} has no GGUF file for {quant!r}; it has {', '.join(models) or 'none at all'}")
    return wanted[0]


async def fetch_model(source: Source, target: Path, progress: Progress) -> Path:
    """Download a model to `target`, or all its shards into that folder; the path of the (first) file."""
    urls = shard_urls(source.url)
    if len(urls) == 1:
        return await fetch(source, target, progress)
    parts = [Source(url, headers=source.headers) for url in urls]
    paths = [await fetch(part, target.parent / file_name(part.url), progress) for part in parts]
    return paths[0]


async def fetch(source: Source, target: Path, progress: Progress) -> Path:
    """Download one file unless it is there; ModelLoadError says what went wrong in the end."""
    if await asyncio.to_thread(target.exists):
        _log.info("using %s, downloaded earlier", target)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelLoadError(f"cannot write to {target.parent}: {error.strerror}") from error
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    async with aiohttp.ClientSession(trust_env=True, timeout=timeout) as session:
        for attempt in range(_ATTEMPTS):
            try:
                return await _attempt(session, source, target, progress)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                if attempt == _ATTEMPTS - 1:
                    raise ModelLoadError(f"cannot download {source.url}: {error}") from error
                delay = min(30.0, 0.5 * 2**attempt)
                _log.warning("download of %s broke off (%s); again in %gs", target.name, error, delay)
                await asyncio.sleep(delay)
            except OSError as error:
                raise ModelLoadError(f"cannot write {target}: {error.strerror}") from error
    raise AssertionError("unreachable")


async def _attempt(session: aiohttp.ClientSession, source: Source, target: Path, progress: Progress) -> Path:
    part, tag_file = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.etag")
    have = part.stat().st_size if part.exists() and tag_file.exists() else 0
    headers = dict(source.headers)
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag_file.read_text()}
    async with session.get(source.url, headers=headers) as response:
        if response.status == 416:  # the part is whole, or the file has changed
            part.unlink(missing_ok=True)
            raise aiohttp.ClientPayloadError("the server refuses to go on; starting anew")
        if response.status >= 500 or response.status == 429:
            raise aiohttp.ClientPayloadError(f"the server answered {response.status}")
        if response.status not in (200, 206):
            raise ModelLoadError(f"{source.url} answered {response.status} {response.reason}")
        have = have if response.status == 206 else 0
        total = have + (response.content_length or 0)
        _check_space(target.parent, response.content_length or 0)
        etag = response.headers.get("ETag", "")
        if etag:
            tag_file.write_text(etag)
        await _receive(response, part, have, total, progress)
        expected = source.sha256 or _known_hash(response)
    if total > 0 and part.stat().st_size != total:
        raise aiohttp.ClientPayloadError("the connection ended early")
    await asyncio.to_thread(_finish, part, target, expected)
    tag_file.unlink(missing_ok=True)
    return target


def _known_hash(response: aiohttp.ClientResponse) -> str:
    """Hugging Face tells the SHA-256 of large files, on the redirect before the file itself."""
    for step in (*response.history, response):
        value = step.headers.get("X-Linked-Etag", "").strip('"')
        if _SHA256.match(value):
            return value
    return ""


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise ModelLoadError(f"{folder} has {free >> 20} MiB free, the model needs {needed >> 20} MiB more")


async def _receive(response: aiohttp.ClientResponse, part: Path, have: int, total: int, progress: Progress) -> None:
    shown = 0
    with part.open("ab" if have else "wb") as file:
        async for chunk in response.content.iter_chunked(_CHUNK):
            await asyncio.to_thread(file.write, chunk)
            have += len(chunk)
            progress(have, total)
            percent = have * 100 // total if total else 0
            if percent >= shown + 5:
                shown = percent
                _log.info("downloading %s: %d%% of %d MiB", part.stem, percent, total >> 20)


def _finish(part: Path, target: Path, sha256: str) -> None:
    """Check, make durable, rename."""
    if sha256:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            part.unlink()
            raise ModelLoadError(f"{target.name} has SHA-256 {found}, expected {sha256}; the download was discarded")
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
