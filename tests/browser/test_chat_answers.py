"""What the page makes of answers: Markdown, thoughts and calls. A tiny model says what a grammar tells it."""

import json
import re
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.chat_page import ChatPage
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess
from tests.support.vendored import vendored_templates

pytestmark = pytest.mark.browser

HOSTILE = """\
<script>document.title = 'evil'</script>
<img src=x onerror="document.title='evil'"> <svg onload="document.title='evil'"></svg>
<a href="javascript:document.title='evil'">raw</a> <style>* { display: none }</style>
<iframe srcdoc="<script>parent.document.title='evil'</script>"></iframe>

[one](javascript:document.title='evil') [two](JaVaScRiPt:document.title='evil') [three](data:text/html,evil)
[four](/slots) ![picture](https://example.com/x.png "onerror=x") [fine](https://example.com/a "a title")

```html"onclick="document.title='evil'
<b onclick="document.title='evil'">code</b>
```
"""
MARKDOWN = """\
# Title

Some **bold** and *soft* words, `code`, and
a second line.

1. one
2. two
   - below

| a | b |
|---|---|
| 1 | 2 |

```python
print("<b>")
```

> said
"""
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]},
    },
}
FOLDS = """return [...document.querySelectorAll('#messages > li:last-child > details')].map((fold) => ({
    kind: fold.className, open: fold.open, title: fold.querySelector('summary').textContent,
    text: fold.querySelector('.folded').textContent }))"""
VIOLATION = """
const done = arguments[arguments.length - 1]
addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective), { once: true })
try { %s } catch {}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model with tokens for thoughts, and a template with tools."""
    path = Models(tmp_path_factory.mktemp("models")).thinking(vendored_templates()["Qwen-Qwen3-0.6B"])
    with ServerProcess("-m", str(path), "-c", "4096", "-np", "1") as process:
        yield process


@pytest.fixture
def page(tab, tiny):
    page = ChatPage(tab, tiny.url)
    page.wait_ready()
    return page


def count(page, selector):
    return len(page.driver.find_elements(By.CSS_SELECTOR, f".assistant .text {selector}"))


def test_hostile_text_does_nothing(page):
    answer = page.say(HOSTILE)
    for text in ("<script>document.title", "onerror=", "<iframe srcdoc=", "<b onclick="):
        assert text in answer.text  # shown, as text
    elements, attributes, links = page.driver.execute_script(
        """const all = [...document.querySelectorAll('.assistant .text .block *')]
        return [all.map((one) => one.localName), all.flatMap((one) => one.getAttributeNames()),
                all.filter((one) => one.href).map((one) => one.href)]"""
    )
    assert set(elements) <= {"p", "br", "a", "pre", "code", "button"}
    assert set(attributes) <= {"href", "title", "target", "rel", "class", "type"}
    assert links == ["https://example.com/x.png", "https://example.com/a"]
    page.driver.execute_script(
        """document.querySelectorAll('.assistant .text .block *:not([href])').forEach((one) => one.click())"""
    )
    assert page.driver.title == "Chat"
    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in loaded if "example.com" in name] == []


@pytest.mark.parametrize(
    ("attempt", "directive"),
    [
        ("new Image().src = 'https://example.com/x.png'", "img-src"),
        ("fetch('https://example.com/').catch(() => {})", "connect-src"),
        ("document.body.setAttribute('style', 'color: red')", "style-src-attr"),
        ("document.body.innerHTML = '<p>x</p>'", "require-trusted-types-for"),
        ("document.createElement('script').text = 'document.title = 1'", "require-trusted-types-for"),
    ],
)
def test_the_policy_stands_behind(page, attempt, directive):
    assert page.driver.execute_async_script(VIOLATION % attempt) == directive


def test_markdown_becomes_elements(page):
    answer = page.say(MARKDOWN)
    for selector in ("h1", "strong", "em", "p code", "p br", "ol > li", "li ul > li", "td", "pre code", "blockquote p"):
        assert count(page, selector), selector
    assert count(page, "ol > li") == 2
    assert 'print("<b>")' in answer.text
    assert "**" not in answer.text


