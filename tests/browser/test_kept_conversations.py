"""Conversations that the browser keeps, and pictures in them, with a tiny model."""

from collections.abc import Iterator

import pytest
from PIL import Image
from selenium.webdriver.common.by import By

from tests.support.models import IMAGE_TOKENS, Models
from tests.support.polling import until
from tests.support.server.chat_page import ChatPage
from tests.support.server.client import Client
from tests.support.server.prefix_relay import below
from tests.support.server.process import ServerProcess

pytestmark = pytest.mark.browser

MANY = """
const done = arguments[arguments.length - 1]
import('/store.js').then(async ({ Store }) => {
  const store = await Store.open()
  for (let i = 0; i < 55; i++) await store.write(null, `number ${i}`, [])
  const heads = await store.list()
  done([heads.length, heads[0].title, await store.read(heads[49].id), (await store.read(heads[49].id - 1)) ?? null])
})
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model that sees pictures."""
    models = Models(tmp_path_factory.mktemp("models"))
    options = ("--mmproj", str(models.projector()), "-c", "4096", "-np", "1")
    with ServerProcess("-m", str(models.llama()), *options) as process:
        yield process


@pytest.fixture
def page(tab, tiny):
    """Nothing is kept yet."""
    tab.get(tiny.url + "/index.css")
    tab.execute_async_script(
        """const done = arguments[0]
        indexedDB.databases().then((all) => Promise.all(all.map(({ name }) => new Promise((resolve) => {
          const request = indexedDB.deleteDatabase(name)
          request.onsuccess = request.onblocked = resolve
        })))).then(() => done())"""
    )
    page = ChatPage(tab, tiny.url)
    page.wait_ready()
    page.fill(n_predict=4)
    return page


def kept(page):
    page.driver.execute_script("document.getElementById('kept').open = true")
    return [row.text for row in page.driver.find_elements(By.CSS_SELECTOR, "#conversations .open")]


def press(page, name, title):
    kept(page)
    (button,) = [
        row.find_element(By.CLASS_NAME, name)
        for row in page.driver.find_elements(By.CSS_SELECTOR, "#conversations li")
        if row.find_element(By.CLASS_NAME, "open").text == title
    ]
    button.click()


def reload(page):
    page.driver.refresh()
    page.wait_ready()


def test_a_conversation_survives_a_reload(page, tiny):
    page.ask("One?")
    page.ask("Two?")
    before = page.messages()
    reload(page)
    assert page.messages() == before
    assert kept(page) == ["One?"]
    page.ask("Three?")
    prompt = Client(tiny.url).slots()[0]["prompt"]
    assert prompt.index("One?") < prompt.index("Two?") < prompt.index("Three?")
    assert kept(page) == ["One?"]


def test_several_are_kept_the_latest_first(page):
    page.ask("One?")
    first = page.messages()
    page.find("reset").click()
    page.ask("Two?")
    second = page.messages()
    assert kept(page) == ["Two?", "One?"]
    press(page, "open", "One?")
    until(lambda: page.messages() == first, "the first is shown")
    reload(page)
    assert page.messages() == first
    press(page, "open", "Two?")
    until(lambda: page.messages() == second, "the second is shown")


def test_another_tab_begins_a_new_one(page, tiny):
    page.ask("One?")
    page.driver.execute_script("sessionStorage.clear()")
    other = ChatPage(page.driver, tiny.url)
    other.wait_ready()
    assert other.messages() == []
    assert kept(other) == ["One?"]


def test_one_can_be_deleted(page):
    page.ask("One?")
    page.find("reset").click()
    page.ask("Two?")
    press(page, "delete", "Two?")
    until(lambda: page.messages() == [], "what was shown is gone")
    until(lambda: kept(page) == ["One?"], "the other stays")
    reload(page)
    assert kept(page) == ["One?"]


def test_a_stopped_answer_is_kept(page):
    page.add_fields(logit_bias=[["a", 100]], n_predict=-1)
    page.send("For ever?")
    page.wait_growing()
    page.find("stop").click()
    stopped = page.wait_answer()
    assert stopped.figures == "stopped"
    reload(page)
    assert page.messages()[-1] == stopped


def test_the_oldest_are_dropped(page):
    count, latest, oldest, dropped = page.driver.execute_async_script(MANY)
    assert (count, latest) == (50, "number 54")
    assert oldest == []
    assert dropped is None


def test_a_browser_that_keeps_nothing_can_chat(tab, tiny):
    script = "Object.defineProperty(window, 'indexedDB', { value: undefined })"
    added = tab.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    page = ChatPage(tab, tiny.url)
    page.wait_ready()
    page.fill(n_predict=4)
    page.ask("One?")
    assert not page.find("kept").is_displayed()
    assert page.text("error") == ""
    tab.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_below_a_path_the_page_is_whole(page, tiny):
    """Each path has conversations of its own."""
    page.ask("Here?")
    with below("/models/one", tiny.url) as url:
        other = ChatPage(page.driver, url + "/")
        other.wait_ready()
        other.fill(n_predict=4)
        assert other.ask("There?").text
        reload(other)
        assert len(other.messages()) == 2
        assert kept(other) == ["There?"]


def test_pictures_are_attached_shown_and_kept(page, tiny, tmp_path):
    for name, mode, size in (("wide.png", "RGBA", (3000, 100)), ("photo.jpg", "RGB", (64, 64))):
        Image.new(mode, size, "red").save(tmp_path / name)
    (tmp_path / "text.png").write_text("no picture")
    for name in ("wide.png", "photo.jpg"):
        page.find("files").send_keys(str(tmp_path / name))
    shown = until(lambda: len(found := page.driver.find_elements(By.CSS_SELECTOR, "#pictures img")) == 2 and found, "")
    assert shown[0].get_property("naturalWidth") == 1536  # larger ones are made smaller
    answer = page.ask("What do you see?")
    assert int(answer.figures.split(" of ")[1].split()[0]) > 2 * IMAGE_TOKENS
    assert page.driver.find_elements(By.CSS_SELECTOR, "#pictures img") == []
    assert len(page.driver.find_elements(By.CSS_SELECTOR, ".user img")) == 2
    reload(page)
    assert len(page.driver.find_elements(By.CSS_SELECTOR, ".user img")) == 2
    page.find("files").send_keys(str(tmp_path / "text.png"))
    until(lambda: "text.png" in page.text("error"), "the page says what is wrong with the file")
