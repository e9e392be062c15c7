"""The headers of every answer: what protects browsers, and nothing about versions."""

import pytest

WANTED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Server": "llamaserver",
}
CLIENTS = [
    ("GET", "/", 200), ("GET", "/index.js", 200), ("HEAD", "/", 200), ("GET", "/health", 503), ("GET", "/nothing", 404),
    ("POST", "/completion", 401), ("PUT", "/completion", 404), ("OPTIONS", "/completion", 200),
]  # fmt: skip
MANAGEMENT = [("GET", "/livez", 200), ("GET", "/readyz", 503), ("GET", "/metrics", 200), ("GET", "/status", 200)]


@pytest.mark.parametrize(("method", "path", "status"), CLIENTS)
async def test_answers_of_the_clients_port(ports, method, path, status):
    server = await ports(api_keys=("key",))
    answer = await server.client.request(method, path)
    assert answer.status == status
    assert {name: answer.headers.getall(name) for name in WANTED} == {name: [value] for name, value in WANTED.items()}


@pytest.mark.parametrize(("method", "path", "status"), [*MANAGEMENT, ("GET", "/nothing", 404)])
async def test_answers_of_the_management_port(ports, method, path, status):
    server = await ports()
    answer = await server.management.request(method, path)
    assert answer.status == status
    assert {name: answer.headers[name] for name in WANTED} == WANTED


async def test_not_modified(ports):
    server = await ports()
    stamp = (await server.client.get("/index.js")).headers["Last-Modified"]
    answer = await server.client.get("/index.js", headers={"If-Modified-Since": stamp})
    assert answer.status == 304
    assert {name: answer.headers[name] for name in WANTED} == WANTED


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n"])
async def test_answers_to_malformed_requests_name_no_versions(ports, sent):
    server = await ports()
    head = (await server.raw(sent)).partition(b"\r\n\r\n")[0].lower()
    assert b" 400 " in head.split(b"\r\n")[0]
    assert b"server: llamaserver" in head
    assert b"aiohttp" not in head
    assert b"python" not in head


async def test_files_of_an_own_page_have_them_too(ports, tmp_path):
    (tmp_path / "note.txt").write_text("<script>alert(1)</script>")
    server = await ports(path=str(tmp_path))
    answer = await server.client.get("/note.txt")
    assert answer.content_type == "text/plain"
    assert {name: answer.headers[name] for name in WANTED} == WANTED
