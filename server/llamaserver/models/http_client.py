"""Requests to the servers that have models: the meaning of their responses, and the time of the next attempt."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TypeVar

import aiohttp

from ..errors import DownloadError
from .addresses import check_host, checked_socket
from .http_failures import CONNECT, FAILURES, READ, RetryableError, explain, hopeless, is_refusal, printable
from .source import Source, shown

_log = logging.getLogger(__name__)
_ATTEMPTS = 6
_FIRST_DELAY = 0.5  # seconds before the second attempt, doubled for each further one
_LONGEST_DELAY = 30.0
_LONGEST_WAIT = 300.0  # seconds, for a server that asks for a longer wait

_REASONS = {401: "Unauthorized", 403: "Unauthorized", 404: "ModelNotFound", 410: "ModelNotFound"}

T = TypeVar("T")
Retrying = Callable[[str], None]  # gets the failure and the time of the next attempt, as text


def session(*, guarded: bool = False) -> aiohttp.ClientSession:
    """A client without a time limit for the whole response, but with one for each read.

    With `guarded`, it connects to no address of this machine or of a metadata service (models/addresses.py).
    """
    return aiohttp.ClientSession(
        trust_env=True,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=READ),
        headers={"Accept-Encoding": "identity"},
        connector=aiohttp.TCPConnector(socket_factory=checked_socket if guarded else None),
        middlewares=(check_host,) if guarded else (),
    )


def nobody(_: str) -> None:
    """The default: does nothing."""


async def retried(
    url: str, call: Callable[[], Awaitable[T]], have: Callable[[], int] = lambda: 0, on_retry: Retrying = nobody
) -> T:
    """Call until it succeeds, with growing delays. Raises DownloadError after too many failures without progress.

    `have` returns the number of bytes that the next attempt need not download again.
    """
    failures, before = 0, have()
    while True:
        try:
            return await call()
        except FAILURES as error:
            text = explain(error)
            if is_refusal(error):
                raise DownloadError(f"cannot download {shown(url)}: {text}", "SourceNotAllowed") from error
            if hopeless(error):
                raise DownloadError(f"cannot download {shown(url)}: {text}") from error
            failures = 1 if have() > before else failures + 1
            before = have()
            if failures == _ATTEMPTS:
                then = "; the next attempt continues there" if before else ""
                raise DownloadError(f"cannot download {shown(url)}: {text}, {failures} times{then}") from error
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (failures - 1))
            if isinstance(error, RetryableError):
                delay = max(delay, min(error.wait, _LONGEST_WAIT))
            told = f"{shown(url)}: {text}, attempt {failures} of {_ATTEMPTS}, next attempt in {delay:.3g} s"
            _log.warning("%s", told)
            on_retry(told)
            await asyncio.sleep(delay)


# ---- responses


def check_status(response: aiohttp.ClientResponse, source: Source) -> None:
    """Raise DownloadError for a lasting failure, RetryableError for a temporary one."""
    status = response.status
    if status >= 500 or status in (408, 425, 429):
        wait = _wait(response.headers.get("Retry-After", ""))
        asks = f" and asks to wait {wait:,.0f} s" if wait else ""
        raise RetryableError(f"the server answered {_phrase(response)}{asks}", wait)
    if status in (200, 206):
        return
    text = f"{shown(source.url)} answered {_phrase(response)}"
    if place := redirected(response):
        text += f" after a redirect to {place}"
    if said := printable(response.headers.get("X-Error-Message", "")):  # Hugging Face
        text += f" ({said})"
    if status in (401, 403):
        text += f"; {_refused(response, source)}"
    elif 300 <= status < 400:
        text += ", without a Location"
    raise DownloadError(text, _REASONS.get(status, "DownloadFailed"))


async def read_at_most(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body. Raises DownloadError if it has more bytes than that."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            raise DownloadError(f"{shown(str(response.url))} answered with more than {most >> 20} MiB")
    return bytes(body)


def redirected(response: aiohttp.ClientResponse) -> str:
    """The URL that the response came from, if there was a redirect."""
    first = response.history[0].url if response.history else response.url
    return shown(str(response.url)) if response.url != first else ""


def _phrase(response: aiohttp.ClientResponse) -> str:
    try:
        return f"{response.status} {HTTPStatus(response.status).phrase}"
    except ValueError:
        return f"{response.status} {printable(response.reason or '')}".strip()


def _refused(response: aiohttp.ClientResponse, source: Source) -> str:
    """The credentials that were sent, and the ones that may be missing."""
    sent = response.request_info.headers.get("Authorization", "")
    if sent.startswith("Basic "):
        return "the user and the password of the URL were refused"
    if sent:
        text = f"the token in {source.token_name} was refused"
        if response.status == 403 and source.page:
            text += f"; has the licence been accepted on {source.page}?"
        return text
    if source.headers:
        return f"the token in {source.token_name} was not sent on to another server"
    if not source.token_name:
        return "no token was sent"
    known = " or there is no such repository" if source.page and response.status == 401 else ""
    return f"no token was sent ({source.token_name} is not set){known}"


def _wait(value: str) -> float:
    """The seconds of a Retry-After header: a number or a date. 0 if there is none or it cannot be read."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
