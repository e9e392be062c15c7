"""A page of another origin that sends its credentials along: Chromium lets it read every answer."""

import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from .conftest import KEY

pytestmark = [pytest.mark.browser, pytest.mark.model]

FETCH = """
const [url, method, headers, body, credentials] = arguments, done = arguments[arguments.length - 1]
fetch(url, { method, headers, body: body ?? undefined, credentials }).then(
  async (answer) => done({ status: answer.status, text: await answer.text(), headers: [...answer.headers] }),
  (error) => done({ status: 0, text: String(error), headers: [] }),
)"""
CHAT = {"messages": [{"role": "user", "content": "Name one colour."}], "max_tokens": 4, "temperature": 0}
SDK = {"Content-Type": "application/json", "X-Stainless-Os": "Linux", "X-Stainless-Lang": "js", "OpenAI-Beta": "a=v1"}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Somebody else's page: the URL of an empty one."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html><title>elsewhere</title>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder)) as pages:
        Thread(target=pages.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{pages.server_port}/"
        pages.shutdown()


@pytest.fixture
def fetch(tab, elsewhere, keyed_server):
    """Fetch on that page from a server that asks for a key."""
    tab.get(elsewhere)
    tab.execute_script("document.cookie = 'session=1'")  # cookies know no ports: they are sent to both

    def ask(path, body=None, *, method="", headers=None, credentials="include"):
        data = None if body is None else json.dumps(body)
        method = method or ("GET" if body is None else "POST")
        return tab.execute_async_script(FETCH, keyed_server.url + path, method, headers or {}, data, credentials)

    return ask


@pytest.mark.parametrize("credentials", ["include", "omit"])
@pytest.mark.parametrize("key", [{"Authorization": f"Bearer {KEY}"}, {"X-Api-Key": KEY}], ids=["bearer", "x-api-key"])
def test_a_chat(fetch, credentials, key):
    answer = fetch("/v1/chat/completions", CHAT, headers={**SDK, **key}, credentials=credentials)
    assert answer["status"] == 200, answer
    assert json.loads(answer["text"])["choices"][0]["message"]["content"]


def test_a_stream(fetch):
    headers = {**SDK, "Authorization": f"Bearer {KEY}"}
    answer = fetch("/v1/chat/completions", {**CHAT, "stream": True}, headers=headers)
    assert answer["status"] == 200, answer
    assert answer["text"].endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("method", "path", "body", "key", "status"),
    [
        ("POST", "/v1/chat/completions", CHAT, "wrong", 401),
        ("POST", "/v1/chat/completions", {"messages": []}, KEY, 400),
        ("GET", "/v1/models", None, KEY, 200),
        ("GET", "/v1/models/none", None, KEY, 404),
        ("GET", "/nothing", None, KEY, 404),
        ("PUT", "/completion", {}, KEY, 404),
        ("DELETE", "/kv-store", None, KEY, 501),
        ("GET", "/health", None, "", 200),
        ("GET", "/completion.js", None, "", 200),
    ],
)
def test_errors_and_other_answers(fetch, method, path, body, key, status):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = fetch(path, body, method=method, headers={**SDK, **headers})
    assert answer["status"] == status, answer
    if status >= 400:
        assert json.loads(answer["text"])["error"]["message"]


def test_headers_that_help_can_be_read(fetch):
    answer = fetch("/v1/models", headers={"Authorization": "Bearer wrong"})
    assert ["www-authenticate", "Bearer"] in answer["headers"]


def test_a_script_with_credentials(tab, elsewhere, keyed_server):
    """A module of the server on a page of elsewhere, with the page's cookies."""
    tab.get(elsewhere)
    loaded = tab.execute_async_script(
        "const done = arguments[1], script = document.createElement('script');"
        "Object.assign(script, { type: 'module', crossOrigin: 'use-credentials', src: arguments[0] });"
        "script.onload = () => done('loaded'); script.onerror = () => done('refused'); document.head.append(script)",
        f"{keyed_server.url}/completion.js",
    )
    assert loaded == "loaded"


FRAME = """
const [url] = arguments, done = arguments[arguments.length - 1]
const frame = Object.assign(document.createElement("iframe"), { src: url, onload: () => done() })
document.body.append(frame)"""


def test_no_page_shows_ours_in_a_frame(tab, elsewhere, keyed_server):
    """A frame that users cannot see could catch their clicks."""
    for url, titles in ((elsewhere, ["elsewhere"]), (f"{keyed_server.url}/", [])):
        tab.get(elsewhere)
        tab.execute_async_script(FRAME, url)
        tab.switch_to.frame(tab.find_element("tag name", "iframe"))
        found = [element.get_attribute("textContent") for element in tab.find_elements("css selector", "title")]
        assert [title for title in found if title in ("elsewhere", "Chat")] == titles
        tab.switch_to.default_content()


def test_a_server_without_keys_is_not_for_other_sites(tab, elsewhere, server):
    """With the headers that a browser sends, and for a request that it sends without asking first."""
    tab.get(elsewhere.replace("127.0.0.1", "localhost"))
    assert tab.execute_async_script(FETCH, f"{server.url}/health", "GET", {}, None, "omit")["status"] == 200
    tab.get("data:text/html,<title>of no origin</title>")
    assert tab.execute_async_script(FETCH, f"{server.url}/health?x", "GET", {}, None, "omit")["status"] == 0
    tab.get(server.url)
    assert tab.execute_async_script(FETCH, f"{server.url}/health", "GET", {}, None, "omit")["status"] == 200
