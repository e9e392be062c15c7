"""What servers of models do wrong, and what is said about it: plain words, no secrets, and nothing of it is kept."""

import asyncio
import gzip
import re
import shutil
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import aiohttp
import pytest
from llamaserver.errors import DownloadError
from llamaserver.models import http_client, http_failures
from llamaserver.models.download import fetch
from llamaserver.models.source import Source, bearer

from tests.support.gguf_bytes import whole
from tests.support.server import certificates
from tests.support.server.wire import Wire, answer, raw, reset, silence

DATA = whole(bytes(range(256)) * 12_000)
HALF = DATA[: len(DATA) // 2]
HTML = b"<!DOCTYPE html>\n<html><title>Sign in</title></html>"
SECRET = "s3cr3t"
# what only a programmer understands
INTERNALS = re.compile(r"\b[A-Z][a-z]+\w*(Error|Exception)\b|Traceback|aiohttp|message=|url=|errno|Errno|<[A-Z]\w+[: ]")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No pauses between attempts, and short ones before a silent server is given up."""
    monkeypatch.setattr(http_client, "_FIRST_DELAY", 0.0)
    for module in (http_client, http_failures):
        monkeypatch.setattr(module, "READ", 0.2)


@pytest.fixture
def told(tmp_path, caplog):
    """The final message of a download that fails, after a look at all that was said on the way."""

    async def fail(url, progress=lambda *_: None):
        target, retries = tmp_path / "models" / "model.gguf", []
        headers = bearer(url, f"token-{SECRET}")
        source = Source(f"{url}?X-Amz-Signature={SECRET}", headers=headers, token_name="BEARER_TOKEN")
        with pytest.raises(DownloadError) as failed:
            await fetch(source, target, progress, on_retry=retries.append)
        for said in (str(failed.value), *retries, caplog.text):
            assert SECRET not in said
        for said in (str(failed.value), *retries):
            assert not INTERNALS.search(said), said
        assert not target.exists()
        return failed.value

    return fail


def redirect(location, status="302 Found"):
    return answer(f"{status}\r\nLocation: {location}")


# name: (steps, reason, the message, how many requests)
CASES = {
    "a web page": (
        [answer("200 OK\r\nContent-Type: text/html; charset=utf-8", HTML)], "NotGGUF",
        r'/m\.gguf\?… is not a GGUF file: it begins with "<!DOCTYPE html>"; it was sent as text/html\. '
        r"Is a sign-in or another URL needed\? The download was discarded$", 1,
    ),
    "a sign-in": (
        [redirect(f"/login.html?token={SECRET}"), answer("200 OK\r\nContent-Type: text/html", HTML)], "NotGGUF",
        r"it was sent as text/html, redirected to http://127\.0\.0\.1:\d+/login\.html\?…\. Is a sign-in or another", 2,
    ),
    "a web page whose length is not told": (
        [answer("200 OK\r\nContent-Type: text/html", HTML, length=None)], "NotGGUF", "begins with .<!DOCTYPE html>", 1,
    ),
    "a long web page that never ends": (
        [silence(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML + b" " * 100)], "NotGGUF", "DOCTYPE", 1,
    ),
    "an error as JSON": (
        [answer("200 OK\r\nContent-Type: application/json", b'{"error": "quota"}')], "NotGGUF",
        r'it begins with "{"error": "quota"}"; it was sent as application/json\. The download was discarded', 1,
    ),
    "a pointer": (
        [answer("200 OK", b"version https://git-lfs.github.com/spec/v1\noid sha256:0")], "NotGGUF",
        r"\(a Git LFS pointer, which stands for the file\)", 1,
    ),
    "nothing at all": ([answer("200 OK")], "NotGGUF", "is not a GGUF file: it is empty", 1),
    "three bytes": ([answer("200 OK", b"GGU")], "NotGGUF", "it begins with 47 47 55", 1),
    "a compressed file": (
        [answer("200 OK\r\nContent-Encoding: gzip", gzip.compress(DATA))], "NotGGUF",
        r"\(gzip\); it was sent as application/octet-stream, Content-Encoding gzip\. The download was discarded", 1,
    ),
    "a file that is cut off": (
        [answer("200 OK", HALF)], "NotGGUF",
        r"is not a complete GGUF file: it has 1,536,032 bytes, but its header requires 3,072,064; "
        r".* The file on the server is incomplete\. The download was discarded", 1,
    ),
    "a header that is cut off": (
        [answer("200 OK", DATA[:40])], "NotGGUF", "is not a complete GGUF file: it has 40 bytes", 1,
    ),
    "a file for other machines": ([answer("200 OK", b"GGUF\0\0\0\3" + b"\0" * 64)], "NotGGUF", "big-endian", 1),
    "a connection that ends where no length was told": (
        [answer("200 OK", HALF, length=None)], "DownloadFailed",
        r"the connection was lost at \d of 3 MiB, 6 times$", 6,
    ),
    "chunks that end in the middle": (
        [raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + DATA[:1024] + b"\r\n")],
        "DownloadFailed", r"the connection was lost at \d KiB, 6 times$", 6,
    ),
    "chunks that are none": (
        [raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")], "DownloadFailed",
        "6 times$", 6,
    ),
    "a reset in the middle": (
        [reset(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + HALF)], "DownloadFailed",
        r"the connection was lost at \d of 3 MiB, 6 times$", 6,
    ),
    "a reset": ([reset()], "DownloadFailed", "the connection was lost, 6 times|without an answer, 6 times", None),
    "no answer": ([raw(b"")], "DownloadFailed", "closed the connection without an answer, 6 times", None),
    "half an answer": ([raw(b"HTTP/1.1 200 O")], "DownloadFailed", "6 times", None),
    "silence": ([silence()], "DownloadFailed", r"no data came for 0\.2 s, 6 times", 6),
    "silence in the middle": (
        [silence(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + HALF)], "DownloadFailed",
        r"no data came for 0\.2 s at 1 of 3 MiB, 6 times$", 6,
    ),
    "another protocol": (
        [raw(b"SSH-2.0-OpenSSH_9.6\r\n")], "DownloadFailed", "the server does not answer with HTTP, 6 times", 6,
    ),
    "redirects without end": (
        [redirect(f"/again?token={SECRET}")], "DownloadFailed",
        r"too many redirects \(10\), the last to http://127\.0\.0\.1:\d+/again\?…$", 10,
    ),
    "a redirect to nowhere": (
        [answer("302 Found")], "DownloadFailed", "answered 302 Found, without a Location$", 1,
    ),
    "a redirect to another scheme": (
        [redirect(f"ftp://user:{SECRET}@files.example/m.gguf")], "DownloadFailed",
        "the server redirects to ftp://files.example/m.gguf, which is not an HTTP address$", 1,
    ),
    "a redirect to no address": (
        [redirect("http://")], "DownloadFailed", "the server redirects to .*, which is not an HTTP address$", 1,
    ),
    "a redirect to an error": (
        [redirect(f"/gone?token={SECRET}"), answer("404 Not Found")], "ModelNotFound",
        r"answered 404 Not Found after a redirect to http://127\.0\.0\.1:\d+/gone\?…$", 2,
    ),
    "400": ([answer("400 Bad Request")], "DownloadFailed", r"/m\.gguf\?… answered 400 Bad Request$", 1),
    "401": (
        [answer("401 Unauthorized")], "Unauthorized",
        "answered 401 Unauthorized; the token in BEARER_TOKEN was refused$", 1,
    ),
    "403": (
        [answer("403 Forbidden")], "Unauthorized", "answered 403 Forbidden; the token in BEARER_TOKEN was refused$", 1,
    ),
    "404": ([answer("404 Not Found")], "ModelNotFound", "answered 404 Not Found$", 1),
    "404 of Hugging Face": (
        [answer("404 Not Found\r\nX-Error-Message: Invalid rev id: v9")], "ModelNotFound",
        r"answered 404 Not Found \(Invalid rev id: v9\)$", 1,
    ),
    "405": ([answer("405 Method Not Allowed")], "DownloadFailed", "answered 405 Method Not Allowed$", 1),
    "407": (
        [answer("407 Proxy Authentication Required")], "DownloadFailed",
        "answered 407 Proxy Authentication Required$", 1,
    ),
    "410": ([answer("410 Gone")], "ModelNotFound", "answered 410 Gone$", 1),
    "451": ([answer("451 No")], "DownloadFailed", "answered 451 Unavailable For Legal Reasons$", 1),
    "204": ([answer("204 No Content")], "DownloadFailed", "answered 204 No Content$", 1),
    "a status of their own": ([answer("999 Request denied")], "DownloadFailed", "the server answered 999 Request", 6),
    "416 at the begin": (
        [answer("416 Range Not Satisfiable")], "DownloadFailed",
        "the server refuses to continue where the last attempt ended; starting again, 6 times$", 6,
    ),
    "another range": (
        [answer("206 Partial Content\r\nContent-Range: bytes 7-9/10", b"abc")], "DownloadFailed",
        "the server sent another range than the requested one; starting again, 6 times$", 6,
    ),
    "429": ([answer("429 Slow down")], "DownloadFailed", "the server answered 429 Too Many Requests, 6 times$", 6),
    "500": ([answer("500 Oops")], "DownloadFailed", "the server answered 500 Internal Server Error, 6 times$", 6),
    "503": ([answer("503 Busy")], "DownloadFailed", "the server answered 503 Service Unavailable, 6 times$", 6),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_the_error_message(name, told, tmp_path):
    steps, reason, message, requests = CASES[name]
    async with Wire(*steps) as wire:
        error = await told(f"{wire.url}/m.gguf")
        assert re.search(message, str(error)), str(error)
        assert error.reason == reason
        assert requests in (None, len(wire.requests))
    kept = {path.name for path in (tmp_path / "models").iterdir()}
    assert kept <= {"model.gguf.part"}
    if reason == "NotGGUF":
        assert kept == set()


async def test_a_connection_that_ends_in_the_middle(told):
    """The next attempts ask for the rest, and get none of it."""
    came = asyncio.Event()

    async def half(wire, writer):
        writer.write(f'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: {len(DATA)}\r\n\r\n'.encode() + HALF)
        await came.wait()
        writer.close()

    span = f"{len(HALF)}-{len(DATA) - 1}/{len(DATA)}"
    rest = answer(f"206 Partial Content\r\nContent-Range: bytes {span}", length=len(DATA) - len(HALF))
    async with Wire(half, rest) as wire:
        message = str(await told(f"{wire.url}/m.gguf", lambda have, _: came.set() if have == len(HALF) else None))
        assert len(wire.requests) == 6
        assert f"range: bytes={len(HALF)}-" in wire.requests[1].lower()
    assert "cannot download http" in message
    assert message.endswith(": the connection was lost at 1 of 3 MiB, 6 times; the next attempt continues there")


@pytest.mark.parametrize("encoding", ["gzip", "br", "aws-chunked"])
async def test_a_file_that_is_said_to_be_compressed_and_is_not(encoding, tmp_path):
    async with Wire(answer(f"200 OK\r\nContent-Encoding: {encoding}", DATA)) as wire:
        target = await fetch(Source(f"{wire.url}/m.gguf"), tmp_path / "m.gguf", lambda *_: None)
    assert target.read_bytes() == DATA


async def test_a_file_without_a_length_leaves_room_on_the_disk(told, tmp_path, monkeypatch):
    part, usage = tmp_path / "models" / "model.gguf.part", shutil.disk_usage("/")

    def filling(_):
        return usage._replace(free=(66 << 20) - (part.stat().st_size if part.exists() else 0))

    monkeypatch.setattr(shutil, "disk_usage", filling)
    async with Wire(answer("200 OK", DATA, length=None)) as wire:
        failure = await told(f"{wire.url}/m.gguf")
    assert failure.reason == "DiskFull"
    assert "64 MiB to spare" in str(failure)
    assert not part.exists()  # others need the room


async def test_a_page_of_a_hub_in_place_of_its_file(told):
    async with Wire(answer("200 OK\r\nContent-Type: text/html", HTML)) as wire:
        assert "Is it /resolve/ in place of /blob/?" in str(await told(f"{wire.url}/who/what/blob/main/m.gguf"))


# ---- tokens


@pytest.mark.parametrize(
    ("status", "token", "page", "message"),
    [
        (401, "", "", "no token was sent (BEARER_TOKEN is not set)"),
        (403, "", "", "no token was sent (BEARER_TOKEN is not set)"),
        (401, "t", "", "the token in BEARER_TOKEN was refused"),
        (401, "", "http://hub/a/b", "no token was sent (BEARER_TOKEN is not set) or there is no such repository"),
        (403, "", "http://hub/a/b", "no token was sent (BEARER_TOKEN is not set)"),
        (401, "t", "http://hub/a/b", "the token in BEARER_TOKEN was refused"),
        (403, "t", "http://hub/a/b", "the token in BEARER_TOKEN was refused; "
                                     "has the licence been accepted on http://hub/a/b?"),
    ],
)  # fmt: skip
async def test_whether_a_token_was_sent(status, token, page, message, tmp_path):
    async with Wire(answer(f"{status} No")) as wire:
        url = f"{wire.url}/m.gguf"
        source = Source(url, headers=bearer(url, token), token_name="BEARER_TOKEN", page=page)
        with pytest.raises(DownloadError) as failed:
            await fetch(source, tmp_path / "m.gguf", lambda *_: None)
        assert ("Authorization: Bearer t" in wire.requests[0]) == bool(token)
    assert str(failed.value).endswith(f"; {message}")
    assert failed.value.reason == "Unauthorized"


async def test_the_message_of_hugging_face_is_shown(tmp_path):
    said = "Access to model a/b is restricted. Visit https://hub/a/b to ask for access."
    async with Wire(answer(f"403 Forbidden\r\nX-Error-Message: {said}")) as wire:
        with pytest.raises(DownloadError, match="answered 403 Forbidden") as failed:
            await fetch(Source(f"{wire.url}/m.gguf"), tmp_path / "m.gguf", lambda *_: None)
    assert f"({said}); no token was sent" in str(failed.value)


async def test_a_token_that_stays_with_the_first_server(told):
    async with Wire(answer("403 Forbidden")) as other, Wire(redirect(f"{other.url}/m?sig={SECRET}")) as wire:
        message = str(await told(f"{wire.url}/m.gguf"))
        assert f"after a redirect to {other.url}/m?…" in message
        assert message.endswith("; the token in BEARER_TOKEN was not sent on to another server")
        assert "Authorization" not in other.requests[0]


async def test_a_user_in_the_url_comes_before_the_token(told):
    async with Wire(answer("401 Unauthorized")) as wire:
        message = str(await told(f"http://user:{SECRET}@127.0.0.1:{wire.port}/m.gguf"))
        assert message.startswith(f"{wire.url}/m.gguf?… answered 401")
        assert message.endswith("; the user and the password of the URL were refused")
        assert "Authorization: Basic " in wire.requests[0]


@pytest.mark.parametrize("token", ["two\nlines", "größer", "nul\0"])
def test_a_token_that_no_header_can_hold(token):
    with pytest.raises(DownloadError, match="the token has characters") as failed:
        bearer("http://h/m.gguf", token)
    assert failed.value.reason == "BadSpec"
    assert token not in str(failed.value)


# ---- no connection


async def test_nobody_listens(told, unused_tcp_port):
    message = str(await told(f"http://user:{SECRET}@127.0.0.1:{unused_tcp_port}/m.gguf"))
    assert message.endswith(f": 127.0.0.1:{unused_tcp_port} cannot be reached (Connection refused), 6 times")


async def test_a_name_with_several_addresses(told, unused_tcp_port):
    message = str(await told(f"http://localhost:{unused_tcp_port}/m.gguf"))
    assert f"localhost:{unused_tcp_port} cannot be reached (" in message


async def test_a_name_that_nobody_knows(told):
    message = str(await told("http://models.invalid/m.gguf"))
    assert "the name models.invalid cannot be resolved (" in message
    assert message.endswith("), 6 times")


@pytest.mark.parametrize("url", ["http://", "ftp://there/m.gguf", "not a url/m.gguf", "http://[::1/m.gguf"])
async def test_an_address_that_is_none(url, tmp_path):
    with pytest.raises(DownloadError, match=r"cannot download .*: this is not an HTTP address$"):
        await fetch(Source(url), tmp_path / "m.gguf", lambda *_: None)


async def test_a_proxy_that_is_not_there(told, unused_tcp_port, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://user:{SECRET}@127.0.0.1:{unused_tcp_port}")
    message = str(await told("http://models.example/m.gguf"))
    assert f": the proxy 127.0.0.1:{unused_tcp_port} cannot be reached (Connection refused), 6 times" in message


async def test_a_proxy_that_refuses(told, monkeypatch):
    async with Wire(answer("407 Proxy Authentication Required")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        message = str(await told("https://models.example/m.gguf"))
    assert "the proxy answered 407 Proxy Authentication Required" in message


# ---- TLS


def secure(folder, name="us"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.make(folder, name))
    return context


async def test_a_certificate_that_nobody_vouches_for(told, tmp_path):
    async with Wire(answer("200 OK", DATA), secure=secure(tmp_path)) as wire:
        message = str(await told(f"{wire.url}/m.gguf"))
    assert f": the certificate of 127.0.0.1:{wire.port} is not accepted: self-signed certificate; " in message
    assert message.endswith("SSL_CERT_FILE can name a file of certificates to trust")


async def test_a_certificate_for_another_name(told, tmp_path, monkeypatch):
    context = secure(tmp_path)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "us.crt"))
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)  # it reads SSL_CERT_FILE at its import
    async with Wire(answer("200 OK", DATA), secure=context, host="127.0.0.2") as wire:
        message = str(await told(f"{wire.url}/m.gguf"))
    assert f": the certificate of 127.0.0.2:{wire.port} is not accepted: IP address mismatch, certificate is" in message
    assert "SSL_CERT_FILE" not in message


async def test_no_tls_where_it_is_expected(told):
    async with Wire(raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), at_once=True) as wire:
        message = str(await told(f"https://127.0.0.1:{wire.port}/m.gguf"))
    assert (
        f": 127.0.0.1:{wire.port} does not speak TLS; does its URL begin with http:// rather than https://?" in message
    )


async def test_tls_where_it_is_not_expected(told, tmp_path):
    async with Wire(answer("200 OK", DATA), secure=secure(tmp_path)) as wire:
        message = str(await told(f"http://127.0.0.1:{wire.port}/m.gguf"))
    assert message.endswith(" times")


# ---- pauses


@pytest.mark.parametrize(
    ("asked", "pause", "said"),
    [("7", 7, "asks to wait 7 s, attempt 1 of 6, next attempt in 7 s"), ("9999", 300, "asks to wait 9,999 s"),
     ("Wed, 01 May 2024 10:00:00 GMT", 0, "Unavailable, attempt 1 of 6"), ("soon", 0, "Unavailable, attempt 1 of 6"),
     ("-5", 0, "Unavailable, attempt 1 of 6"), ("", 0, "Unavailable, attempt 1 of 6")],
)  # fmt: skip
async def test_a_server_may_ask_for_a_pause(asked, pause, said, tmp_path, monkeypatch):
    slept, retries = [], []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(http_client, "asyncio", SimpleNamespace(sleep=sleep))
    async with Wire(answer(f"503 Busy\r\nRetry-After: {asked}"), answer("200 OK", DATA)) as wire:
        await fetch(Source(f"{wire.url}/m.gguf"), tmp_path / "m.gguf", lambda *_: None, on_retry=retries.append)
    assert slept == [pause]
    assert said in retries[0]


async def test_a_pause_may_be_a_time_of_day(tmp_path, monkeypatch):
    retries = []

    async def sleep(_):
        pass

    monkeypatch.setattr(http_client, "asyncio", SimpleNamespace(sleep=sleep))
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    async with Wire(answer(f"429 Wait\r\nRetry-After: {when}"), answer("200 OK", DATA)) as wire:
        await fetch(Source(f"{wire.url}/m.gguf"), tmp_path / "m.gguf", lambda *_: None, on_retry=retries.append)
    assert re.search(r"and asks to wait \d+ s, attempt 1 of 6, next attempt in \d+(\.\d)? s$", retries[0])


async def test_each_attempt_is_told_and_when_the_next_one_is(tmp_path, monkeypatch):
    retries = []

    async def sleep(_):
        pass

    monkeypatch.setattr(http_client, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(http_client, "_FIRST_DELAY", 0.5)
    async with Wire(answer("500 Oops")) as wire:
        url = f"{wire.url}/m.gguf"
        with pytest.raises(DownloadError, match="6 times"):
            await fetch(Source(url), tmp_path / "m.gguf", lambda *_: None, on_retry=retries.append)
    what = f"{url}: the server answered 500 Internal Server Error"
    assert retries == [f"{what}, attempt {n} of 6, next attempt in {0.5 * 2 ** (n - 1):g} s" for n in range(1, 6)]
