"""A server without keys on a loopback address is not for web pages of others (Ollama: CVE-2024-28224)."""

import socket

import pytest
from llamaserver.api.origins import Origins, is_loopback
from llamaserver.config import Config
from llamaserver.errors import ConfigError, Forbidden
from llamaserver.options import parse

EVIL = "https://evil.example"
PATHS = [("GET", "/"), ("GET", "/health"), ("GET", "/slots"), ("POST", "/completion"), ("GET", "/nothing")]
LOOPBACK_HOSTS = [
    "localhost", "localhost:8080", "LOCALHOST", "localhost.", "a.localhost:1", "127.0.0.1", "127.0.0.1:8080",
    "127.9.9.9", "[::1]", "[::1]:8080", "[::ffff:127.0.0.1]", "", "host.docker.internal:8080",
    "host.containers.internal", socket.gethostname(), f"{socket.gethostname()}:8080",
]  # fmt: skip
OTHER_HOSTS = [
    "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "127.evil.example",
    "localhost@evil.example", "evil.example@localhost", "10.0.0.1", "0.0.0.0:8080", "169.254.169.254", "[::2]", "[::1",
    "::1]", "2130706433", "local host", "localhost/", "localhost:80:80", "xlocalhost", "localhost#",
    "internal", "host.docker.internal.evil.example", f"{socket.gethostname()}.evil.example",
]  # fmt: skip
LOOPBACK_ORIGINS = [
    "http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://[::1]:5173", "http://ui.localhost",
    "tauri://localhost", "app://obsidian.md", "vscode-webview://1fe2", "file://",
]  # fmt: skip
OTHER_ORIGINS = [
    EVIL, "http://evil.example:8080", "null", "http://localhost.evil.example", "http://10.0.0.1:8080", "http://[::2]",
    "http://localhost@evil.example", "chrome-extension://abc", "http://[", "", "x",
]  # fmt: skip


def allows(name="", origin=None, *, keyless=True, **options):
    origins = Origins(Config(model="m", **options), keyless=keyless)
    try:
        origins.check([name], [] if origin is None else [origin])
    except Forbidden as error:
        assert error.status == 403
        return False
    return True


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
def test_names_of_the_machine_itself(host):
    assert allows(host)


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_other_names(host):
    assert not allows(host)


@pytest.mark.parametrize("origin", LOOPBACK_ORIGINS)
def test_pages_and_programs_of_the_machine_itself(origin):
    assert allows("127.0.0.1:8080", origin)


@pytest.mark.parametrize("origin", OTHER_ORIGINS)
def test_pages_of_others(origin):
    assert not allows("127.0.0.1:8080", origin)


@pytest.mark.parametrize(
    "options",
    [
        {"keyless": False},  # the key protects it
        {"host": "0.0.0.0"},  # in a cluster
        {"host": "::"},
        {"host": "192.168.1.5"},
        {"host": "/run/llama.sock"},
        {"allowed_hosts": ("*",), "allowed_origins": ("*",)},
    ],
    ids=str,
)
def test_other_servers_are_for_everybody(options):
    assert all(allows(host, **options) for host in OTHER_HOSTS)
    assert all(allows("x", origin, **options) for origin in OTHER_ORIGINS)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_every_loopback_address_counts(host):
    assert not allows("evil.example", host=host)
    assert is_loopback(host)


def test_names_and_origins_can_be_added():
    options = {"allowed_hosts": ("LLM.example.com", "10.0.0.1"), "allowed_origins": ("https://UI.example.com/", "null")}
    for host in ("llm.example.com", "llm.example.com:443", "10.0.0.1:8080", "localhost"):
        assert allows(host, **options)
    assert not allows("evil.example", **options)
    for origin in ("https://ui.example.com", "null", "http://localhost:3000"):
        assert allows("localhost", origin, **options)
    for origin in ("http://ui.example.com", "https://ui.example.com:8443", EVIL):
        assert not allows("localhost", origin, **options)


def test_the_servers_own_page_behind_a_proxy():
    """A proxy that keeps the name: the browser sends it as Host and, with every POST, as Origin."""
    options = {"allowed_hosts": ("llm.example.com",)}
    assert allows("llm.example.com", "https://llm.example.com", **options)
    assert not allows("llm.example.com", "https://other.example.com", **options)
    assert not allows("evil.example", "https://evil.example"), "rebinding: the same name in both"


