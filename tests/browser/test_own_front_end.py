"""--path: the document's front end, unchanged, and which files win."""

from pathlib import Path

import httpx2
import pytest

from tests.support.polling import until
from tests.support.server.client import Client

from .conftest import start

pytestmark = [pytest.mark.browser, pytest.mark.model]

EXAMPLE = Path(__file__).with_name("data") / "index.html"  # the document's, byte for byte


def test_the_documents_page_prints_an_answer(tab, tmp_path):
    (tmp_path / "index.html").write_bytes(EXAMPLE.read_bytes())
    with start("--path", str(tmp_path)) as server:
        client = Client(server.url)
        tab.get(server.url)
        until(lambda: written(tab), "the page prints", deadline=120)
        prompt = client.slots()[0]["prompt"]
    assert prompt.startswith("### Instruction:\nWrite dad jokes, each one paragraph.")


def written(tab):
    """The text of the answer, once document.write has replaced the page with it."""
    return tab.execute_script("return document.querySelector('script') ? '' : document.body?.innerText.trim() ?? ''")


def test_files_in_path_win_and_ours_are_the_fallback(tmp_path):
    (tmp_path / "index.js").write_text("mine\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "index.html").write_text("<p>deep</p>\n")
    with start("--path", str(tmp_path)) as server:
        get = httpx2.Client(base_url=server.url, timeout=60, trust_env=False).get
        assert get("/index.js").text == "mine\n"
        assert get("/deep/").text == "<p>deep</p>\n"
        assert "export async function* llama(" in get("/completion.js").text
        assert '<script type="module" src="index.js">' in get("/").text
        assert get("/missing.js").status_code == 404


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/index.html", "text/html"),
        ("/index.js", "text/javascript"),
        ("/completion.js", "text/javascript"),
        ("/chat.js", "text/javascript"),
        ("/index.css", "text/css"),
        ("/vendor/dompurify/purify.es.mjs", "text/javascript"),
    ],
)
def test_our_files_have_their_types_and_need_no_key(keyed_server, path, kind):
    answer = httpx2.get(keyed_server.url + path, timeout=60, trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
