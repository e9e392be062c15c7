"""TLS for the client port, with certificates that may be replaced while the server runs."""

import asyncio
import logging
import ssl
from pathlib import Path

from .errors import ConfigError

_log = logging.getLogger(__name__)
_CHECK_EVERY = 5.0  # seconds

Stamps = tuple[tuple[int, int], ...]


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    raise ValueError("the private key is encrypted")


def load(certificate: str, key: str) -> ssl.SSLContext:
    """A server context; ConfigError when the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--ssl-cert-file {certificate}, --ssl-key-file {key}: {error}") from error
    return context


async def watch(context: ssl.SSLContext, certificate: str, key: str, seen: Stamps) -> None:
    """Load the files again whenever they differ from those seen; new connections use them. Runs until cancelled."""
    while True:
        await asyncio.sleep(_CHECK_EVERY)
        now = await asyncio.to_thread(stamps, certificate, key)
        if now == seen:
            continue
        try:
            load(certificate, key)  # a broken pair must not spoil the context in use
            context.load_cert_chain(certificate, key, password=_no_password)
            seen = now
            _log.info("TLS certificate loaded again")
        except (ConfigError, OSError, ValueError) as error:
            _log.warning("new TLS files cannot be used yet: %s", error)


def stamps(*paths: str) -> Stamps:
    """What changes when the files do; to be taken before they are read."""
    try:
        return tuple((s.st_mtime_ns, s.st_ino) for s in (Path(path).stat() for path in paths))
    except OSError:
        return ()
