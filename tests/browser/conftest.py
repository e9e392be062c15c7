"""A browser for all tests of this folder, a tab for each, and the servers they look at."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.support.paths import model_path
from tests.support.polling import until
from tests.support.server.browser import chromium
from tests.support.server.chat_page import ChatPage
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

KEY = "a key of the tests"


def start(*args: str) -> ServerProcess:
    """A server of one slot with the default model."""
    return ServerProcess("-m", str(model_path()), "-c", "2048", "-np", "1", *args)


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    with chromium() as driver:
        yield driver


@pytest.fixture
def tab(browser: Chrome) -> Iterator[Chrome]:
    """A fresh tab: no history, no session storage."""
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    yield browser
    browser.close()
    browser.switch_to.window(first)


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    with start() as process:
        yield process


@pytest.fixture(scope="session")
def keyed_server() -> Iterator[ServerProcess]:
    """One that asks for KEY."""
    with start("--api-key", KEY) as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Client:
    return Client(server.url)


@pytest.fixture
def page(tab: Chrome, server: ServerProcess, client: Client) -> Iterator[ChatPage]:
    """The page, ready for a question; temperature 0 and short answers. Afterwards the server is idle."""
    page = ChatPage(tab, server.url)
    page.wait_ready()
    page.fill(temperature=0, n_predict=24)
    yield page
    page.driver.get("about:blank")
    until(lambda: client.slots()[0]["state"] == 0, "the slot is idle")
