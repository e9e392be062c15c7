"""From a chat request to jobs of the engine and readers of their answers. All dialects of chats come here.

The request is the body of OpenAI's chat completions. A dialect with other fields translates its body into that.
Runs on a worker thread.
"""

from dataclasses import dataclass

from ..errors import InvalidRequest
from ..toolformat.form import Format
from ..toolformat.parser import Parser, types_of
from ..toolformat.shown import shown_tokens
from .answer_reader import AnswerReader
from .capabilities import Tool
from .chat import Chat, chat_prompt, chat_template, render_chat
from .context import Context
from .fields import Fields
from .jobs import Input, Job, make_jobs
from .messages import read_tools
from .reasoning import has_ended, thinking
from .response_format import with_response_format
from .thoughts import Thoughts


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
    form, vocab = chat_template(context).form, context.engine.vocab
    fields = with_response_format(fields)
    jobs = make_jobs(
        context,
        fields,
        lambda: [Input(chat_prompt(context, chat), chat.text, "prompt")],
        prompts=1,
        stream=stream,
        choices=choices,
        stops=chat.stops,
        ends_with_slot=True,
        shown=shown_tokens(form.marks, vocab),
        thinking=thinking(chat.reasoning, form, chat.begun, vocab, grammar=fields.string("grammar"), calls=bool(tools)),
    )
    return ChatCall(jobs, _readers(context, chat, tools, choices))


def callable_tools(fields: Fields) -> list[Tool]:
    """The tools that the model may call."""
    name, choice = fields.get("tool_choice", "function_call")
    if choice not in (None, "auto", "none"):
        raise InvalidRequest(f"Field '{name}': is not supported by this server", field=name)
    return [] if choice == "none" else read_tools(fields)


def _readers(context: Context, chat: Chat, tools: list[Tool], choices: int) -> list[AnswerReader]:
    template = chat_template(context)
    form, place = template.form, chat.reasoning.place
    apart = _has_thoughts(form) and (place != "content" or form.content[0])
    if context.config.skip_chat_parsing or not (tools or apart):
        return [AnswerReader(None) for _ in range(choices)]
    types = types_of({tool["function"]["name"]: tool["function"]["parameters"] for tool in tools})
    short = not template.capabilities.any_id
    begun = form.thought[0].strip() in chat.begun and not has_ended(form, chat.begun)
    return [
        AnswerReader(Parser(form, types, chat.begun), Thoughts(place, form.thought, begun=begun), short_ids=short)
        for _ in range(choices)
    ]


def _has_thoughts(form: Format) -> bool:
    """Whether an answer without calls can be more than content."""
    return bool(form.thought[0] or form.content[0])
