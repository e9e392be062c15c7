"""The reasons that a failed container writes: the operator knows those of the server."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llamaserver import termination
from llamaserver.api.template_check import check_template
from llamaserver.config import Config
from llamaserver.errors import Reason, TemplateInvalid
from llamaserver.llama.templates import LlamaTemplates
from llamaserver_operator import names, pods

from tests.support.operator.worlds import pod, told


def test_the_operator_knows_the_servers_reasons():
    assert {reason.value for reason in Reason} == pods._MODEL | {"BadArguments", "TemplateInvalid", "EngineFailed"}


@pytest.mark.parametrize("reason", sorted(pods._MODEL))
def test_reasons_about_the_model_belong_to_model_available(reason: str, tmp_path: Path):
    log = tmp_path / "log"
    termination.write(str(log), reason, 'what "happened"\nthere ' + "x" * 3000)
    ended = {"exitCode": 1, "reason": "Error", "message": log.read_text()[:4096]}
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    container = {"name": "fetch", "state": state, "lastState": {"terminated": ended}}
    found = pods.trouble(pod(initContainerStatuses=[container]))
    assert found
    assert (found.condition, found.reason) == ("ModelAvailable", reason)
    assert found.message.startswith('what "happened" there xxx')


@pytest.mark.parametrize("source", ["the field", "the model"])
async def test_a_broken_template_is_shown_with_its_field(source: str, tmp_path: Path):
    """The server names options. Conditions name fields."""
    file = f"{names.CONFIG_DIR}/chat-template" if source == "the field" else ""
    info = SimpleNamespace(chat_template="{% if", causal=True)
    server: Any = SimpleNamespace(
        config=Config(chat_template_file=file),
        template_file="{% if" if file else "",
        engine=SimpleNamespace(info=info, vocab=SimpleNamespace(bos=-1, eos=-1)),
        builtin=LlamaTemplates(),
    )
    with pytest.raises(TemplateInvalid) as caught:
        await check_template(server)
    log = tmp_path / "log"
    termination.write(str(log), "TemplateInvalid", str(caught.value))
    ended = {"exitCode": 1, "reason": "Error", "message": log.read_text()}
    container = {"name": "server", "state": {"waiting": {}}, "lastState": {"terminated": ended}}
    found = told({"model": {"source": {"http": {"url": "http://x/m.gguf"}}}}, pod(containerStatuses=[container]))
    assert found
    condition, reason, message = found
    assert (condition, reason) == ("Progressing", "TemplateInvalid")
    assert "spec.chatTemplate" in message
    assert "--" not in message


def test_an_oom_kill_is_shown_with_what_the_server_loaded(tmp_path: Path):
    log = tmp_path / "log"
    noted = termination.CrashLog(str(log))
    noted.model_bytes = 96_500_000
    noted.phase("load")
    ended = {"exitCode": 137, "reason": "OOMKilled", "message": log.read_text()}
    container = {"name": "server", "state": {"waiting": {}}, "lastState": {"terminated": ended}}
    spec = {"model": {"source": {"http": {"url": "http://x/m.gguf"}}}, "resources": {"limits": {"memory": "150Mi"}}}
    found = told(spec, pod(containerStatuses=[container]))
    assert found
    assert "limit of 150Mi while it loaded the model: the model has 93 MiB, the context 4 x 4,096 tokens" in found[2]
