"""/completion.js: the four ways to a stream, the model's settings, keys, errors, ending early."""

from functools import partial

import pytest

from tests.support.polling import until
from tests.support.server.client import Client

from .conftest import KEY

pytestmark = [pytest.mark.browser, pytest.mark.model]

PROMPT = "The first ten numbers are 1, 2, 3,"
FIELDS = {"n_predict": 12, "temperature": 0}


ENDLESS = {"n_predict": -1, "ignore_eos": True}


def run_in(tab, url, body, *args):
    """Run the body of an async function that sees the module as `m`; returns its value or its error."""
    tab.get(url)
    return tab.execute_async_script(
        "const done = arguments[arguments.length - 1], args = [...arguments].slice(0, -1);"
        f"import('/completion.js').then(async (m) => {{ {body} }})"
        ".then(done, (error) => done({ name: error.name, message: error.message, code: error.code }))",
        *args,
    )


@pytest.fixture
def run(tab, server):
    """`run_in` the shared server's page."""
    return partial(run_in, tab, server.url)


@pytest.fixture
def expected(client):
    """The text of PROMPT's completion."""
    return client.complete(PROMPT, **FIELDS)["content"]


def test_llama_yields_every_event_and_returns_the_text(run, expected):
    chunks, text = run(
        """const stream = m.llama(...args), chunks = []
        for (;;) {
          const { done, value } = await stream.next()
          if (done) return [chunks, value]
          chunks.push(value.data)
        }""",
        PROMPT,
        FIELDS,
    )
    assert text == expected
    assert "".join(chunk["content"] for chunk in chunks) == expected
    assert [chunk["stop"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert len(chunks) > 3
    assert chunks[-1]["timings"]["predicted_n"] == 12


def test_without_stream_the_answer_is_one_event(run, expected):
    chunks = run("const a = []; for await (const c of m.llama(...args)) a.push(c.data); return a",
                 PROMPT, {**FIELDS, "stream": False})  # fmt: skip
    assert [chunk["content"] for chunk in chunks] == [expected]
    assert chunks[0]["stop"] is True


def test_several_prompts_all_arrive(run, expected):
    chunks = run("const a = []; for await (const c of m.llama(...args)) a.push(c.data); return a",
                 [PROMPT, PROMPT], FIELDS)  # fmt: skip
    texts = ["".join(chunk["content"] for chunk in chunks if chunk["index"] == index) for index in (0, 1)]
    assert texts == [expected, expected]


def test_llama_promise(run, expected):
    assert run("return m.llamaPromise(...args)", PROMPT, FIELDS) == expected


def test_llama_complete(run, expected):
    body = "let text = ''; await m.llamaComplete(args[0], null, (chunk) => { text += chunk.data.content }); return text"
    assert run(body, {"prompt": PROMPT, **FIELDS}) == expected


def test_llama_event_target(run, expected):
    log = run(
        """return new Promise((resolve) => {
          const target = m.llamaEventTarget(...args), log = []
          for (const name of ['message', 'generation_settings', 'timings', 'done'])
            target.addEventListener(name, ({ detail }) => {
              log.push([name, detail])
              if (name === 'done') resolve(log)
            })
        })""",
        PROMPT,
        FIELDS,
    )
    names = [name for name, _ in log]
    assert names == ["message"] * (len(log) - 3) + ["generation_settings", "timings", "done"]
    assert "".join(detail["content"] for name, detail in log if name == "message") == expected
    assert log[-1][1] == {"content": expected}
    assert log[-3][1]["n_predict"] == 12


def test_llama_event_target_tells_errors(run):
    body = """return new Promise((resolve) =>
        m.llamaEventTarget(...args).addEventListener('error', (e) => resolve(e.detail.message)))"""
    assert "temperature" in run(body, PROMPT, {"temperature": "hot"})


def test_llama_model_info(run, client):
    asked = client.get("/props")["default_generation_settings"]
    first, second = run("return [await m.llamaModelInfo(), await m.llamaModelInfo()]")
    assert first == second == asked


def test_an_error_of_the_server_is_thrown_with_its_message(run, client):
    message = client.error("/completion", {"prompt": PROMPT, "temperature": "hot"})["message"]
    error = run("return m.llamaPromise(...args)", PROMPT, {"temperature": "hot"})
    assert error == {"name": "ServerError", "message": message, "code": 400}


@pytest.mark.parametrize("place", ["params", "config"])
def test_the_key_goes_into_the_header(tab, keyed_server, place):
    key = {"api_key": KEY}
    params = {**FIELDS, **(key if place == "params" else {})}
    config = {"api_url": keyed_server.url + "/", **(key if place == "config" else {})}
    ask = partial(run_in, tab, keyed_server.url, "return m.llamaPromise(...args)", PROMPT)
    assert ask(FIELDS) == {"name": "ServerError", "message": "Invalid API Key", "code": 401}
    text = ask(params, config)
    answered = Client(keyed_server.url, KEY)
    assert text == answered.complete(PROMPT, **FIELDS)["content"]


def test_the_controller_ends_the_generation(run, client):
    error = run(
        """const controller = new AbortController()
        const stream = m.llama(...args, { controller })
        await stream.next()
        controller.abort()
        for await (const chunk of stream);""",
        PROMPT,
        ENDLESS,
    )
    assert error["name"] == "AbortError"
    until(lambda: client.slots()[0]["state"] == 0, "the slot is idle")


def test_leaving_the_loop_ends_the_generation(run, client):
    body = "let seen = 0; for await (const chunk of m.llama(...args)) if (++seen === 3) return seen"
    assert run(body, PROMPT, ENDLESS) == 3
    until(lambda: client.slots()[0]["state"] == 0, "the slot is idle")
