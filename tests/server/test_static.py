"""Static files: our page, files of --path that win over it, and no way out of the folders."""

import os

import pytest


@pytest.fixture
def site(tmp_path):
    """A folder to serve, beside a file that must stay private."""
    (tmp_path / "secret.txt").write_text("private")
    folder = tmp_path / "site"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.html").write_text("<p>mine</p>")
    (folder / "sub" / "index.html").write_text("<p>below</p>")
    (folder / "sub" / "möd ule.mjs").write_text("export {}")
    return folder


async def test_our_own_page_and_scripts(ports):
    server = await ports()
    for path, kind in (
        ("/", "text/html"),
        ("/index.html", "text/html"),
        ("/index.js", "text/javascript"),
        ("/completion.js", "text/javascript"),
    ):
        answer = await server.client.get(path)
        assert answer.status == 200
        assert answer.content_type == kind
        assert answer.headers["Cache-Control"] == "no-cache"
        assert await answer.read()


async def test_head_of_the_page(ports):
    server = await ports()
    answer = await server.client.head("/")
    assert answer.status == 200
    assert int(answer.headers["Content-Length"]) > 100


async def test_files_of_the_folder_win_and_ours_are_the_fallback(ports, site):
    server = await ports(path=str(site))
    assert await (await server.client.get("/")).text() == "<p>mine</p>"
    assert await (await server.client.get("/sub")).text() == "<p>below</p>"
    assert await (await server.client.get("/sub/")).text() == "<p>below</p>"
    module = await server.client.get("/sub/möd ule.mjs")
    assert module.content_type == "text/javascript"
    assert "llama" in await (await server.client.get("/completion.js")).text()


async def test_a_page_that_did_not_change_is_not_sent_again(ports, site):
    server = await ports(path=str(site))
    first = await server.client.get("/")
    again = await server.client.get("/", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status == 304


async def test_missing_files(ports, site):
    server = await ports(path=str(site))
    for path in ("/nothing", "/sub/nothing.html", "/index.html/x"):
        answer = await server.client.get(path)
        assert answer.status == 404
        assert (await answer.json())["error"]["type"] == "not_found_error"


async def test_other_methods_are_refused(ports, site):
    server = await ports(path=str(site))
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = await server.client.request(method, "/index.html")
        assert answer.status == 404


WAYS_OUT = [
    "/../secret.txt",
    "/sub/../../secret.txt",
    "/%2e%2e/secret.txt",
    "/..%2fsecret.txt",
    "/%2e%2e%2fsecret.txt",
    "/sub/%2e%2e/%2e%2e/secret.txt",
    "//secret.txt",
    "/..\\secret.txt",
    "/....//secret.txt",
    "/%252e%252e/secret.txt",
    "/link.txt",
    "/linked/secret.txt",
    "/outside",
    "/outside/",
    "/secret.txt%00.html",
    "/%00",
    "/index.html%00",
    "/" + "a" * 5000,
    "/" + "a/" * 2000,
    "/%ff%fe",
    "/~root/.profile",
]


@pytest.mark.parametrize("target", WAYS_OUT, ids=[way[:40] for way in WAYS_OUT])
async def test_no_way_out(ports, site, target):
    (site / "link.txt").symlink_to("../secret.txt")
    (site / "linked").symlink_to("..")
    (site / "outside").mkdir()
    (site / "outside" / "index.html").symlink_to("../../secret.txt")
    server = await ports(path=str(site))
    status, body = await server.get(target)
    assert status in (400, 404)
    assert b"private" not in body


async def test_an_absolute_path_is_taken_below_the_folder(ports, site):
    server = await ports(path=str(site))
    status, body = await server.get("//" + os.fspath(site.parent / "secret.txt"))
    assert (status, b"private" in body) == (404, False)


async def test_links_within_the_folder_work(ports, site):
    """As a mounted ConfigMap has them."""
    (site / "..data").mkdir()
    (site / "..data" / "page.html").write_text("linked")
    (site / "page.html").symlink_to("..data/page.html")
    server = await ports(path=str(site))
    assert await (await server.client.get("/page.html")).text() == "linked"


async def test_endpoints_win_over_files_of_their_name(ports, site):
    (site / "health").write_text("fine")
    server = await ports(path=str(site))
    assert (await server.client.get("/health")).content_type == "application/json"
