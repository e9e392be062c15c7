"""Chat messages to a prompt: template choice, rendering, tokens, images. Runs in an executor thread."""

import re
import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import InvalidRequest, TemplateFailure
from ..interfaces.backend import BuiltinTemplates
from ..interfaces.params import Prompt
from ..toolformat.form import Format
from .capabilities import Message, Tool
from .chat_template import ChatTemplate
from .context import Context
from .fields import Fields
from .lanes import cancelled
from .messages import Images, read_messages, read_tools
from .prompt import after, build_prompt, check_length, media_prompt, prepend
from .reasoning import Reasoning, read_reasoning
from .templates import CHATML

_PLACEHOLDER = re.compile(r"(<image-[0-9a-f]{16}>)")
_MOST_BEGUN = 200  # characters of marks and fixed words, and of the begin of an answer that is read
_PLAIN = {"role", "content"}


@dataclass(frozen=True, slots=True)
class Chat:
    """A rendered conversation."""

    text: str
    images: tuple[tuple[str, bytes], ...]  # (placeholder in the text, content)
    reasoning: Reasoning
    begun: str = ""  # what the text has begun the answer with, "" if that is not known
    stops: tuple[str, ...] = ()


def render_chat(context: Context, fields: Fields) -> Chat:
    """Render `messages` and `tools` by the server's template."""
    images: Images = []
    messages = read_messages(fields, images)
    generate = _generates(fields, messages[-1], prefill=context.config.prefill_assistant)
    template = chat_template(context)
    reasoning = read_reasoning(context.config, fields, template.form)
    sentinel = ""
    if not generate and messages[-1]["role"] == "assistant":
        # Continue the last message: cut off the text that the template puts after it.
        sentinel = f"<end-{secrets.token_hex(8)}>"
        messages[-1] = {**messages[-1], "content": messages[-1]["content"] + sentinel}
    plain = fields.object("chat_template_kwargs") is None
    text = _rendered(template, messages, read_tools(fields), generate, reasoning.variables, plain=plain)
    if sentinel:
        text = text.partition(sentinel)[0]
    return Chat(text, tuple(images), reasoning, begun(template.form, text), _stops(context, text))


def chat_prompt(context: Context, chat: Chat) -> Prompt:
    """Token ids and images of a rendered conversation, without a second BOS."""
    engine = context.engine
    check_length([chat.text], engine, "messages")
    vocab = engine.vocab
    bos = vocab.special_piece(vocab.bos).decode("utf-8", "replace") if vocab.bos >= 0 else ""
    special = not (bos and chat.text.startswith(bos))
    system = context.system.tokens
    if chat.images:
        try:
            prompt = media_prompt(_parts(chat), engine, add_special=special and not system)
        except InvalidRequest as error:
            raise error.named("messages") from error
        return prepend(system, prompt)
    if special:
        return build_prompt(chat.text, engine, system=system, field="messages")
    return after(system, vocab.tokenize(chat.text, add_special=False, parse_special=True, cancelled=cancelled))


def count_tokens(context: Context, fields: Fields) -> int:
    """How many tokens the prompt of a request has."""
    return len(chat_prompt(context, render_chat(context, fields)))


def chat_template(context: Context) -> ChatTemplate:
    """The template in use: of the option, the file or the metadata, else ChatML."""
    vocab = context.engine.vocab
    bos, eos = (
        vocab.special_piece(token).decode("utf-8", "replace") if token >= 0 else "" for token in (vocab.bos, vocab.eos)
    )
    source = given_template(context) or context.engine.info.chat_template or CHATML
    return _template(source, context.builtin, bos, eos)


@lru_cache(maxsize=8)  # a template's capabilities are found out once
def _template(source: str, builtin: BuiltinTemplates, bos: str, eos: str) -> ChatTemplate:
    return ChatTemplate(source, builtin, bos, eos)


def given_template(context: Context) -> str:
    """The template of the command line, "" if there is none."""
    return context.config.chat_template or context.template_file


def begun(form: Format, text: str) -> str:
    """What a prompt has begun the answer with."""
    if (turn := form.turn.strip()) and (place := text.rfind(turn)) >= 0:
        return text[place:] if len(text) - place <= _MOST_BEGUN else ""
    # Templates without a text before every answer can begin a thought, and end it.
    begin, end = (mark.strip() for mark in form.think)
    if not begin or begin not in text:
        return ""
    tail = text[text.rfind(begin) :]
    thought, ended, after = tail.removeprefix(begin).partition(end)
    history = after.strip() or (ended and thought.strip())
    return "" if history or len(tail) > _MOST_BEGUN else tail


def _generates(fields: Fields, last: Message, *, prefill: bool) -> bool:
    """Whether the template begins a new answer, rather than continue the last message."""
    continues = fields.boolean("continue_final_message", default=prefill and last["role"] == "assistant")
    generate = fields.boolean("add_generation_prompt", default=not continues)
    if generate and fields.boolean("continue_final_message", default=False):
        raise InvalidRequest(
            "Cannot set both add_generation_prompt and continue_final_message to true.", field="continue_final_message"
        )
    if not generate and last["role"] == "assistant" and "tool_calls" in last:
        raise InvalidRequest("Cannot continue an assistant message that contains tool calls.", field="messages")
    return generate


def _rendered(
    template: ChatTemplate,
    messages: list[Message],
    tools: list[Tool],
    generate: bool,
    variables: dict[str, Any],
    *,
    plain: bool,
) -> str:
    """Render a request. If a `plain` conversation fails, the template is at fault, else the request may be."""
    try:
        return template.render(messages, tools, generate=generate, variables=variables)
    except TemplateFailure as error:
        roles = {message["role"] for message in messages}
        plain = plain and not tools and all(message.keys() <= _PLAIN for message in messages)
        if plain and "user" in roles <= {"system", "user", "assistant"}:
            raise TemplateFailure(f"the chat template fails: {error.message}") from error
        raise InvalidRequest(
            f"the chat template cannot render these messages: {error.message}", field="messages"
        ) from error


def _stops(context: Context, text: str) -> tuple[str, ...]:
    """Stop strings: ends of a turn in the text for which the model has no token."""
    vocab = context.engine.vocab
    candidates = [end for end in ("<|im_end|>", "<end_of_turn>") if end in text]
    return tuple(e for e in candidates if len(vocab.tokenize(e, add_special=False, parse_special=True)) > 1)


def _parts(chat: Chat) -> list[str | bytes]:
    """Texts and images in the order of the template, which can have left some out."""
    images = dict(chat.images)
    return [images.get(piece, piece) for piece in _PLACEHOLDER.split(chat.text)]
