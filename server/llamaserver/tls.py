"""TLS for the clients' port, with certificates that can be replaced while the server runs."""

import asyncio
import logging
import re
import ssl
from pathlib import Path

from .errors import ConfigError

_log = logging.getLogger(__name__)
_CHECK_EVERY = 5.0  # seconds
_CERTIFICATE = re.compile(rb"-----BEGIN (\w+ )?CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN (\w+ )?PRIVATE KEY-----")
_OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")

Stamps = tuple[tuple[int, int], ...]


def _no_password() -> str:
    """Refuse an encrypted key. Without this, OpenSSL asks for a password at the terminal."""
    raise ValueError("the private key is encrypted")


def load(certificate: str, key: str) -> ssl.SSLContext:
    """A server context. Raises ConfigError, which names the file that cannot be used and the cause."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConfigError(_problem(certificate, key, error)) from error
    return context


def _problem(certificate: str, key: str, error: Exception) -> str:
    """The file and the cause. OpenSSL's own message has neither."""
    for option, path, form, what in (
        ("--ssl-cert-file", certificate, _CERTIFICATE, "certificate"),
        ("--ssl-key-file", key, _KEY, "private key"),
    ):
        if problem := _no_pem(path, form, what):
            return f"{option} {path}{problem}"
    try:
        ssl.create_default_context(cadata=Path(certificate).read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, TypeError):
        return f"--ssl-cert-file {certificate} is a damaged PEM certificate"
    reason = getattr(error, "reason", None)
    if reason in _OTHER_KEY:
        return f"--ssl-key-file {key} does not belong to --ssl-cert-file {certificate}"
    if reason:
        return f"--ssl-cert-file {certificate} is refused by OpenSSL: {reason.lower().replace('_', ' ')}"
    return f"--ssl-key-file {key} is a damaged PEM private key"


def _no_pem(path: str, form: re.Pattern[bytes], what: str) -> str:
    """The obvious problem of a file, "" if it has none."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return f": {error.strerror or error}"
    if not data.strip():
        return " is empty"
    if not (found := form.search(data)):
        return f" is no PEM {what}"
    if found[1] == b"ENCRYPTED " or b"Proc-Type: 4,ENCRYPTED" in data:
        return f" is encrypted. A {what} without a password is needed"
    return ""


async def watch(context: ssl.SSLContext, certificate: str, key: str, seen: Stamps) -> None:
    """Load the files again when they have changed since `seen`, for new connections. Runs until cancelled."""
    while True:
        await asyncio.sleep(_CHECK_EVERY)
        now = await asyncio.to_thread(stamps, certificate, key)
        if now == seen:
            continue
        try:
            load(certificate, key)  # check first: a broken pair would damage the context in use
            context.load_cert_chain(certificate, key, password=_no_password)
            seen = now
            _log.info("TLS certificate loaded again")
        except (ConfigError, OSError, ValueError) as error:
            _log.warning("new TLS files cannot be used yet: %s", error)


def stamps(*paths: str) -> Stamps:
    """Values that change when a file changes. They must be taken before the file is read."""
    try:
        return tuple((s.st_mtime_ns, s.st_ino) for s in (Path(path).stat() for path in paths))
    except OSError:
        return ()
