"""A guarded download connects to no address of this machine: not by URL, by name, by redirect or through a proxy."""

import asyncio
import ipaddress
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from llamaserver.errors import DownloadError
from llamaserver.models import fetch_run
from llamaserver.models.addresses import is_refused
from llamaserver.models.spec import wanted

from tests.support.gguf_bytes import whole
from tests.support.server.wire import Wire, answer

GUARD = {"LLAMA_ARG_PRIVATE_SOURCES": "refuse"}
MODEL = answer("200 OK", whole(b"weights"))
REFUSED = [
    *(
        "127.0.0.1",
        "127.1.2.3",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0.0.0.0",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
    ),
    *(
        "169.254.169.254",
        "169.254.20.10",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
    ),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::169.254.169.254"),
    *("2002:7f00:1::", "0:0:0:0:0:ffff:a9fe:a9fe"),
]
ALLOWED = [
    "models.example",
    "10.0.0.1",
    "192.168.1.1",
    "172.16.0.1",
    "fd12::1",
    "1.1.1.1",
    "2606:4700::1111",
    "169.example",
]


@pytest.mark.parametrize("host", REFUSED)
def test_addresses_of_this_machine_are_refused(host: str):
    assert is_refused(host)


@pytest.mark.parametrize("host", ALLOWED)
def test_other_addresses_are_not(host: str):
    assert not is_refused(host)


async def fetched(url: str, folder: Path, environ: dict[str, str]) -> Path:
    text = json.dumps({"path": "key/model.gguf", "http": {"url": url}})
    await fetch_run.fetch_all(wanted(text, environ), folder, fetch_run.Progress())
    return folder / "key" / "model.gguf"


async def refusal(url: str, folder: Path, environ: dict[str, str] = GUARD) -> str:
    with pytest.raises(DownloadError) as failed:
        await fetched(url, folder, environ)
    assert failed.value.reason == "SourceNotAllowed"
    return str(failed.value)


async def test_a_url_with_such_an_address(tmp_path: Path):
    async with Wire(MODEL) as wire:
        text = await refusal(f"{wire.url}/m.gguf", tmp_path)
        assert text.endswith("is not allowed: it is an address of this machine, of its link, or of a metadata service")
        assert wire.requests == []
        assert await fetched(f"{wire.url}/m.gguf", tmp_path, {}), "a plain fetch is not guarded"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A name server: addresses by name. The second question gets the addresses after the first."""
    known: dict[str, list[str]] = {}
    asked: dict[str, int] = {}

    async def getaddrinfo(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown name")
        asked[host] = asked.get(host, -1) + 1
        turns = known[host]
        found = turns[min(asked[host], len(turns) - 1)].split()
        family = {4: socket.AF_INET, 6: socket.AF_INET6}
        kinds = [(family[ipaddress.ip_address(each).version], each) for each in found]
        return [(kind, socket.SOCK_STREAM, 6, "", (each, port)) for kind, each in kinds]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return known


async def test_a_name_with_such_an_address(tmp_path: Path, names: dict[str, list[str]]):
    """One address and several. The address that is checked is the one that is connected to."""
    names["models.example"] = ["127.0.0.1"]
    names["two.example"] = ["127.0.0.1 127.0.0.2"]
    async with Wire(MODEL) as wire:
        for name in names:
            assert name in await refusal(f"http://{name}:{wire.port}/m.gguf", tmp_path)
        assert wire.requests == []


async def test_a_name_whose_answer_changes(tmp_path: Path, names: dict[str, list[str]]):
    """The first answer, whose address cannot be reached, is another than the second."""
    names["models.example"] = ["240.0.0.1", "127.0.0.1"]
    async with Wire(MODEL) as wire:
        await refusal(f"http://models.example:{wire.port}/m.gguf", tmp_path)
        assert wire.requests == []


async def test_a_redirect_to_such_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From a server that is allowed: the check of one port stands for that of an address."""
    async with (
        Wire(MODEL) as inner,
        Wire(answer(f"302 Found\r\nLocation: http://localhost:{inner.port}/m.gguf")) as outer,
    ):
        monkeypatch.setattr("llamaserver.models.addresses.is_refused", lambda host: host == "localhost")
        text = await refusal(f"{outer.url}/m.gguf", tmp_path)
        assert f"localhost:{inner.port}" in text
        assert len(outer.requests) == 1
        assert inner.requests == []


async def test_a_proxy_does_not_evade_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither a URL that the proxy would resolve, nor a proxy on this machine."""
    async with Wire(MODEL) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        assert "169.254.169.254" in await refusal("http://169.254.169.254/latest/m.gguf", tmp_path)
        assert "proxy" in await refusal("http://models.example/m.gguf", tmp_path)
        assert proxy.requests == []


def test_a_wrong_value_is_refused():
    text = json.dumps({"path": "key/model.gguf", "http": {"url": "http://models.example/m.gguf"}})
    with pytest.raises(DownloadError, match="LLAMA_ARG_PRIVATE_SOURCES must be allow or refuse, not 'no'") as failed:
        wanted(text, {"LLAMA_ARG_PRIVATE_SOURCES": "no"})
    assert failed.value.reason == "BadSpec"
