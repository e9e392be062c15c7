"""One file on a server: its URL, its digest, its token. Pure."""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import DownloadError, ModelLoadError

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class Source:
    """The source of one file, and its SHA-256 ("" if unknown)."""

    url: str
    sha256: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    token_name: str = ""  # the variable that holds the token, "" without one
    page: str = ""  # page of the model, where its licence can be accepted
    guarded: bool = False  # whether it may not be on this machine (models/addresses.py)


def shown(url: str) -> str:
    """A URL without its user, password and query. These may be secrets, as in signed URLs."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # a text that is no URL may contain a secret anywhere
        return f"{url.partition('://')[0]}://…" if "://" in url else "…"
    query = "?…" if parts.query else ""
    return f"{parts.scheme}://{host}{port}{parts.path}{query}" if parts.netloc else f"{parts.path}{query}"


def is_http(url: str) -> bool:
    """Whether the text is an HTTP address."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise DownloadError(f"{shown(url)} is not an HTTP address", "BadSpec") from None


def bearer(url: str, token: str) -> tuple[tuple[str, str], ...]:
    """The header for a token, unless the URL has its own user. A token from a Secret often ends in a line break.

    Raises DownloadError BadSpec for characters that no header may contain.
    """
    token = token.strip()
    if not token or "@" in _split(url).netloc:
        return ()
    if not token.isascii() or not token.isprintable():
        raise DownloadError("the token has characters that no token can have, such as a line break", "BadSpec")
    return (("Authorization", f"Bearer {token}"),)


def file_name(url: str) -> str:
    """The last part of the URL's path. Raises ModelLoadError if that is no file name."""
    name = unquote(_split(url).path).rsplit("/", 1)[-1]
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ModelLoadError(f"the URL {shown(url)} names no file")
    return name


def shards(name: str) -> list[str]:
    """The names of all parts of a split model, from the name of one part. For other files, the name itself."""
    found = _SHARD.search(name)
    if not found:
        return [name]
    total = int(found[2])
    return [name.replace(found[0], f"-{part:05d}-of-{total:05d}.gguf") for part in range(1, total + 1)]


def shard_urls(url: str) -> list[str]:
    """The URLs of all parts of a split model, from the URL of one part. The query stays."""
    path = _split(url).path
    return [url.replace(path, part) for part in shards(path)] if _SHARD.search(path) else [url]
