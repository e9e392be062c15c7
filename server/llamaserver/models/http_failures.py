"""The reason of a failed request as text for users. It has no class names and no credentials from URLs."""

import os
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urljoin

import aiohttp

from .addresses import AddressRefused
from .source import shown

CONNECT: Final = 30.0  # seconds until the connection
READ: Final = 60.0  # seconds without any byte
_LONGEST = 200  # letters of a server's message
_UNTRUSTED = (18, 19, 20, 21)  # OpenSSL's codes for a certificate without a trusted issuer


class RetryableError(Exception):
    """A failure that is worth another attempt, after `wait` seconds if the server says so."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


# The exceptions of a request, except failures of this machine's disk.
FAILURES: Final = (RetryableError, aiohttp.ClientError, TimeoutError, ConnectionError, ValueError)
_LASTING = (
    aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, aiohttp.ClientSSLError, aiohttp.TooManyRedirects, ValueError,
)  # fmt: skip


def hopeless(error: Exception) -> bool:
    """Whether another attempt would fail in the same way."""
    return isinstance(error, _LASTING)


def is_refusal(error: Exception) -> bool:
    """Whether a guarded client refused to connect to the address."""
    return isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefused)


def explain(error: Exception) -> str:
    """The text for one of FAILURES."""
    return next(text(error) for kind, text in _TEXTS if isinstance(error, kind))


def printable(text: str) -> str:
    """A server's text on one line, at most 200 characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:_LONGEST]


def _untrusted(error: aiohttp.ClientConnectorCertificateError) -> str:
    cause = error.certificate_error
    why, hint = printable(str(cause)), ""
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message
        hint = "; SSL_CERT_FILE can name a file of certificates to trust" if cause.verify_code in _UNTRUSTED else ""
    return f"the certificate of {error.host}:{error.port} is not accepted: {why}{hint}"


def _no_tls(error: aiohttp.ClientSSLError) -> str:
    reason = str(getattr(error.os_error, "reason", None) or "")
    if reason == "WRONG_VERSION_NUMBER":
        return f"{error.host}:{error.port} does not speak TLS; does its URL begin with http:// rather than https://?"
    why = reason.replace("_", " ").lower() or "it was closed"
    return f"no TLS connection to {error.host}:{error.port} could be made: {why}"


def _unknown_name(error: aiohttp.ClientConnectorDNSError) -> str:
    return f"the name {error.host} cannot be resolved ({_why(error.os_error)})"


def _no_proxy(error: aiohttp.ClientProxyConnectionError) -> str:
    return f"the proxy {_unreachable(error)}"


def _unreachable(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error.os_error, AddressRefused):
        return f"{error.host}:{error.port} is not allowed: it is {error.os_error.strerror}"
    return f"{error.host}:{error.port} cannot be reached ({_why(error.os_error)})"


def _why(error: OSError) -> str:
    """The text of the operating system. The text of asyncio contains addresses and function names."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return printable(error.strerror or "") or "no answer"


def _endless(error: aiohttp.TooManyRedirects) -> str:
    last = error.history[-1]
    return f"too many redirects ({len(error.history)}), the last to {_target(last)}"


def _target(redirect: aiohttp.ClientResponse) -> str:
    place = redirect.headers.get("Location", "")
    try:
        return shown(urljoin(str(redirect.url), place))
    except ValueError:
        return shown(place)


def _elsewhere(error: aiohttp.ClientError) -> str:
    return f"the server redirects to {shown(str(error.args[0]))}, which is not an HTTP address"


# The first type that fits is used. So special types stand before general ones.
_TEXTS: tuple[tuple[type[Exception], Callable[[Any], str]], ...] = (
    (RetryableError, str),
    (aiohttp.ClientConnectorCertificateError, _untrusted),
    (aiohttp.ClientSSLError, _no_tls),
    (aiohttp.ClientConnectorDNSError, _unknown_name),
    (aiohttp.ClientProxyConnectionError, _no_proxy),
    (aiohttp.ClientConnectorError, _unreachable),
    (aiohttp.TooManyRedirects, _endless),
    (aiohttp.RedirectClientError, _elsewhere),
    (aiohttp.InvalidURL, lambda _: "this is not an HTTP address"),
    (aiohttp.NonHttpUrlClientError, lambda _: "this is not an HTTP address"),
    (aiohttp.ConnectionTimeoutError, lambda _: f"there was no connection within {CONNECT:g} s"),
    (TimeoutError, lambda _: f"no data came for {READ:g} s"),
    (aiohttp.ClientHttpProxyError, lambda error: f"the proxy answered {error.status} {printable(error.message)}"),
    (aiohttp.ClientResponseError, lambda _: "the server does not answer with HTTP"),
    (aiohttp.ServerDisconnectedError, lambda _: "the server closed the connection without an answer"),
    (ValueError, lambda error: f"the request cannot be made: {printable(str(error))}"),
    (Exception, lambda _: "the connection was lost"),
)
