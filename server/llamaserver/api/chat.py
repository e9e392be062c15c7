"""Chat messages to a prompt: validation, images, template choice. Runs in an executor thread."""

import re
import secrets
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequest, TemplateFailure
from ..interfaces.params import Prompt
from .context import Context
from .fields import Fields
from .prompt import after, build_prompt, check_length, decode_base64, is_data_url, media_prompt, prepend
from .templates import CHATML, render

MAX_MESSAGES = 4096
MAX_IMAGES = 64
_PLACEHOLDER = re.compile(r"(<image-[0-9a-f]{16}>)")
_ROLES_MAX = 64


@dataclass(frozen=True, slots=True)
class Chat:
    """A rendered conversation."""

    text: str
    images: tuple[tuple[str, bytes], ...]  # (placeholder in the text, content)
    stops: tuple[str, ...] = ()


def render_chat(context: Context, fields: Fields) -> Chat:
    """Render `messages` by the server's template."""
    images: list[tuple[str, bytes]] = []
    messages = [_message(item, i, images) for i, item in enumerate(_messages(fields))]
    generate = fields.boolean("add_generation_prompt", default=messages[-1]["role"] != "assistant")
    sentinel = ""
    if not generate and messages[-1]["role"] == "assistant":
        # Continue the last message: cut off the text that the template puts after it.
        sentinel = f"<end-{secrets.token_hex(8)}>"
        messages[-1] = {**messages[-1], "content": messages[-1]["content"] + sentinel}
    text = _rendered(context, messages, generate, fields.object("chat_template_kwargs") or {})
    if sentinel:
        text = text.partition(sentinel)[0]
    return Chat(text, tuple(images), _stops(context, text))


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
    return after(system, vocab.tokenize(chat.text, add_special=False, parse_special=True))


def template_text(context: Context) -> str:
    """The Jinja text or built-in name in use: option, file, metadata, ChatML."""
    return given_template(context) or context.engine.info.chat_template or CHATML


def given_template(context: Context) -> str:
    """The template of the command line, "" if there is none."""
    return context.config.chat_template or context.template_file


def _rendered(context: Context, messages: list[dict[str, Any]], generate: bool, kwargs: dict[str, Any]) -> str:
    """Render a request. If a plain conversation fails, the template is at fault, else the request may be."""
    try:
        return render_messages(context, messages, generate, kwargs)
    except TemplateFailure as error:
        roles = {message["role"] for message in messages}
        if not kwargs and "user" in roles <= {"system", "user", "assistant"}:
            raise TemplateFailure(f"the chat template fails: {error.message}") from error
        raise InvalidRequest(
            f"the chat template cannot render these messages: {error.message}", field="messages"
        ) from error


def render_messages(context: Context, messages: list[dict[str, Any]], generate: bool, kwargs: dict[str, Any]) -> str:
    """Render messages by the template in use. Raises InvalidRequest or TemplateFailure."""
    template = template_text(context)
    if template in context.builtin.names:
        pairs = [(message["role"], message["content"]) for message in messages]
        return context.builtin.render(template, pairs, add_generation_prompt=generate)
    vocab = context.engine.vocab
    variables = {
        **kwargs,
        "bos_token": vocab.special_piece(vocab.bos).decode("utf-8", "replace") if vocab.bos >= 0 else "",
        "eos_token": vocab.special_piece(vocab.eos).decode("utf-8", "replace") if vocab.eos >= 0 else "",
        "tools": None,
    }
    return render(template, messages, add_generation_prompt=generate, variables=variables)


def _stops(context: Context, text: str) -> tuple[str, ...]:
    """Stop strings: ends of a turn in the text for which the model has no token."""
    vocab = context.engine.vocab
    candidates = [end for end in ("<|im_end|>", "<end_of_turn>") if end in text]
    return tuple(e for e in candidates if len(vocab.tokenize(e, add_special=False, parse_special=True)) > 1)


def _messages(fields: Fields) -> list[Any]:
    name, value = fields.get("messages")
    if not isinstance(value, list) or not value:
        raise InvalidRequest("Field 'messages': must be a non-empty array", field=name)
    if len(value) > MAX_MESSAGES:
        raise InvalidRequest(f"Field 'messages': at most {MAX_MESSAGES} messages", field=name)
    return value


def _message(item: Any, index: int, images: list[tuple[str, bytes]]) -> dict[str, Any]:
    where = f"messages[{index}]"
    if not isinstance(item, dict):
        raise InvalidRequest(f"Field '{where}': must be an object", field=where)
    role = item.get("role")
    if not isinstance(role, str) or not 0 < len(role) <= _ROLES_MAX:
        raise InvalidRequest(f"Field '{where}.role': must be a string", field=f"{where}.role")
    if item.get("tool_calls") or role in ("tool", "function"):
        raise InvalidRequest(f"Field '{where}': tool calls are not supported", field=where)
    content = _content(item, where, images)
    name = item.get("name")
    return {"role": role, "content": content, **({"name": name} if isinstance(name, str) else {})}


def _content(message: dict[str, Any], where: str, images: list[tuple[str, bytes]]) -> str:
    value = message.get("content")
    if value is None:
        refusal = message.get("refusal")  # OpenAI's models put a refusal here; a template needs it as the content
        return refusal if isinstance(refusal, str) else ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_part(part, f"{where}.content[{i}]", images) for i, part in enumerate(value))
    raise InvalidRequest(f"Field '{where}.content': must be a string or an array of parts", field=f"{where}.content")


def _part(part: Any, where: str, images: list[tuple[str, bytes]]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal") and isinstance(part.get(kind), str):
        return str(part[kind])
    if kind == "image_url":
        return _image(part, where, images)
    raise InvalidRequest(f"Field '{where}': must be a text, refusal or image_url part", field=where)


def _image(part: dict[str, Any], where: str, images: list[tuple[str, bytes]]) -> str:
    url = part.get("image_url")
    url = url.get("url") if isinstance(url, dict) else url
    if not isinstance(url, str) or not is_data_url(url):
        raise InvalidRequest(f"Field '{where}.image_url': must be a data: URL. The server fetches no URLs", field=where)
    if len(images) >= MAX_IMAGES:
        raise InvalidRequest(f"Field 'messages': at most {MAX_IMAGES} images", field="messages")
    placeholder = f"<image-{secrets.token_hex(8)}>"
    images.append((placeholder, decode_base64(url, f"{where}.image_url")))
    return placeholder


def _parts(chat: Chat) -> list[str | bytes]:
    """Texts and images in the order of the template, which can have left some out."""
    images = dict(chat.images)
    return [images.get(piece, piece) for piece in _PLACEHOLDER.split(chat.text)]
