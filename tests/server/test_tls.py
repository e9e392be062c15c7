"""TLS: certificates that can be used, those that cannot, and new ones while the server runs."""

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from llamaserver import tls
from llamaserver.errors import ConfigError

from tests.support.polling import eventually, until
from tests.support.server import certificates
from tests.support.server.process import ServerProcess


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


BLOCK = "-----BEGIN {0}-----\nx\n-----END {0}-----\n"
# What is wrong: (which file it is, what is in it, what is said of it). A name is the file of another pair.
BROKEN = {
    "no certificate": ("crt", None, "{crt}: No such file or directory"),
    "an empty certificate": ("crt", "\n", "{crt} is empty"),
    "garbage for a certificate": ("crt", "x", "{crt} is no PEM certificate"),
    "DER": ("crt", "\x30\x82\udcff", "{crt} is no PEM certificate"),
    "a request for a certificate": ("crt", BLOCK.format("CERTIFICATE REQUEST"), "{crt} is no PEM certificate"),
    "a damaged certificate": ("crt", BLOCK.format("CERTIFICATE"), "{crt} is a damaged PEM certificate"),
    "a key for a certificate": ("crt", "one.key", "{crt} is no PEM certificate"),
    "no key": ("key", None, "{key}: No such file or directory"),
    "an empty key": ("key", "", "{key} is empty"),
    "garbage for a key": ("key", "x", "{key} is no PEM private key"),
    "a public key": ("key", BLOCK.format("PUBLIC KEY"), "{key} is no PEM private key"),
    "a damaged key": ("key", BLOCK.format("EC PRIVATE KEY"), "{key} is a damaged PEM private key"),
    "a certificate for a key": ("key", "one.crt", "{key} is no PEM private key"),
    "the key of another certificate": ("key", "two.key", "{key} does not belong to --ssl-cert-file {crt}"),
    "an encrypted key": ("key", "locked.key", "{key} is encrypted. A private key without a password is needed"),
    "an old encrypted key": (
        "key", BLOCK.format("RSA PRIVATE KEY").replace("x", "Proc-Type: 4,ENCRYPTED\nx"),
        "{key} is encrypted. A private key without a password is needed",
    ),
    "a weak key": ("both", "weak", "{crt} is refused by OpenSSL: ee key too small"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_the_file_that_cannot_be_used_is_named_with_what_is_wrong(name, pair, pairs, tmp_path):
    which, content, message = BROKEN[name]
    folder = pairs["one"][0].parent
    files = dict(zip(("crt", "key"), pair, strict=True))
    certificates.make(folder, "locked", password="secret")
    if which == "both":
        weak = certificates.make(folder, content, "rsa:512")
        certificates.replace(pair, weak)
    elif content is None:
        files[which].unlink()
    elif (folder / content).is_file():
        files[which].write_bytes((folder / content).read_bytes())
    else:
        files[which].write_text(content, errors="surrogateescape")
    option = "--ssl-key-file " if message.startswith("{key}") else "--ssl-cert-file "
    with pytest.raises(ConfigError) as refused:
        tls.load(*map(str, pair))
    assert str(refused.value) == option + message.format(**files)


def test_the_command_refuses_bad_files_with_2(tmp_path):
    argv = ["-m", "m", "--ssl-cert-file", "no.crt", "--ssl-key-file", "no.key", "--port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "llamaserver", *argv],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--ssl-cert-file no.crt" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_server_answers_over_tls(pairs, tmp_path):
    """The command itself, with its event loop, for whole answers, streams, files, and clients that do not read."""
    certificate, key = pairs["one"]
    options = (
        "--ssl-cert-file",
        str(certificate),
        "--ssl-key-file",
        str(key),
        "--timeout",
        "1",
        "--path",
        str(tmp_path),
    )
    (tmp_path / "page").write_bytes(b"x" * 7_000_000)
    command = (sys.executable, "-m", "tests.support.server.toy_server", str(tmp_path), "-m", "toy")
    with ServerProcess(*options, command=command, cwd=Path(__file__).parents[2], wait=False) as server:
        trusting = ssl.create_default_context(cafile=certificate)
        url = server.url.replace("http:", "https:")
        with httpx2.Client(base_url=url, verify=trusting, trust_env=False, timeout=20) as client:

            def healthy():
                with contextlib.suppress(httpx2.ConnectError):
                    return client.get("/health").status_code == 200
                return False

            until(healthy, "the server is healthy", 60)
            for stream in (False, True):
                body = json.dumps({"prompt": "ab", "n_predict": 2, "stream": stream})
                answer = client.post("/completion", content=body)
                assert answer.status_code == 200
                assert "tokens_predicted" in answer.text
            assert len(client.get("/page").content) == 7_000_000
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect(("127.0.0.1", server.port))
            with trusting.wrap_socket(plain, server_hostname="127.0.0.1") as unread:
                unread.sendall(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
                until(lambda: "a client has read nothing for 1 s" in server.log, "it is cut off")
        assert "Traceback" not in server.log
