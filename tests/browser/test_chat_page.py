"""Our page at /, in a real browser against the real model."""

import re
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.keys import Keys

from tests.support.polling import until
from tests.support.server.chat_page import ChatPage

from .conftest import KEY, start

pytestmark = [pytest.mark.browser, pytest.mark.model]

STORY = "Write a very long story about a lighthouse, with many chapters."
# Every length of the last answer's text, in the order in which the page showed them.
WATCH = """
window.lengths = []
new MutationObserver(() => {
  const answer = document.querySelector('#messages .assistant:last-child .text')
  if (answer) window.lengths.push(answer.textContent.length)
}).observe(document.getElementById('messages'), { childList: true, subtree: true, characterData: true })
"""


def slot(client):
    return client.slots()[0]


def test_an_answer_streams_in(page, client):
    question = "What is the capital of France?"
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "n_predict": 24}
    expected = client.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
    page.driver.execute_script(WATCH)
    answer = page.ask(question)
    assert answer.text == expected.strip()
    assert page.messages()[0].text == question
    lengths = page.driver.execute_script("return window.lengths")
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 4  # it grew, piece by piece


def test_the_figures_are_the_servers(page):
    page.ask("Name a colour.")
    answer = page.ask("Another one?")
    found = re.fullmatch(
        r"(\d+) tokens, ([\d.]+) tokens/s; (\d+) of (\d+) prompt tokens from the cache", answer.figures
    )
    assert found, answer.figures
    tokens, speed, cached, prompt = map(float, found.groups())
    assert 0 < tokens <= 24
    assert speed > 0
    assert 0 < cached < prompt  # the second turn computes only what is new


def test_a_second_question_carries_the_conversation(page, client):
    first = page.ask("Name a fruit.")
    page.ask("What colour is it?")
    prompt = slot(client)["prompt"]
    assert prompt.index("Name a fruit.") < prompt.index(first.text) < prompt.index("What colour is it?")


def test_stop_ends_the_answer_on_the_server(page, client):
    page.fill(n_predict=-1)
    page.send(STORY)
    page.wait_growing()
    page.find("stop").click()
    answer = page.wait_answer()
    assert answer.figures == "stopped"
    assert answer.text
    state = until(lambda: next((s for s in client.slots() if s["state"] == 0), None), "the slot is idle")
    assert not state["next_token"]["stopped_eos"]  # it had not ended by itself
    assert not state["next_token"]["stopped_limit"]
    assert page.messages()[-1].text == answer.text
    assert page.text("error") == ""
    assert not page.find("stop").is_enabled()


def test_a_stopped_answer_stays_in_the_conversation(page, client):
    page.fill(n_predict=-1)
    page.send(STORY)
    page.wait_growing()
    page.find("stop").click()
    stopped = page.wait_answer()
    page.fill(n_predict=8)
    page.ask("Go on.")
    assert stopped.text.split("\n")[0] in slot(client)["prompt"]  # paragraphs are nearer to each other on the page


def test_leaving_the_page_ends_the_answer(page, client):
    page.fill(n_predict=-1)
    page.send(STORY)
    page.wait_growing()
    page.driver.get("about:blank")
    state = until(lambda: next((s for s in client.slots() if s["state"] == 0), None), "the slot is idle")
    assert not state["next_token"]["stopped_eos"]
    page.driver.back()
    assert page.find("send").is_enabled()


def test_a_new_chat_forgets_and_ends_what_runs(page, client):
    page.fill(n_predict=-1)
    page.send(STORY)
    page.wait_growing()
    page.find("reset").click()
    assert page.messages() == []
    until(lambda: slot(client)["state"] == 0, "the slot is idle")
    page.fill(n_predict=8)
    page.ask("Name an animal.")
    assert len(page.messages()) == 2
    assert "lighthouse" not in slot(client)["prompt"]


def test_settings_are_sent(page, client):
    page.fill(system="You speak like a pirate.", temperature=0.5, top_k=7, top_p=0.25, n_predict=3)
    page.ask("Who are you?")
    state = slot(client)
    sent = {name: state[name] for name in ("temperature", "top_k", "top_p", "n_predict")}
    assert sent == {"temperature": 0.5, "top_k": 7, "top_p": 0.25, "n_predict": 3}
    assert "You speak like a pirate." in state["prompt"]
    assert state["next_token"]["n_decoded"] == 3


def test_settings_that_make_no_sense_are_shown_not_sent(page):
    page.fill(top_p=7, question="Hello?")
    page.driver.execute_script("document.getElementById('more').open = false")
    page.find("send").click()
    assert page.messages() == []
    assert page.find("top_p").is_displayed()
    assert page.find("top_p").get_attribute("value") == "7"


