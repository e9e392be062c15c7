"""The download of one file. The file gets its name only when it is complete, checked and synced to the disk.

A partial file lies beside the target as `<name>.part` with `<name>.part.etag`. A later start continues it, as
long as the server still has the same file.
"""

import asyncio
import errno
import logging
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from .. import files
from ..errors import DownloadError
from . import digest, gguf_check, http_client, origin
from .gguf_check import CutOffError, NotGGUFError
from .http_client import Retrying
from .http_failures import FAILURES, RetryableError, explain
from .lock import Lock
from .source import Source, shown

_log = logging.getLogger(__name__)
_MIB = 1 << 20
_CHUNK = _MIB
_HEAD = 64  # bytes that distinguish a GGUF file from other files
_SPARE = 64 * _MIB  # bytes to leave free
_LOG_EVERY = 5  # percent between two log lines
_SHA256 = re.compile(r"^[0-9a-f]{64}$")

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0: unknown)


@dataclass(frozen=True, slots=True)
class Transfer:
    """The download of one file. The caller holds the lock of the file."""

    client: aiohttp.ClientSession
    source: Source
    target: Path
    progress: Progress
    lock: Lock
    on_retry: Retrying

    async def run(self, *, room: bool = False) -> Path:
        """Download until the file is complete. Raises DownloadError, or OSError from the file system.

        With `room`, the old file of that name is removed first.
        """
        if room:
            self.target.unlink(missing_ok=True)
        return await http_client.retried(self.source.url, self._attempt, self._have, self.on_retry)

    async def renew(self) -> None:
        """Replace a file that could not be loaded: download another one if the server has one now.

        If that fails, the old file stays, because it may not be the cause. Raises DownloadError if no file is
        left.
        """
        url = shown(self.source.url)
        about = f"{self.target}{origin.told(self.target)} could not be loaded"
        try:
            if await self._has_changed():
                _log.warning("%s; %s has another file now, downloading that", about, url)
                await self._replace()
            else:
                _log.warning("%s; %s still has the same file", about, url)
        except DownloadError as error:
            if not self.target.exists():
                raise
            _log.warning("%s; no other file can be downloaded: %s", about, error)
        except FAILURES as error:
            _log.warning("%s; %s cannot be asked for another file: %s", about, url, explain(error))

    async def _replace(self) -> None:
        try:
            await self.run()
        except (DownloadError, OSError) as error:
            failure = error if isinstance(error, DownloadError) else cannot_write(self.target, error)
            if failure.reason != "DiskFull":
                raise failure from error
            await self.run(room=True)  # the disk has room for one file, and the old one does not load

    async def _has_changed(self) -> bool:
        """Whether the server has another file now, by its digest, or else its ETag, its date or its size."""
        known = origin.of(self.target) or origin.Origin()
        asked = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
        async with self._get({name: value for name, value in asked.items() if value}) as response:
            if announced := _known_hash(response):
                return announced != digest.recorded(self.target)
            if response.status == 304:
                return False
            http_client.check_status(response, self.source)
            for name, value in (("ETag", known.etag), ("Last-Modified", known.last_modified)):
                if value and (tag := response.headers.get(name)):
                    return tag != value
            return response.content_length not in (None, self.target.stat().st_size)

    def _get(self, headers: dict[str, str]) -> "aiohttp.client._RequestContextManager":
        # Without decompression, whatever the server says: a file that is not GGUF is refused anyway.
        return self.client.get(self.source.url, headers=dict(self.source.headers) | headers, auto_decompress=False)

    # ---- one attempt

    @property
    def _part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def _tag_file(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part.etag")

    def _have(self) -> int:
        """Bytes of the partial file that can be continued."""
        return self._part.stat().st_size if self._part.exists() and self._tag_file.exists() else 0

    def _drop(self) -> None:
        self._part.unlink(missing_ok=True)  # before the tag: a part must never be continued with another tag
        self._tag_file.unlink(missing_ok=True)

    async def _attempt(self) -> Path:
        have = self._have()
        ranged = {"Range": f"bytes={have}-", "If-Range": self._tag_file.read_text()} if have else {}
        async with self._get(ranged) as response:
            expected = self._expected(response)
            ended = response.content_length is not None  # otherwise a lost connection looks like the end
            if response.status == 416 and response.headers.get("Content-Range") == f"bytes */{have}":
                _log.info("%s was complete already", self._part)  # the process or the machine stopped before the rename
            else:
                have = await self._receive(response, self._go_on(response, have))
        came = _origin(response, self.source)
        await asyncio.to_thread(self._check, response, ended=ended)
        await asyncio.to_thread(self._finish, have, expected, came)
        return self.target

    def _expected(self, response: aiohttp.ClientResponse) -> str:
        """The digest that the file must have, "" if it is not known. Finds a wrong digest before the download."""
        announced, wanted = _known_hash(response), self.source.sha256.lower()
        if announced and wanted and announced != wanted:
            text = f"{shown(self.source.url)} has SHA-256 {announced}, expected {self.source.sha256}"
            raise DownloadError(text, "ChecksumMismatch")
        return wanted or announced

    def _go_on(self, response: aiohttp.ClientResponse, have: int) -> int:
        """Bytes of the part that this response continues. If it continues nothing, the part is removed first."""
        if response.status == 416:
            self._drop()
            raise RetryableError("the server refuses to continue where the last attempt ended; starting again")
        http_client.check_status(response, self.source)
        if response.status == 206:
            if response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                return have
            self._drop()
            raise RetryableError("the server sent another range than the requested one; starting again")
        self._drop()
        if tag := response.headers.get("ETag") or response.headers.get("Last-Modified"):
            self._tag_file.write_text(tag)
        return 0

    async def _receive(self, response: aiohttp.ClientResponse, have: int) -> int:
        """Write the body after the first `have` bytes of the part. Raises RetryableError if the body is too short.

        Bytes are written at their offset, not appended. A process may have lost its lock without knowing it
        yet. It then writes the same bytes to the same place.
        """
        length = response.content_length
        total = have + length if length is not None else 0
        _check_space(self._part.parent, length or 0)
        self.progress(have, total)
        shown_percent = 0
        try:
            head = b"" if have else await self._head(response)
            with self._part.open("rb+" if have else "wb") as file:
                file.seek(have)
                have += file.write(head)
                async for chunk in response.content.iter_chunked(_CHUNK):
                    self.lock.check()
                    if length is None:  # it may never end: leave room for others
                        self._check_room(len(chunk))
                    await asyncio.to_thread(file.write, chunk)
                    have += len(chunk)
                    self.progress(have, total)
                    percent = have * 100 // total if total else 0
                    if percent >= shown_percent + _LOG_EVERY:
                        shown_percent = percent
                        _log.info("downloading %s: %d%% of %d MiB", self.target.name, percent, total // _MIB)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise RetryableError(f"{explain(error)} at {amount(have, total)}") from error
        if total and have != total:
            raise RetryableError(f"the connection was lost at {amount(have, total)}")
        return have

    def _check_room(self, needed: int) -> None:
        try:
            _check_space(self._part.parent, needed)
        except DownloadError:
            self._drop()
            raise

    async def _head(self, response: aiohttp.ClientResponse) -> bytes:
        """The first bytes of a GGUF file. For other files, such as a web page, the download ends here."""
        try:
            head = await response.content.readexactly(_HEAD)
        except asyncio.IncompleteReadError as error:
            head = error.partial
        try:
            gguf_check.check_begin(head)
        except NotGGUFError as error:
            raise self._refused(response, error) from error
        return head

    def _check(self, response: aiohttp.ClientResponse, *, ended: bool) -> None:
        """Refuse a file that is not a complete GGUF file."""
        try:
            gguf_check.check(self._part)
        except CutOffError as error:
            if not ended:
                have = self._part.stat().st_size
                raise RetryableError(f"the connection was lost at {amount(have, error.needed)}") from error
            raise self._refused(response, error, "The file on the server is incomplete. ") from error
        except NotGGUFError as error:
            raise self._refused(response, error) from error

    def _refused(self, response: aiohttp.ClientResponse, problem: NotGGUFError, advice: str = "") -> DownloadError:
        self._drop()
        about = [response.content_type]
        if encoding := response.headers.get("Content-Encoding"):
            about.append(f"Content-Encoding {encoding}")
        if place := http_client.redirected(response):
            about.append(f"redirected to {place}")
        if response.content_type == "text/html":
            path = "Is it /resolve/ in place of /blob/?" if "/blob/" in self.source.url else ""
            advice = f"{path or 'Is a sign-in or another URL needed?'} "
        text = (
            f"{shown(self.source.url)} {problem}; it was sent as {', '.join(about)}. {advice}The download was discarded"
        )
        return DownloadError(text, "NotGGUF")

    def _finish(self, size: int, expected: str, came: origin.Origin) -> None:
        """Check the digest, sync the file, store digest and origin, rename the file."""
        _log.info("computing the SHA-256 of %s", self.target.name)
        found = digest.compute(self._part)
        if expected and found != expected:
            self._drop()
            text = f"{self.target.name} has SHA-256 {found}, expected {expected}; the download was discarded"
            raise DownloadError(text, "ChecksumMismatch")
        self.lock.touch()
        with self._part.open("rb+") as file:
            if os.fstat(file.fileno()).st_size != size:
                self._drop()
                raise RetryableError("another process wrote to the same file; starting again")
            os.fsync(file.fileno())
        status = self._part.stat()
        digest.record(self.target, status, found)
        origin.record(self.target, status, came)
        self._part.replace(self.target)
        files.sync_folder(self.target.parent)
        self._tag_file.unlink(missing_ok=True)
        origin.trust(self.target)


def _origin(response: aiohttp.ClientResponse, source: Source) -> origin.Origin:
    etag, date = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
    return origin.Origin(shown(source.url), etag, date, origin.now())


def _known_hash(response: aiohttp.ClientResponse) -> str:
    """The SHA-256 of Hugging Face for a large file, sent with the redirect to the file. "" if there is none."""
    for step in (*response.history, response):
        value = step.headers.get("X-Linked-Etag", "").strip('"')
        if _SHA256.match(value):
            return value
    return ""


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        wants = f"the file needs {math.ceil(needed / _MIB)} MiB more and {_SPARE // _MIB} MiB to spare"
        raise DownloadError(f"{folder} has {free // _MIB} MiB free; {wants}", "DiskFull")


def cannot_write(path: Path, error: OSError) -> DownloadError:
    """The error for a failure of the file system."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DownloadError(f"cannot write {path}: {error.strerror or error}", "DiskFull" if full else "DownloadFailed")


def amount(have: int, total: int) -> str:
    """Downloaded and total bytes in one unit, such as "46 of 93 MiB". A total of 0 is not known."""
    unit, shift = next((pair for pair in (("GiB", 30), ("MiB", 20)) if max(have, total) >> pair[1]), ("KiB", 10))
    done, whole = (f"{value / (1 << shift):.{2 if unit == 'GiB' else 0}f}" for value in (have, total))
    return f"{done} of {whole} {unit}" if total else f"{done} {unit}"


async def size(client: aiohttp.ClientSession, source: Source) -> int:
    """Bytes of a file as its server says, 0 if it does not say. Used only to show progress."""
    try:
        async with client.head(source.url, headers=dict(source.headers), allow_redirects=True) as response:
            return (response.content_length or 0) if response.status == 200 else 0
    except FAILURES:
        return 0
