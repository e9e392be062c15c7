"""Models from a URL: resumed, retried, checked, and moved into place only when whole.

A partial file lies beside the target as `<name>.part` with `<name>.part.etag`; a later start goes on
where this one ended, as long as the server still has the same file.
"""

import asyncio
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import unquote, urlsplit

import aiohttp

from .errors import ModelLoadError

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_ATTEMPTS = 6
_FIRST_DELAY = 0.5  # seconds before the second attempt; doubled for each further one
_LOOK_AGAIN = 1.0  # seconds between looks at another server's lock
_HOPELESS = (aiohttp.InvalidURL, aiohttp.ClientSSLError)
_SPARE = 64 << 20  # bytes to leave free
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")

T = TypeVar("T")
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


async def fetch_model(source: Source, target: Path, progress: Progress) -> Path:
    """Download a model to `target`, or all its shards into that folder; the path of the (first) file."""
    urls = shard_urls(source.url)
    if len(urls) == 1:
        return await fetch(source, target, progress)
    if source.sha256:
        raise ModelLoadError(f"one SHA-256 cannot vouch for a model of {len(urls)} files")
    parts = [replace(source, url=url) for url in urls]
    paths = [await fetch(part, target.parent / file_name(part.url), progress) for part in parts]
    return paths[0]


async def fetch(source: Source, target: Path, progress: Progress) -> Path:
    """Download one file unless it is there; ModelLoadError says what went wrong in the end."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not await asyncio.to_thread(target.exists):
            async with _alone(target), session() as client:
                if not await asyncio.to_thread(target.exists):
                    part = _beside(target, ".part")
                    call = partial(_attempt, client, source, target, progress)
                    return await retried(source.url, call, lambda: part.stat().st_size if part.exists() else 0)
    except OSError as error:
        raise ModelLoadError(f"cannot write {target}: {error.strerror or error}") from error
    if source.sha256 and (found := await asyncio.to_thread(_sha256, target)) != source.sha256.lower():
        raise ModelLoadError(f"{target} is there with SHA-256 {found}, expected {source.sha256}; remove it")
    _log.info("using %s, downloaded earlier", target)
    return target


def session() -> aiohttp.ClientSession:
    """A client that waits long for all, not for any byte; files must come as they are."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    return aiohttp.ClientSession(trust_env=True, timeout=timeout, headers={"Accept-Encoding": "identity"})


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


@asynccontextmanager
async def _alone(target: Path) -> AsyncIterator[None]:
    """Servers that share the folder take turns; where the file system has no locks, they just go on."""
    with _beside(target, ".lock").open("w") as file:
        said = False
        while not _locked(file):
            if not said:
                _log.info("waiting for another server that downloads %s", target)
            said = True
            await asyncio.sleep(_LOOK_AGAIN)
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


async def retried(what: str, call: Callable[[], Awaitable[T]], have: Callable[[], int] = lambda: 0) -> T:
    """Call until it works, ever more slowly; ModelLoadError after too many failures that gained no byte."""
    failures, before = 0, have()
    while True:
        try:
            return await call()
        except _HOPELESS as error:
            raise ModelLoadError(f"cannot download {what}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            failures = 1 if have() > before else failures + 1
            before = have()
            reason = str(error) or type(error).__name__
            if failures == _ATTEMPTS:
                raise ModelLoadError(f"cannot download {what}: {reason}") from error
            delay = min(30.0, _FIRST_DELAY * 2 ** (failures - 1))
            _log.warning("download of %s broke off (%s); again in %gs", what, reason, delay)
            await asyncio.sleep(delay)


async def _attempt(client: aiohttp.ClientSession, source: Source, target: Path, progress: Progress) -> Path:
    part, tag_file = _beside(target, ".part"), _beside(target, ".part.etag")
    have = part.stat().st_size if part.exists() and tag_file.exists() else 0
    headers = dict(source.headers)
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag_file.read_text()}
    async with client.get(source.url, headers=headers) as response:
        expected = source.sha256 or _known_hash(response)
        if response.status == 416 and response.headers.get("Content-Range") == f"bytes */{have}":
            _log.info("%s was whole already", part)  # this process or machine went down before the rename
        else:
            check_status(response, source.url, part)
            have = _go_on(response, part, tag_file, have)
            await _receive(response, part, have, progress)
    await asyncio.to_thread(_finish, part, target, expected)
    tag_file.unlink(missing_ok=True)
    _beside(target, ".lock").unlink(missing_ok=True)
    return target


def check_status(response: aiohttp.ClientResponse, url: str, part: Path | None = None) -> None:
    """Raise ModelLoadError for what stays so, ClientPayloadError for what may pass."""
    if response.status == 416 and part is not None:
        part.unlink(missing_ok=True)
        raise aiohttp.ClientPayloadError("the server refuses to go on; starting anew")
    if response.status >= 500 or response.status in (408, 429):
        raise aiohttp.ClientPayloadError(f"the server answered {response.status}")
    if response.status not in (200, 206):
        raise ModelLoadError(f"{url} answered {response.status} {response.reason}")


def _go_on(response: aiohttp.ClientResponse, part: Path, tag_file: Path, have: int) -> int:
    """Bytes of the part that this response continues; anything else of the part is dropped first."""
    if response.status == 206:
        if response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            return have
        part.unlink(missing_ok=True)
        raise aiohttp.ClientPayloadError("the server sent another range; starting anew")
    part.unlink(missing_ok=True)  # before the new tag: an old part must never be continued under it
    tag_file.unlink(missing_ok=True)
    if tag := response.headers.get("ETag") or response.headers.get("Last-Modified"):
        tag_file.write_text(tag)
    return 0


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


async def _receive(response: aiohttp.ClientResponse, part: Path, have: int, progress: Progress) -> None:
    """Append the body to the part; ClientPayloadError when it is shorter than announced."""
    length = response.content_length
    total = have + length if length is not None else 0
    _check_space(part.parent, length or 0)
    shown = 0
    with part.open("ab") as file:
        async for chunk in response.content.iter_chunked(_CHUNK):
            await asyncio.to_thread(file.write, chunk)
            have += len(chunk)
            progress(have, total)
            percent = have * 100 // total if total else 0
            if percent >= shown + 5:
                shown = percent
                _log.info("downloading %s: %d%% of %d MiB", part.stem, percent, total >> 20)
    if total and have != total:
        raise aiohttp.ClientPayloadError("the connection ended early")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finish(part: Path, target: Path, sha256: str) -> None:
    """Check, make durable, rename."""
    if sha256 and (found := _sha256(part)) != sha256.lower():
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
