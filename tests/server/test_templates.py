"""A chat template is tried before anybody meets it: what cannot be used ends the server, and says why."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from llamaserver.api import templates
from llamaserver.api.template_check import check_given_template, check_template
from llamaserver.config import Config
from llamaserver.errors import TemplateInvalid
from llamaserver.llama.templates import LlamaTemplates

from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess, free_port

SIMPLE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"


class Vocab:
    bos, eos = -1, -1


def context(metadata="", *, causal=True, template_file="", **options):
    """What the check looks at: options, the template's file, and a model with that in its metadata."""
    info = SimpleNamespace(chat_template=metadata, causal=causal)
    engine = SimpleNamespace(info=info, vocab=Vocab())
    config = Config(**options)
    return SimpleNamespace(config=config, template_file=template_file, engine=engine, builtin=LlamaTemplates())


BROKEN = {
    "{% for m in messages %}\n{{ m.content }\n{% endfor %}": "line 2: unexpected '}'",
    "{% if messages %}": "line 1: Unexpected end of template",
    "\n\n{% fantasy %}": "line 3: Encountered unknown tag 'fantasy'",
    "{{ messages | no_such_filter }}": "line 1: No filter named 'no_such_filter'",
    "{% for i in x %}" * 25 + "{% endfor %}" * 25: "too many statically nested blocks",
    "{{ messages[0].content }}\n{{ nobody.knows.this }}": "line 2: UndefinedError: 'nobody' is undefined",
    "{{ 1 / 0 }}": "line 1: ZeroDivisionError",
    "{{ ''.__class__.__mro__[1] }}": "SecurityError",
    "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}": "too long",
    "chatlm": "neither Jinja nor the name of a built-in template: 'chatlm'. Did you mean chatglm4",
    "templates/chat.jinja": "'templates/chat.jinja'. Use --chat-template-file for a file",
    "You are a helpful assistant.": "neither Jinja nor the name of a built-in template: 'You are a helpful",
}


@pytest.mark.parametrize(("template", "says"), BROKEN.items(), ids=range(len(BROKEN)))
async def test_templates_that_are_refused(template, says):
    for server, source in (
        (context(chat_template=template), "--chat-template "),
        (context(template_file=template, chat_template_file="/etc/t.jinja"), "--chat-template-file /etc/t.jinja"),
        (context(template), "the chat template in the model's metadata"),
    ):
        with pytest.raises(TemplateInvalid) as caught:
            await check_template(server)
        assert str(caught.value).startswith(source)
        assert says in str(caught.value)


GOOD = {
    "a simple one": SIMPLE,
    "a built-in name": "llama2",
    "no system message, please": "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + SIMPLE,
    "a system message, please": "{% set s = messages[0].content if messages[0].role == 'system' else 1/0 %}" + SIMPLE,
    "a mark for training": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "loop controls": "{% for m in messages %}{{ m.content }}{% break %}{% endfor %}",
}


@pytest.mark.parametrize("template", GOOD.values(), ids=GOOD)
async def test_templates_that_are_accepted(template, caplog):
    for server in (context(chat_template=template), context(template_file=template), context(template)):
        await check_given_template(server)
        await check_template(server)
    assert not caplog.text


async def test_a_model_without_a_template_has_chatml():
    await check_given_template(context())
    await check_template(context())


async def test_a_given_template_replaces_that_of_the_model():
    await check_template(context("{% broken", chat_template=SIMPLE))


async def test_a_model_that_cannot_chat_may_have_any_template():
    await check_template(context("{% broken", causal=False))


async def test_a_template_that_refuses_plain_chats_is_no_fault_but_told(caplog):
    """It may want chat_template_kwargs, as those of translators do."""
    template = "{{ raise_exception('language, please') if not language is defined }}" + SIMPLE
    await check_template(context(template))
    assert "refuses a plain chat: the chat template refuses the messages: language, please" in caplog.text


async def test_a_template_that_leaves_out_the_words_is_told(caplog):
    await check_template(context("{% for m in messages %}{{ m.role }}{% endfor %}"))
    assert "leaves out the message of the user" in caplog.text


async def test_a_template_that_does_not_end(monkeypatch):
    monkeypatch.setattr(templates, "MAX_SECONDS", 0.05)
    template = "{% for i in range(3000) %}{% for j in range(3000) %}{% endfor %}{% endfor %}{{ messages }}"
    with pytest.raises(TemplateInvalid, match=r"cannot render a chat of one user message: .* takes too much time"):
        await check_template(context(template))


async def test_given_ones_are_checked_before_there_is_a_model():
    server = context(chat_template="{% broken")
    del server.engine
    with pytest.raises(TemplateInvalid, match="line 1"):
        await check_given_template(server)


# ---- real servers


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"))


def ended(server):
    until(lambda: server.process.poll() is not None, "the server ends", 60)
    return server.process.returncode


