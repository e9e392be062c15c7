"""TLS for the client port, with certificates that may be replaced while the server runs."""

import asyncio
import logging
import ssl
from pathlib import Path

from .errors import ConfigError

_log = logging.getLogger(__name__)
_CHECK_EVERY = 5.0  # seconds


def load(certificate: str, key: str) -> ssl.SSLContext:
    """A server context; ConfigError when the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"--ssl-cert-file {certificate}, --ssl-key-file {key}: {error}") from error
    return context


async def watch(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Load the files again whenever they change; new connections use them. Runs until cancelled."""
    seen = await asyncio.to_thread(_stamps, certificate, key)
    while True:
        await asyncio.sleep(_CHECK_EVERY)
        stamps = await asyncio.to_thread(_stamps, certificate, key)
        if stamps == seen:
            continue
        try:
            load(certificate, key)  # a broken pair must not spoil the context in use
            context.load_cert_chain(certificate, key)
            seen = stamps
            _log.info("TLS certificate loaded again")
        except (ConfigError, ssl.SSLError, OSError) as error:
            _log.warning("new TLS files cannot be used yet: %s", error)


def _stamps(*paths: str) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((s.st_mtime_ns, s.st_ino) for s in (Path(path).stat() for path in paths))
    except OSError:
        return ()
