"""Thoughts with the templates of llama.cpp's source: switched on and off, begun by the template, and read apart."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import pytest
from llamaserver.api.answer_reader import AnswerReader
from llamaserver.api.chat import begun
from llamaserver.api.chat_template import ChatTemplate
from llamaserver.api.fields import Fields
from llamaserver.api.reasoning import read_reasoning, thinking
from llamaserver.config import Config
from llamaserver.interfaces.output import Delta
from llamaserver.interfaces.thinking import Thinking
from llamaserver.llama.templates import LlamaTemplates
from llamaserver.toolformat.events import Content, Reasoning
from llamaserver.toolformat.parser import Parser

from tests.support.engine.vocab import ListVocab
from tests.support.vendored import vendored_templates

BYTES = ListVocab([bytes([code]) for code in range(256)])
USER = {"role": "user", "content": "Weather in Rome?"}
BEGUN = {  # by the prompt
    "Apriel-1.6-15b-Thinker-fixed", "Bielik-11B-v3.0-Instruct", "Cohere2MoE", "GLM-4.7-Flash", "Kimi-K3", "MiniMax-M2",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "NVIDIA-Nemotron-Nano-v2", "Qwen-QwQ-32B", "Qwen3.5-4B", "Reka-Edge",
    "Spark2.5", "StepFun3.5-Flash", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek-ai-DeepSeek-V3.1", "deepseek-ai-DeepSeek-V3.2",
    "deepseek-ai-DeepSeek-V4", "deepseek-ai-DeepSeek-V4-Flash-0731", "inclusionai-ling-3.0-flash",
    "llama-cpp-deepseek-r1", "llama-cpp-rwkv-world", "openbmb-MiniCPM5-1B", "poolside-Laguna-S-2.1",
    "poolside-Laguna-XS-2.1", "poolside-Laguna-XS.2",
}  # fmt: skip


@lru_cache
def template(name: str) -> ChatTemplate:
    return ChatTemplate(vendored_templates()[name], LlamaTemplates())


def thinkers() -> list[str]:
    """Names of the templates that have thoughts."""
    return [name for name in vendored_templates() if template(name).form.thought[0]]


@dataclass(frozen=True)
class Chat:
    """A prompt, what it has begun, and what follows."""

    prompt: str
    begun: str
    thinking: Thinking | None


def chat(name: str, *messages: dict[str, Any], **fields: Any) -> Chat:
    one = template(name)
    reasoning = read_reasoning(Config(), Fields(fields), one.form)
    text = one.render([USER, *messages], (), generate=True, variables=reasoning.variables)
    return Chat(text, begun(one.form, text), thinking(reasoning, one.form, begun(one.form, text), BYTES))


def read(name: str, text: str, prompt: str, *, step: int) -> list[str]:
    """The texts of an answer that comes in pieces: a new one where reasoning becomes content, or the other way."""
    reader = AnswerReader(Parser(template(name).form, {}, prompt))
    events = [event for at in range(0, len(text), step) for event in reader.feed(Delta(text[at : at + step]))]
    texts = [event for event in events if isinstance(event, Reasoning | Content)]
    assert texts == events
    return ["".join(event.text for event in group) for _, group in groupby(texts, type)]


def test_templates_begin_thoughts() -> None:
    names = thinkers()
    assert len(names) == 43
    assert {name for name in names if (found := chat(name).thinking) and found.begun} == BEGUN
    assert [name for name in names if chat(name).thinking is None] == ["tencent-Hy3"]  # it needs reasoning_effort
    assert chat("tencent-Hy3", reasoning_effort="high").thinking


def test_thinking_can_be_switched_off() -> None:
    for fields in ({"enable_thinking": False}, {"reasoning_effort": "none"}):
        for name in thinkers():
            found = chat(name, **fields).thinking
            assert found is None or found.budget == 0, name  # by the template, or by an end that is forced


def test_a_thought_in_the_history_is_not_the_answers() -> None:
    answer = {"role": "assistant", "content": "Sunny.", **dict.fromkeys(("reasoning_content", "thinking"), "Hm.")}
    for name in thinkers():
        assert chat(name, answer, USER).begun == chat(name).begun, name


@pytest.mark.parametrize("step", [1, 1000])
def test_thoughts_are_apart_from_the_answer(step: int) -> None:
    for name in thinkers():
        form, one = template(name).form, chat(name, reasoning_effort="high")
        assert one.thinking is not None, name
        begin = "" if one.thinking.begun else form.thought[0]
        text = f"{begin}Hm, <b>.\n\nSo{form.thought[1]}\n\n{form.answer}Sunny"
        thoughts = read(name, text, one.begun, step=step)
        assert thoughts == ["Hm, <b>.\n\nSo", "Sunny"], name
