"""Models from a URL: resumed, retried, checked, and moved into place only when whole.

A partial file lies beside the target as `<name>.part` with `<name>.part.etag`; a later start goes on
where this one ended, as long as the server still has the same file.
"""

import asyncio
import errno
import logging
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from dataclasses import replace as changed
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import aiohttp

from . import digest, fetch_lock
from .errors import DownloadError, ModelLoadError
from .fetch_lock import Lock, LockLost

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_ATTEMPTS = 6
_FIRST_DELAY = 0.5  # seconds before the second attempt; doubled for each further one
_HOPELESS = (aiohttp.InvalidURL, aiohttp.ClientSSLError)
_SPARE = 64 << 20  # bytes to leave free
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")

_REASONS = {401: "Unauthorized", 403: "Unauthorized", 404: "ModelNotFound", 410: "ModelNotFound"}

T = TypeVar("T")
Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0: unknown)
Waiting = Callable[[bool], None]  # whether another's download has to be waited for


@dataclass(frozen=True, slots=True)
class Source:
    """Where one file comes from, and what it must hash to ("" when unknown)."""

    url: str
    sha256: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The header for a token; a token from a Secret often ends in a line break."""
    return (("Authorization", f"Bearer {token.strip()}"),) if token.strip() else ()


def file_name(url: str) -> str:
    """The last part of the URL's path; ModelLoadError when that is no file name."""
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ModelLoadError(f"the URL {url} names no file")
    return name


def shards(name: str) -> list[str]:
    """The names of all parts of a split model, given that of one; otherwise the name itself."""
    found = _SHARD.search(name)
    if not found:
        return [name]
    total = int(found[2])
    return [name.replace(found[0], f"-{part:05d}-of-{total:05d}.gguf") for part in range(1, total + 1)]


def shard_urls(url: str) -> list[str]:
    """The same for a URL, whose query stays."""
    path = urlsplit(url).path
    return [url.replace(path, part) for part in shards(path)] if _SHARD.search(path) else [url]


def _nobody_waits(waiting: bool) -> None:
    """Where nobody asks."""


async def fetch_model(source: Source, target: Path, progress: Progress) -> Path:
    """Download a model to `target`, or all its shards into that folder; the path of the (first) file."""
    urls = shard_urls(source.url)
    if len(urls) == 1:
        return await fetch(source, target, progress)
    if source.sha256:
        raise ModelLoadError(f"one SHA-256 cannot vouch for a model of {len(urls)} files")
    parts = [changed(source, url=url) for url in urls]
    paths = [await fetch(part, target.parent / file_name(part.url), progress) for part in parts]
    return paths[0]


