"""The chat page as its reader sees it."""

import json
from dataclasses import dataclass
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from ..polling import until

DEADLINE = 120.0  # seconds for one answer
_ADD_FIELDS = """
window.realFetch ??= window.fetch
window.fetch = (url, init) => {
  const body = init?.body && JSON.stringify({ ...JSON.parse(init.body), ...arguments[0] })
  return window.realFetch(url, { ...init, body })
}
"""


@dataclass(frozen=True)
class Message:
    """One message of the list; `figures` is the line below it, `busy` while it is being written."""

    role: str
    text: str
    figures: str
    busy: bool


class ChatPage:
    """One tab with the page."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        driver.get(url)

    def add_fields(self, **fields: object) -> None:
        """Add fields to the page's requests until the tab is reloaded: a grammar decides what the model says."""
        self.driver.execute_script(_ADD_FIELDS.replace("arguments[0]", json.dumps(fields)))

    def say(self, text: str) -> Message:
        """Ask for this answer, word for word, and return it."""
        self.add_fields(grammar=f"root ::= {json.dumps(text, ensure_ascii=False)}", n_predict=-1)
        return self.ask("Say it.")

    def find(self, name: str) -> WebElement:
        """The element with this id."""
        return self.driver.find_element(By.ID, name)

    def text(self, name: str) -> str:
        """Visible text of the element with this id."""
        return self.find(name).text

    def wait_ready(self) -> None:
        """Wait until the page has told the model's name."""
        until(lambda: self.text("model"), "the page shows the model's name")

    def fill(self, **values: object) -> None:
        """Replace the contents of fields; settings are unfolded first."""
        self.driver.execute_script("document.getElementById('more').open = true")
        for name, value in values.items():
            field = self.find(name)
            field.clear()
            field.send_keys(str(value))

    def send(self, question: str) -> None:
        """Write a message and press Send."""
        self.fill(question=question)
        self.find("send").click()

    def ask(self, question: str) -> Message:
        """Send, wait for the end of the answer, and return it."""
        before = len(self.messages())
        self.send(question)
        until(lambda: len(self.messages()) == before + 2, f"the page shows the question: {self.text('error')}")
        return self.wait_answer()

    def wait_answer(self) -> Message:
        """Wait until the last answer is complete."""
        until(lambda: self.find("send").is_enabled(), "the answer ends", DEADLINE)
        return self.messages()[-1]

    def wait_growing(self) -> str:
        """Wait until the last answer has text and is still being written; returns the text so far."""
        message = until(
            lambda: next((m for m in self.messages()[-1:] if m.busy and m.text), None), "text streams in", DEADLINE
        )
        assert message is not None
        return message.text

    def messages(self) -> list[Message]:
        """All messages, texts as the nodes hold them: Markdown is without its signs."""
        found: list[dict[str, Any]] = self.driver.execute_script(
            """const text = (node) => {
                const copy = node.cloneNode(true)
                copy.querySelectorAll('button').forEach((button) => button.remove())
                return copy.textContent.trim()
            }
            return [...document.querySelectorAll('#messages > li')].map((item) => ({
                role: item.className,
                text: text(item.querySelector('.text')),
                figures: item.querySelector('.figures').textContent,
                busy: item.getAttribute('aria-busy') === 'true',
            }))"""
        )
        return [Message(**fields) for fields in found]
