"""From a chat request to jobs of the engine and readers of their answers. All dialects of chats come here.

The request is the body of OpenAI's chat completions. A dialect with other fields translates its body into that.
Runs on a worker thread.
"""

from dataclasses import dataclass

from ..errors import InvalidRequest
from ..toolformat.form import Format, Mode
from ..toolformat.parser import Parser, types_of
from .answer_reader import AnswerReader
from .capabilities import Tool
from .chat import chat_prompt, chat_template, render_chat
from .context import Context
from .fields import Fields
from .jobs import Input, Job, make_jobs
from .messages import read_tools
from .response_format import with_response_format


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One chat request, ready for the engine: a job for each choice, and a reader of its answer."""

    jobs: list[Job]
    readers: list[AnswerReader]

    def reader(self, index: int) -> AnswerReader:
        """The reader of one choice. Its events are to be fed once."""
        return self.readers[index]


def chat_call(context: Context, fields: Fields, *, stream: bool, choices: int = 1) -> ChatCall:
    """Check, price and render a request, and make its jobs. Raises InvalidRequest or TemplateFailure."""
    tools = callable_tools(fields)
    chat = render_chat(context, fields)
    jobs = make_jobs(
        context,
        with_response_format(fields),
        lambda: [Input(chat_prompt(context, chat), chat.text, "prompt")],
        prompts=1,
        stream=stream,
        choices=choices,
        stops=chat.stops,
        ends_with_slot=True,
    )
    return ChatCall(jobs, _readers(context, chat.text, tools, choices))


def callable_tools(fields: Fields) -> list[Tool]:
    """The tools that the model may call."""
    name, choice = fields.get("tool_choice", "function_call")
    if choice not in (None, "auto", "none"):
        raise InvalidRequest(f"Field '{name}': is not supported by this server", field=name)
    return [] if choice == "none" else read_tools(fields)


def _readers(context: Context, prompt: str, tools: list[Tool], choices: int) -> list[AnswerReader]:
    template = chat_template(context)
    form = template.form
    if not (tools or _has_thoughts(form)):
        return [AnswerReader(None) for _ in range(choices)]
    types = types_of({tool["function"]["name"]: tool["function"]["parameters"] for tool in tools})
    begun = _begun(form, prompt)
    short = not template.capabilities.any_id
    return [AnswerReader(Parser(form, types, begun), short_ids=short) for _ in range(choices)]


def _has_thoughts(form: Format) -> bool:
    """Whether an answer without calls can be more than content."""
    return bool(form.think[0] or form.content[0] or form.mode is Mode.HARMONY)


def _begun(form: Format, prompt: str) -> str:
    """What the prompt has begun the answer with."""
    turn = form.turn.strip()
    place = prompt.rfind(turn) if turn else -1
    return prompt[place:] if place >= 0 else ""
