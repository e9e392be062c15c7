"""From a chat request to jobs of the engine and readers of their answers. All dialects of chats come here.

The request is the body of OpenAI's chat completions. A dialect with other fields translates its body into that.
Runs on a worker thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..toolformat.form import Format
from ..toolformat.parser import Parser
from ..toolformat.shown import shown_tokens
from .answer_reader import AnswerReader
from .chat import Chat, chat_prompt, chat_template, render_chat
from .context import Context
from .fields import Fields
from .jobs import Input, Job, make_jobs
from .reasoning import has_ended, thinking
from .request_defaults import with_request_defaults
from .response_format import with_response_format
from .thoughts import Thoughts
from .tool_grammar import tool_constraint
from .tool_use import ToolUse, read_tool_use

_NO_ARGUMENTS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One chat request, ready for the engine: a job for each choice, and a reader of its answer."""

    jobs: list[Job]
    readers: list[AnswerReader]

    def reader(self, index: int) -> AnswerReader:
        """The reader of one choice. Its events are to be fed once."""
        return self.readers[index]


def chat_call(
    context: Context, fields: Fields, *, stream: bool, choices: int = 1, arguments: Mapping[str, str] = _NO_ARGUMENTS
) -> ChatCall:
    """Check, price and render a request, and make its jobs. `arguments` is as in ToolUse.

    Raises InvalidRequest or TemplateFailure.
    """
    fields = with_request_defaults(context, fields)
    use = replace(read_tool_use(fields), arguments=arguments)
    chat = render_chat(context, fields)
    template, vocab = chat_template(context), context.engine.vocab
    form, fields = template.form, with_response_format(fields)
    constraint = tool_constraint(use, fields, template, chat, vocab)
    if constraint is not None:
        fields = fields.replaced({"json_schema": None})  # it is a part of the constraint
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
        thinking=thinking(
            chat.reasoning, form, chat.begun, vocab, grammar=fields.string("grammar"), calls=constraint is not None
        ),
        constraint=constraint,
    )
    return ChatCall(jobs, _readers(context, chat, use, choices))


def _readers(context: Context, chat: Chat, use: ToolUse, choices: int) -> list[AnswerReader]:
    template = chat_template(context)
    form, place = template.form, chat.reasoning.place
    apart = _has_thoughts(form) and (place != "content" or form.content[0])
    if context.config.skip_chat_parsing or not (use.tools or apart):
        return [AnswerReader(None) for _ in range(choices)]
    can = template.capabilities
    short = can.tool_calls and not can.any_id
    begun = form.thought[0].strip() in chat.begun and not has_ended(form, chat.begun)
    return [
        AnswerReader(
            Parser(form, use.parameters, chat.begun), Thoughts(place, form.thought, begun=begun), short_ids=short
        )
        for _ in range(choices)
    ]


def _has_thoughts(form: Format) -> bool:
    """Whether an answer without calls can be more than content."""
    return bool(form.thought[0] or form.content[0])