def test_what_is_complete_is_not_made_anew(page):
    """A selection in the first paragraph stays while more comes."""
    page.driver.execute_script(
        """const complete = () => document.querySelector('.assistant .block:nth-last-child(2)')
        new MutationObserver(() => { window.first ??= complete() })
        .observe(document.getElementById('messages'), { childList: true, subtree: true })"""
    )
    page.say("\n\n".join(f"Paragraph **{number}**." for number in range(40)))
    first, last = page.driver.execute_script(
        "const all = [...document.querySelectorAll('.assistant .block')]\n"
        "return [all.indexOf(window.first), all.length]"
    )
    assert 0 <= first < 30
    assert last == 40


def test_deep_nesting_is_text(page):
    deep = ">" * 1500
    page.driver.execute_async_script(
        """const [text, done] = arguments
        import('/markdown.js').then(({ Markdown }) => {
          const place = document.createElement('div')
          place.id = 'deep'
          document.body.append(place)
          new Markdown(place).show(text.repeat(4))
          done()
        })""",
        deep,
    )
    assert page.driver.execute_script("return document.getElementById('deep').childNodes.length") == 1


@pytest.mark.parametrize("clipboard", [True, False])
def test_code_and_answers_can_be_copied(page, clipboard):
    """With the browser's clipboard interface, and as on plain HTTP from another machine, without it."""
    page.say(MARKDOWN)
    if not clipboard:
        page.driver.execute_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    for selector, copied in ((".text pre .copy", 'print("<b>")\n'), (":scope > .copy", MARKDOWN)):
        button = page.driver.execute_script(
            "return document.querySelector('.assistant').querySelector(arguments[0])", selector
        )
        button.click()
        until(lambda button=button: button.text == "Copied", "the button says so")
        page.find("question").clear()
        page.find("question").send_keys(Keys.CONTROL, "v")
        assert page.find("question").get_attribute("value").strip() == copied.strip()


def test_thoughts_are_folded(page):
    page.add_fields(grammar='root ::= <think> "\\nHm. **So.**\\n" </think> "\\n\\nSunny"', n_predict=-1)
    answer = page.ask("Weather in Rome?")
    assert answer.text == "Sunny"
    fold = {"kind": "reasoning", "open": False, "title": "Reasoning", "text": "Hm. **So.**"}
    assert page.driver.execute_script(FOLDS) == [fold]
    page.driver.refresh()
    page.wait_ready()
    assert page.driver.execute_script(FOLDS) == [fold]


def test_calls_are_folded_and_their_results_are_sent(page, tiny):
    page.fill(tools=json.dumps([TOOL]))
    page.add_fields(tool_choice="required", parallel_tool_calls=False, n_predict=200)
    page.ask("Weather in Rome?")
    (fold,) = page.driver.execute_script(FOLDS)
    assert (fold["kind"], fold["open"], fold["title"]) == ("call", False, "Call of weather")
    assert json.loads(fold["text"]) == {"city": "Rome"}
    assert page.find("question").accessible_name == "Result of weather"
    page.driver.refresh()
    page.wait_ready()
    assert page.find("question").accessible_name == "Result of weather"
    page.add_fields(tool_choice="none", n_predict=4)
    page.ask("It is sunny.")
    assert [message.role for message in page.messages()] == ["user", "assistant", "tool", "assistant"]
    prompt = Client(tiny.url).slots()[0]["prompt"]
    assert re.search(r"<tool_call>.*Rome.*</tool_call>.*<tool_response>\s*It is sunny\.", prompt, re.DOTALL)
    assert page.find("question").accessible_name == "Message"


def test_tools_that_are_no_list_are_shown_not_sent(page):
    page.fill(tools='{"a": 1}', question="Hello?")
    page.find("send").click()
    assert page.messages() == []
    assert page.find("tools").is_displayed()
    page.fill(tools="[]", n_predict=2)
    page.find("send").click()
    page.wait_answer()
    assert len(page.messages()) == 2
