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
    ("GET", "/health", 503), ("GET", "/nothing", 404),
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


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("HEAD", "/"), ("GET", "/index.js")])
async def test_our_page_has_a_strict_policy(ports, method, path):
    server = await ports()
    answer = await server.client.request(method, path)
    _, policy = of_our_page(answer)
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert not [value for value in policy.values() if "unsafe" in value]
    assert b"<style" not in (page := await (await server.client.get("/")).read())
    assert b" style=" not in page


async def test_not_modified(ports):
    """A browser takes the headers of this answer for its copy."""
    server = await ports()
    first = await server.client.get("/index.js")
    answer = await server.client.get("/index.js", headers={"If-Modified-Since": first.headers["Last-Modified"]})
    assert answer.status == 304
    assert of_our_page(answer) == of_our_page(first)


def of_our_page(answer):
    """The headers that protect, which are as everywhere but for the policy, and the policy."""
    headers = {name: answer.headers.getall(name) for name in WANTED}
    (policy,) = headers.pop("Content-Security-Policy")
    assert headers == {name: [value] for name, value in WANTED.items() if name in headers}
    return headers, dict(part.split(" ", 1) for part in policy.split("; "))


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
