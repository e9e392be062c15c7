"""Chat templates: from the model, from the command line as text, name or file, and hostile ones."""

from pathlib import Path
from typing import Any

import pytest
from llamaserver.api.templates import CHATML, render
from llamaserver.errors import ServerError

from tests.support.paths import model_path
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
JINJA = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
)


def prompt_with(template: str, *args: str) -> str:
    """A chat's prompt by the template that these options name; GET /props tells the same one."""
    with ServerProcess("-m", str(model_path()), "-c", "512", *args) as process:
        client = Client(process.url)
        answer = client.post("/v1/chat/completions", messages=MESSAGES, max_tokens=4)
        assert answer["usage"]["completion_tokens"] > 0
        assert client.get("/props")["chat_template"] == template
        return str(client.post("/apply-template", messages=MESSAGES)["prompt"])


@pytest.mark.model
@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (JINJA, "[system] Be brief.\n[user] Hi\n[bot]"),
        ("llama2", "[INST] Be brief.\nHi [/INST]"),
        ("chatml", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
    ],
    ids=["jinja", "llama2", "chatml"],
)
def test_option(template: str, prompt: str) -> None:
    assert prompt_with(template, "--chat-template", template) == prompt


@pytest.mark.model
def test_file(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(JINJA)
    assert prompt_with(JINJA, "--chat-template-file", str(file)) == "[system] Be brief.\n[user] Hi\n[bot]"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for m in messages %}{{ m.update({'role': 'x'}) }}{% endfor %}",
        "{{ raise_exception('no such role') }}",
        "{{ undefined.attribute }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
    ],
)
def test_a_template_can_do_no_harm(template: str) -> None:
    with pytest.raises(ServerError):
        render(template, MESSAGES, add_generation_prompt=True, variables={})


def test_chatml_is_the_fallback() -> None:
    text = render(CHATML, MESSAGES, add_generation_prompt=True, variables={})
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