def test_settings_outlive_a_reload(page):
    page.fill(system="Be brief.", top_k=11)
    page.find("top_p").click()  # leaving a field is what commits it
    page.driver.refresh()
    page.wait_ready()
    assert page.find("system").get_attribute("value") == "Be brief."
    assert page.find("top_k").get_attribute("value") == "11"


def test_enter_sends_and_shift_enter_does_not(page):
    page.fill(n_predict=2)
    page.find("question").send_keys("one", Keys.SHIFT + Keys.ENTER)
    page.find("question").send_keys(Keys.NULL, "two", Keys.ENTER)
    page.wait_answer()
    assert page.messages()[0].text == "one\ntwo"


def test_markup_in_a_question_stays_text(page):
    evil = "<img src=x onerror=\"document.title='evil'\"><b>bold</b>"
    page.ask(f"Repeat this: {evil}")
    assert page.messages()[0].text.endswith(evil)
    inside = page.driver.execute_script("return document.querySelectorAll('.user .text *').length")
    assert inside == 0
    assert page.driver.title == "Chat"


def test_the_key_is_asked_for(tab, keyed_server):
    page = ChatPage(tab, keyed_server.url)
    until(lambda: page.text("error") == "Invalid API Key", "the page shows the 401")
    assert page.find("api_key").is_displayed()
    page.find("api_key").send_keys("a wrong one", Keys.ENTER)
    page.find("question").send_keys("Hello?", Keys.ENTER)
    until(lambda: page.find("send").is_enabled() and page.text("error"), "the refused question ends")
    assert page.messages() == []
    assert page.find("question").get_attribute("value") == "Hello?"  # nothing is lost
    page.fill(api_key=KEY + Keys.ENTER)
    page.wait_ready()
    assert not page.find("api_key").is_displayed()
    assert page.text("error") == ""
    page.fill(n_predict=4)
    page.find("send").click()
    assert page.wait_answer().text
    page.driver.refresh()
    page.wait_ready()  # the tab knows the key, and only the tab
    assert tab.execute_script("return localStorage.length") == 0
    assert tab.get_cookies() == []


def test_a_server_that_dies_leaves_the_partial_answer(tab):
    with start() as server:
        page = ChatPage(tab, server.url)
        page.wait_ready()
        page.send(STORY)
        page.wait_growing()
        server.process.kill()
        answer = page.wait_answer()
    assert answer.text
    assert page.text("error")


def test_a_model_without_eyes_gets_no_pictures(page):
    assert not page.find("attach").is_displayed()


def test_every_control_has_a_name_and_answers_are_announced(page):
    unnamed = page.driver.execute_script(
        """return [...document.querySelectorAll('input, textarea')].filter((field) => !field.labels.length)
            .concat([...document.querySelectorAll('button')].filter((button) => !button.textContent.trim()))
            .map((field) => field.id)"""
    )
    assert unnamed == []
    assert page.find("log").aria_role == "log"
    assert page.find("log").accessible_name == "Conversation"
    assert page.find("error").get_attribute("role") == "alert"
    assert page.find("status").get_attribute("role") == "status"
    assert page.find("question").accessible_name == "Message"


def test_the_page_is_whole_without_other_hosts(page, server):
    page.ask("Hi.")
    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {urlsplit(name).path for name in loaded} >= {
        "/index.js",
        "/index.css",
        "/completion.js",
        "/vendor/marked/marked.esm.js",
        "/vendor/dompurify/purify.es.mjs",
    }
    assert [name for name in loaded if not name.startswith(server.url)] == []
    complaints = [entry for entry in page.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert [entry for entry in complaints if server.url in entry["message"]] == []


def test_dark_and_light(page):
    def colours(scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        style = "getComputedStyle(document.body)"
        return tuple(page.driver.execute_script(f"return [{style}.color, {style}.backgroundColor]"))

    light, dark = colours("light"), colours("dark")
    assert len({*light, *dark}) == 4


def test_the_end_stays_in_view_unless_the_reader_scrolls_up(page):
    position = "const log = document.getElementById('log'); return [log.scrollTop, log.scrollHeight - log.clientHeight]"
    page.driver.set_window_size(1000, 450)
    page.fill(n_predict=100)
    page.ask(STORY)
    top, bottom = page.driver.execute_script(position)
    assert bottom > 0
    assert bottom - top <= 1
    page.fill(n_predict=-1)
    page.send(STORY)
    page.wait_growing()
    page.driver.execute_script("document.getElementById('log').scrollTop = 0")
    seen = page.wait_growing()
    until(lambda: len(page.wait_growing()) > len(seen) + 20, "more text streams in")
    assert page.driver.execute_script(position)[0] == 0