def test_limits_that_are_asked_for_count_for_every_server():
    options = {"host": "0.0.0.0", "keyless": False}
    assert not allows("evil.example", allowed_hosts=("llm.example.com",), **options)
    assert allows("evil.example", EVIL, allowed_hosts=("*",), **options)
    assert not allows("llm.example.com", EVIL, allowed_origins=("https://ui.example.com",), **options)
    assert not allows("host.docker.internal", allowed_hosts=("llm.example.com",), **options)


def test_a_page_is_the_servers_own_only_if_the_host_is_checked():
    """By DNS rebinding, a foreign page has the same name in both headers."""
    options = {"host": "0.0.0.0", "keyless": False}
    own = ("llm.example.com", "https://llm.example.com")
    listed = {"allowed_origins": ("https://ui.example.com",)}
    assert allows(*own, **options)
    assert not allows(*own, **listed, **options)
    assert allows(*own, allowed_hosts=("llm.example.com",), **listed, **options)
    assert not allows(*own, allowed_hosts=("other.example.com",), **listed, **options)


def test_every_value_of_a_repeated_header_counts():
    origins = Origins(Config(model="m"), keyless=True)
    with pytest.raises(Forbidden):
        origins.check(["localhost", "evil.example"], [])
    with pytest.raises(Forbidden):
        origins.check(["localhost"], ["http://localhost", EVIL])


# ---- as HTTP


@pytest.mark.parametrize(("method", "path"), [*PATHS, ("OPTIONS", "/completion")])
async def test_a_page_of_another_origin_is_refused(ports, method, path):
    server = await ports(allowed_hosts=())
    answer = await server.client.request(method, path, headers={"Origin": EVIL})
    assert answer.status == 403
    error = (await answer.json())["error"]
    assert error["type"] == "permission_error"
    assert EVIL in error["message"]
    assert "--allowed-origins" in error["message"]
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_another_name_is_refused(ports, method, path):
    server = await ports(allowed_hosts=())
    answer = await server.client.request(method, path, headers={"Host": "evil.example:8080"})
    assert answer.status == 403
    assert "--allowed-hosts" in (await answer.json())["error"]["message"]


async def test_pages_of_this_machine_may_read_answers(ports):
    server = await ports(allowed_hosts=())
    for headers in ({}, {"Host": "localhost:3000"}, {"Origin": "http://localhost:3000"}):
        answer = await server.client.get("/", headers=headers)
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == headers.get("Origin", "*")


async def test_odd_bytes_are_refused_and_not_repeated(ports):
    server = await ports(allowed_hosts=())
    for line in (b"Host: \xff\xfe", b"Host: localhost\r\nOrigin: http://\xc3\xa4"):
        answer = await server.raw(b"GET / HTTP/1.1\r\nConnection: close\r\n" + line + b"\r\n\r\n")
        assert answer.split(b"\r\n")[0].split()[1] in (b"403", b"400")
        assert b"\xff" not in answer
        assert b"\xc3" not in answer


async def test_a_client_without_a_host_is_no_browser(ports):
    server = await ports(allowed_hosts=())
    assert b" 200 " in (await server.raw(b"GET / HTTP/1.0\r\n\r\n")).split(b"\r\n")[0]


# ---- the options


def test_options_and_variables():
    config = parse(
        ["-m", "m", "--allowed-hosts", "a,b", "--allowed-hosts", "c"], {"LLAMA_ARG_ALLOWED_ORIGINS": "https://x"}
    )
    assert config.allowed_hosts == ("a", "b", "c")
    assert config.allowed_origins == ("https://x",)


@pytest.mark.parametrize("value", ["https://a.example", "a.example:8080", "a.example/x"])
def test_a_host_is_a_name_only(value):
    with pytest.raises(ConfigError, match=r"--allowed-hosts .*without a port"):
        parse(["-m", "m", "--allowed-hosts", value], {})


@pytest.mark.parametrize("value", ["a.example", "https://a.example/path", "//a.example"])
def test_an_origin_has_a_scheme_and_no_path(value):
    with pytest.raises(ConfigError, match="--allowed-origins"):
        parse(["-m", "m", "--allowed-origins", value], {})