@pytest.mark.parametrize("source", ["option", "file", "metadata"])
@pytest.mark.parametrize(
    ("template", "says"),
    [("{{ messages }}\n{% endfor %}", "line 2: Encountered unknown tag 'endfor'"), ("{{ a.b.c }}", "'a' is undefined")],
    ids=["no Jinja", "renders nothing"],
)
def test_a_server_with_such_a_template_ends(models, tmp_path, source, template, says):
    log, file = tmp_path / "termination-log", tmp_path / "chat.jinja"
    file.write_text(template)
    model = models.templated(template) if source == "metadata" else models.llama()
    args = {"option": ("--chat-template", template), "file": ("--chat-template-file", str(file))}.get(source, ())
    # With a store on disk, which the engine opens beside the check.
    store = ("--kv-store", str(tmp_path / "store"), "--termination-log", str(log))
    with ServerProcess("-m", str(model), "-c", "256", *store, *args, wait=False) as server:
        assert ended(server) == 1
        assert "Traceback" not in server.log
        assert "is ready: " not in server.log
        logged = [json.loads(line)["msg"] for line in server.log.splitlines() if line.startswith("{")]
    told = json.loads(log.read_text())
    assert told["reason"] == "TemplateInvalid"
    assert says in told["message"]
    named = {"option": "--chat-template ", "file": f"--chat-template-file {file}", "metadata": "the chat template in"}
    assert told["message"].startswith(named[source])
    assert told["message"] in logged


def test_a_download_is_not_begun_for_a_template_that_is_none(tmp_path):
    args = ("--model-url", "http://127.0.0.1:9/model.gguf", "--chat-template", "{% if")
    with ServerProcess(*args, "--models-dir", str(tmp_path), wait=False) as server:
        assert ended(server) == 1
        assert "--chat-template is not valid Jinja" in server.log
        assert "127.0.0.1:9" not in server.log


def test_a_server_that_stays_says_so_and_never_that_it_is_ready(models, tmp_path):
    port = free_port()
    manage = f"http://127.0.0.1:{port}"
    args = ("-m", str(models.templated("{{ nobody.knows }}")), "-c", "256", "--stay-on-load-error")
    store = ("--kv-store", str(tmp_path / "store"), "--management-port", str(port))
    seen = set()
    with ServerProcess(*args, *store, wait=False) as server:

        def failed():
            try:
                answer = httpx2.get(f"{server.url}/health", timeout=10, trust_env=False)
            except httpx2.TransportError:
                return None
            seen.add(answer.status_code)
            return answer.json() if answer.status_code == 500 else None

        body = until(failed, "/health says 500")
        assert "'nobody' is undefined" in body["error"]["message"]
        assert httpx2.get(f"{manage}/livez", trust_env=False).status_code == 500
        ready = httpx2.get(f"{manage}/readyz", trust_env=False)
        assert (ready.status_code, "in the model's metadata" in ready.text) == (503, True)
        assert Client(server.url).http.post("/completion", json={"prompt": "x"}).status_code == 503
        assert failed()
        assert server.stop(signal.SIGTERM) == 0
    assert seen <= {503, 500}


def test_a_marked_template_file_of_windows(models, tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_bytes(b"\xef\xbb\xbf" + SIMPLE.encode())
    with ServerProcess("-m", str(models.llama()), "-c", "256", "--chat-template-file", str(file)) as server:
        prompt = Client(server.url).post("/apply-template", messages=[{"role": "user", "content": "Hi"}])["prompt"]
    assert prompt == "[user] Hi\n"


def test_whose_fault_it_is(models):
    """400: the template refuses these messages, or only odd ones break it. 500: it breaks at plain ones."""
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.no.such }}{% endif %}"
        "{% if m.role == 'odd' %}{{ m.no.such }}{% endif %}"
        "{% if m.content == 'bad' %}{{ raise_exception('not that') }}{% endif %}"
        "{{ m.content }}{{ language.name if language is defined }}{% endfor %}"
    )

    def messages(*pairs):
        return [{"role": role, "content": text} for role, text in pairs]

    with ServerProcess("-m", str(models.llama()), "-c", "256", "--chat-template", template) as server:
        client = Client(server.url)
        chat = "/v1/chat/completions"
        client.post(chat, messages=messages(("user", "a")), max_tokens=1)
        error = client.error(chat, {"messages": messages(("user", "bad"))})
        assert (error["type"], error["param"], "not that" in error["message"]) == (
            "invalid_request_error", "messages", True,
        )  # fmt: skip
        assert client.error(chat, {"messages": messages(("odd", "a"))})["type"] == "invalid_request_error"
        plain = {"messages": messages(("user", "a")), "chat_template_kwargs": {"language": {}}}
        assert client.post(chat, {**plain, "max_tokens": 1})
        plain = {"messages": messages(("user", "bad")), "chat_template_kwargs": {"raise_exception": 5}}
        assert client.error(chat, plain)["type"] == "invalid_request_error"
        error = client.error(chat, {"messages": messages(("user", "a"), ("assistant", "b"), ("user", "c"))}, 500)
        assert error["type"] == "server_error"
        assert "the chat template fails: line 1" in error["message"]


@pytest.mark.parametrize("text", ["You are terse.", '{"prompt": "You are terse."}'])
def test_a_marked_system_prompt_file_of_windows(models, tmp_path: Path, text):
    file = tmp_path / "system"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    with ServerProcess("-m", str(models.llama()), "-c", "256", "--system-prompt-file", str(file)) as server:
        client = Client(server.url)
        count = len(client.post("/tokenize", content="You are terse.", add_special=True)["tokens"])
        assert client.complete("x", n_predict=1)["tokens_evaluated"] - count in (1, 2)
