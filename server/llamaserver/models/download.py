"""Brings a model file to the server's place for it: uses a good file in the cache, or downloads it."""

import asyncio
import dataclasses
import enum
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ..errors import DownloadError, ModelLoadError
from . import digest, gguf_check, http_client, origin
from .gguf_check import NotGGUFError
from .http_client import Retrying
from .lock import LockLostError, held
from .source import Source, file_name, shard_urls
from .transfer import Progress, Transfer, cannot_write

_log = logging.getLogger(__name__)

Waiting = Callable[[bool], None]  # gets True when another process downloads the file, then False


class _Found(enum.Enum):
    """The kind of file at the target."""

    NOTHING = enum.auto()
    OTHER = enum.auto()  # a file with another SHA-256. It stays until the right one is complete
    BROKEN = enum.auto()  # not a complete GGUF file
    SUSPECT = enum.auto()  # complete, but a server could not load it
    GOOD = enum.auto()


def _nobody_waits(waiting: bool) -> None:
    """The default: does nothing."""


async def fetch_model(source: Source, target: Path, progress: Progress) -> Path:
    """Download a model to `target`, or all its shards into that folder. Returns the path of the (first) file."""
    urls = shard_urls(source.url)
    if len(urls) == 1:
        return await fetch(source, target, progress)
    if source.sha256:
        raise ModelLoadError(f"one SHA-256 cannot check a model of {len(urls)} files")
    parts = [dataclasses.replace(source, url=url) for url in urls]
    paths = [await fetch(part, target.parent / file_name(part.url), progress) for part in parts]
    return paths[0]


async def fetch(
    source: Source,
    target: Path,
    progress: Progress,
    on_wait: Waiting = _nobody_waits,
    on_retry: Retrying = http_client.nobody,
    *,
    replace: bool = False,
) -> Path:
    """Download one file, unless a good one is there. Raises DownloadError.

    A file that is incomplete, is not GGUF, or has another SHA-256 than the source's is an error. With
    `replace`, it is replaced. If a server could not load the file, the source is asked for another one. The old
    file stays until then.
    """
    loop = asyncio.get_running_loop()

    def checked(have: int, total: int) -> None:
        loop.call_soon_threadsafe(progress, have, total)

    async def look() -> _Found:
        return await asyncio.to_thread(_look, source, target, replace, checked)

    found = _Found.NOTHING
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while (found := await look()) is not _Found.GOOD:
            try:
                async with (
                    held(_lock_file(target), on_wait) as lock,
                    http_client.session(guarded=source.guarded) as client,
                ):
                    transfer = Transfer(client, source, target, progress, lock, on_retry)
                    found = await look()
                    if found is _Found.SUSPECT:
                        await transfer.renew()
                        break
                    if found is not _Found.GOOD:
                        return await transfer.run(room=found is _Found.BROKEN)
            except LockLostError:
                _log.warning("another process downloads %s now", target)
    except OSError as error:
        if found is not _Found.SUSPECT or await look() is _Found.NOTHING:
            raise cannot_write(target, error) from error
        _log.warning("%s could not be loaded; no other file can be downloaded: %s", target, cannot_write(target, error))
    _log.info("using %s from the cache%s", target, origin.told(target))
    return target


def _lock_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.lock")


def _look(source: Source, target: Path, replace: bool, progress: Progress) -> _Found:
    """Find the kind of file at the target, without a request to a server. With a SHA-256, reads the whole file."""
    if origin.vouches(target, source.sha256):
        return _Found.GOOD
    if not target.exists():
        return _Found.NOTHING
    known = origin.of(target)
    ours = replace or bool(known and known.url)
    suspect = ours and origin.is_suspect(target) and os.access(target.parent, os.W_OK)
    if suspect and _is_damaged(target):
        return _Found.BROKEN
    if source.sha256:
        return _compared(source, target, replace, progress)
    if known is None and (problem := _first_check(target)):
        if not replace and not digest.recorded(target):
            raise DownloadError(f"{target} {problem}; remove it", "NotGGUF")
        _log.warning("%s %s; downloading it again", target, problem)
        return _Found.BROKEN
    return _Found.SUSPECT if suspect else _Found.GOOD


def _compared(source: Source, target: Path, replace: bool, progress: Progress) -> _Found:
    _log.info("checking the SHA-256 of %s", target)
    if (found := digest.compute(target, progress)) == source.sha256.lower():
        return _Found.GOOD
    problem = f"{target} has SHA-256 {found}, expected {source.sha256}"
    if not replace:
        raise DownloadError(f"{problem}; remove it", "ChecksumMismatch")
    _log.warning("%s; downloading it again", problem)
    return _Found.OTHER


def _first_check(target: Path) -> str:
    """Check a file for the first time. Returns why it is not a complete GGUF file, or "" and records the check."""
    try:
        gguf_check.check(target)
    except NotGGUFError as error:
        return str(error)
    try:
        origin.record(target, target.stat(), origin.Origin())
    except OSError as error:
        _log.info("cannot record that %s is a complete GGUF file: %s", target, error)
    return ""


def _is_damaged(target: Path) -> bool:
    """Whether a file that a server could not load has changed since its download. Reads the whole file, once."""
    expected = digest.recorded(target)
    if expected and not origin.is_intact(target):
        if digest.compute(target) != expected:
            _log.warning("%s has changed since it was downloaded; downloading it again", target)
            return True
        origin.set_intact(target)
    return False