async def fetch(
    source: Source, target: Path, progress: Progress, on_wait: Waiting = _nobody_waits, *, replace: bool = False
) -> Path:
    """Download one file unless it is there; DownloadError says what went wrong in the end.

    A file that is there with another SHA-256 than the source's is an error, or replaced where that is asked for.
    """
    part = _beside(target, ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while not await asyncio.to_thread(_there, source, target, replace):
            try:
                async with fetch_lock.held(_beside(target, ".lock"), on_wait) as lock, session() as client:
                    if not await asyncio.to_thread(_there, source, target, replace):
                        call = partial(_attempt, client, source, target, progress, lock)
                        return await retried(source.url, call, lambda: part.stat().st_size if part.exists() else 0)
            except LockLost:
                _log.warning("another downloads %s now", target)
    except OSError as error:
        raise cannot_write(target, error) from error
    _log.info("using %s, downloaded earlier", target)
    return target


def _there(source: Source, target: Path, replace: bool) -> bool:
    """Whether the file is there, with the right digest where one is known."""
    if not target.exists():
        return False
    if not source.sha256 or (found := digest.sha256(target)) == source.sha256.lower():
        return True
    problem = f"{target} is there with SHA-256 {found}, expected {source.sha256}"
    if not replace:
        raise DownloadError(f"{problem}; remove it", "ChecksumMismatch")
    _log.warning("%s; downloading it anew", problem)
    return False


def cannot_write(path: Path, error: OSError) -> DownloadError:
    """What a failure of the file system means."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DownloadError(f"cannot write {path}: {error.strerror or error}", "DiskFull" if full else "DownloadFailed")


async def size(client: aiohttp.ClientSession, source: Source) -> int:
    """Bytes of a file, 0 when its server does not tell: good for showing progress only."""
    try:
        async with client.head(source.url, headers=dict(source.headers), allow_redirects=True) as response:
            return (response.content_length or 0) if response.status == 200 else 0
    except (aiohttp.ClientError, TimeoutError, OSError):
        return 0


def session() -> aiohttp.ClientSession:
    """A client that waits long for all, not for any byte; files must come as they are."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    return aiohttp.ClientSession(trust_env=True, timeout=timeout, headers={"Accept-Encoding": "identity"})


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


async def retried(what: str, call: Callable[[], Awaitable[T]], have: Callable[[], int] = lambda: 0) -> T:
    """Call until it works, ever more slowly; ModelLoadError after too many failures that gained no byte."""
    failures, before = 0, have()
    while True:
        try:
            return await call()
        except _HOPELESS as error:
            raise DownloadError(f"cannot download {what}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            failures = 1 if have() > before else failures + 1
            before = have()
            reason = str(error) or type(error).__name__
            if failures == _ATTEMPTS:
                raise DownloadError(f"cannot download {what}: {reason}") from error
            delay = min(30.0, _FIRST_DELAY * 2 ** (failures - 1))
            _log.warning("download of %s broke off (%s); again in %gs", what, reason, delay)
            await asyncio.sleep(delay)


async def _attempt(client: aiohttp.ClientSession, source: Source, target: Path, progress: Progress, lock: Lock) -> Path:
    part, tag_file = _beside(target, ".part"), _beside(target, ".part.etag")
    have = part.stat().st_size if part.exists() and tag_file.exists() else 0
    headers = dict(source.headers)
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag_file.read_text()}
    async with client.get(source.url, headers=headers) as response:
        announced = _known_hash(response)
        expected = source.sha256.lower() or announced
        if announced not in ("", expected):  # known before the first of many bytes
            raise DownloadError(f"{source.url} has SHA-256 {announced}, expected {source.sha256}", "ChecksumMismatch")
        if response.status == 416 and response.headers.get("Content-Range") == f"bytes */{have}":
            _log.info("%s was whole already", part)  # this process or machine went down before the rename
        else:
            check_status(response, source.url, part)
            have = _go_on(response, part, tag_file, have)
            have = await _receive(response, part, have, progress, lock)
    await asyncio.to_thread(_finish, part, target, have, expected, lock)
    tag_file.unlink(missing_ok=True)
    return target


def check_status(response: aiohttp.ClientResponse, url: str, part: Path | None = None) -> None:
    """Raise DownloadError for what stays so, ClientPayloadError for what may pass."""
    if response.status == 416 and part is not None:
        part.unlink(missing_ok=True)
        raise aiohttp.ClientPayloadError("the server refuses to go on; starting anew")
    if response.status >= 500 or response.status in (408, 429):
        raise aiohttp.ClientPayloadError(f"the server answered {response.status}")
    if response.status not in (200, 206):
        reason = _REASONS.get(response.status, "DownloadFailed")
        raise DownloadError(f"{url} answered {response.status} {response.reason}", reason)


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
        wants = f"the file needs {-(-needed >> 20)} MiB more and {_SPARE >> 20} MiB to spare"
        raise DownloadError(f"{folder} has {free >> 20} MiB free; {wants}", "DiskFull")


async def _receive(response: aiohttp.ClientResponse, part: Path, have: int, progress: Progress, lock: Lock) -> int:
    """Write the body behind the first `have` bytes of the part; ClientPayloadError when it is shorter than announced.

    At its place, not at the end: a downloader that lost its lock and does not know yet writes the same bytes there.
    """
    length = response.content_length
    total = have + length if length is not None else 0
    _check_space(part.parent, length or 0)
    progress(have, total)
    shown = 0
    with part.open("rb+" if have else "wb") as file:
        file.seek(have)
        async for chunk in response.content.iter_chunked(_CHUNK):
            lock.check()
            await asyncio.to_thread(file.write, chunk)
            have += len(chunk)
            progress(have, total)
            percent = have * 100 // total if total else 0
            if percent >= shown + 5:
                shown = percent
                _log.info("downloading %s: %d%% of %d MiB", part.stem, percent, total >> 20)
    if total and have != total:
        raise aiohttp.ClientPayloadError("the connection ended early")
    return have


def _finish(part: Path, target: Path, size: int, expected: str, lock: Lock) -> None:
    """Check, make durable, keep the digest, rename."""
    _log.info("computing the SHA-256 of %s", part.stem)
    found = digest.compute(part)
    if expected and found != expected:
        part.unlink()
        raise DownloadError(
            f"{target.name} has SHA-256 {found}, expected {expected}; the download was discarded", "ChecksumMismatch"
        )
    lock.touch()
    with part.open("rb+") as file:
        if os.fstat(file.fileno()).st_size != size:
            part.unlink()
            raise aiohttp.ClientPayloadError("another wrote to the same file; starting anew")
        os.fsync(file.fileno())
    digest.record(target, part.stat(), found)
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
