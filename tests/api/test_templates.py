"""Chat templates: from the model, and from the command line as text, name or file."""

from pathlib import Path
from typing import Any

import pytest

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
