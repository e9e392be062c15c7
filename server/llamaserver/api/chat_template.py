"""The chat template of a server: Jinja, or a format that llama.cpp knows by name."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2

from ..errors import ServerError, TemplateFailure
from ..interfaces.backend import BuiltinTemplates
from ..toolformat.finder import find_format
from ..toolformat.form import Format, Mode
from .capabilities import Capabilities, Message, Tool, probe
from .history import fitted
from .templates import compile_template, render
from .tool_text import FORMAT

_PROBE_SECONDS = 1.0  # of CPU time, for each of about 30 short chats


@dataclass(frozen=True)
class ChatTemplate:
    """A template with the texts of the model's BOS and EOS tokens, "" for a token that it lacks."""

    source: str
    builtin: BuiltinTemplates
    bos: str = ""
    eos: str = ""

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return compile_template(self.source)

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the template can render. The first call takes 0.1 s."""

        def chat(messages: Sequence[Message], tools: Sequence[Tool], variables: Mapping[str, Any]) -> str:
            return self._render(messages, tools, variables, generate=True, seconds=_PROBE_SECONDS)

        return probe(chat, names_developer="developer" in self.source)

    @cached_property
    def form(self) -> Format:
        """How the model writes thoughts and calls.

        `tool_text.FORMAT` is for templates that write no calls. Their models know no mark of calls, and may leave it
        out.
        """

        def chat(messages: Sequence[Message], tools: Sequence[Tool], generate: bool) -> str:
            try:
                return self.render(messages, tools, generate=generate, variables={})
            except ServerError:
                return ""

        form = find_format(chat, self.source) or FORMAT
        return form if self.capabilities.tool_calls else replace(form, bare=form.mode is Mode.JSON)

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, generate: bool, variables: Mapping[str, Any]
    ) -> str:
        """The prompt of a conversation as `api/messages.py` reads it. `generate` begins the next answer.

        Some templates fail at schemas that they do not expect. Then the tools are told in the system message.
        Raises TemplateRefusal, InvalidRequest or TemplateFailure.
        """
        can = self.capabilities
        if tools and can.tools:
            try:
                return self._render(fitted(messages, tools, can), tools, variables, generate=generate)
            except TemplateFailure as error:
                if isinstance(error.__cause__, TimeoutError):
                    raise
                can = replace(can, tools=False)
        return self._render(fitted(messages, tools, can), (), variables, generate=generate)

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        variables: Mapping[str, Any],
        *,
        generate: bool,
        seconds: float | None = None,
    ) -> str:
        if self.source in self.builtin.names:
            pairs = [(message["role"], str(message["content"])) for message in messages]
            return self.builtin.render(self.source, pairs, add_generation_prompt=generate)
        today = datetime.now().astimezone()
        names = {
            "date_string": today.strftime("%d %b %Y"),  # Llama 3
            "datetime": today.strftime("%b %d %Y"),  # Firefunction
            "functions": json.dumps([tool["function"] for tool in tools], indent=4, ensure_ascii=False),  # Firefunction
            **variables,
            "bos_token": self.bos,
            "eos_token": self.eos,
            "messages": messages,
            "add_generation_prompt": generate,
        }
        names.pop("tools", None)  # templates ask whether it is defined
        return render(self._compiled, names | {"tools": tools} if tools else names, seconds=seconds)
