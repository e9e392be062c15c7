"""TLS: certificates that can be used, those that cannot, and new ones while the server runs."""

import asyncio
import contextlib
import ssl
import subprocess
import sys

import pytest
from llamaserver import tls
from llamaserver.errors import ConfigError

from tests.support import certificates
from tests.support.polling import eventually


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Certificates "one" and "two" with their keys."""
    folder = tmp_path_factory.mktemp("tls")
    return {name: certificates.make(folder, name) for name in ("one", "two")}


@pytest.fixture
def pair(tmp_path, pairs):
    """Files that hold pair "one" now."""
    files = (tmp_path / "tls.crt", tmp_path / "tls.key")
    certificates.replace(files, pairs["one"])
    return files


async def served(port, pairs):
    """Whose certificate the port shows: the name of the only pair that verifies it."""
    for name, (certificate, _) in pairs.items():
        context = ssl.create_default_context(cafile=certificate)
        with contextlib.suppress(ssl.SSLError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.close()
            return name
    raise AssertionError("a certificate of nobody")


@pytest.fixture
async def serve(pair, monkeypatch, caplog):
    """Listen with the pair and watch its files; gives the port."""
    monkeypatch.setattr(tls, "_CHECK_EVERY", 0.01)
    caplog.set_level("INFO")
    files = [str(path) for path in pair]
    seen = tls.stamps(*files)
    context = tls.load(*files)
    watcher = asyncio.create_task(tls.watch(context, *files, seen))
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    watcher.cancel()
    server.close()


async def until_loaded_again(caplog):
    await eventually(lambda: "loaded again" in caplog.text, "the new files")


async def test_new_files_are_served_to_new_connections(serve, pair, pairs, caplog):
    assert await served(serve, pairs) == "one"
    certificates.replace(pair, pairs["two"])
    await until_loaded_again(caplog)
    assert await served(serve, pairs) == "two"


@pytest.mark.parametrize("broken", ["empty", "other key", "missing", "garbage"])
async def test_broken_files_leave_the_old_ones_in_use(serve, pair, pairs, caplog, broken):
    _, key = pair
    if broken == "other key":
        certificates.replace((key,), (pairs["two"][1],))
    elif broken == "missing":
        key.unlink()
    else:
        key.write_text("" if broken == "empty" else "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n")
    await eventually(lambda: "cannot be used yet" in caplog.text, "a warning")
    assert await served(serve, pairs) == "one"
    certificates.replace(pair, pairs["two"])
    await until_loaded_again(caplog)
    assert await served(serve, pairs) == "two"


@pytest.mark.parametrize("broken", ["missing", "garbage", "other key"])
def test_files_that_cannot_be_used_at_start(pair, pairs, broken):
    certificate, key = pair
    if broken == "missing":
        certificate = certificate.with_name("no.crt")
    elif broken == "garbage":
        certificate.write_text("x")
    else:
        key = pairs["two"][1]
    with pytest.raises(ConfigError, match=r"--ssl-cert-file .*, --ssl-key-file "):
        tls.load(str(certificate), str(key))


def test_an_encrypted_key_is_refused_instead_of_asking(tmp_path):
    certificate, key = certificates.make(tmp_path, "locked", password="secret")
    with pytest.raises(ConfigError, match="the private key is encrypted"):
        tls.load(str(certificate), str(key))


def test_the_command_refuses_bad_files_with_2(tmp_path):
    argv = ["-m", "m", "--ssl-cert-file", "no.crt", "--ssl-key-file", "no.key", "--port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "llamaserver", *argv],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--ssl-cert-file no.crt" in done.stderr
    assert "Traceback" not in done.stderr
