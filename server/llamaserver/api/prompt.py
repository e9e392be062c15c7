"""From prompts in all their forms, and images, to the engine's keys. Runs in an executor thread."""

import base64
import re
from array import array
from dataclasses import dataclass, field, replace
from typing import Any

from ..engine.loop import Engine
from ..errors import ContextExceeded, InvalidRequest, NotSupported
from ..interfaces.params import Prompt
from .fields import Fields, token_id
from .lanes import cancelled

MEDIA_MARKER = "<__media__>"  # llama-server's marker
_IMAGE = re.compile(r"\[img-([0-9]{1,9})\]")
_CHARACTERS_PER_TOKEN = 64  # no tokenizer makes longer tokens on average
_SPARE = 1 << 16  # characters of a prompt beyond the slot: it is cut
_SPARE_OF_TEXT = 1 << 20  # characters of a text that is not evaluated
_COST_OF_TEXT = 16  # of a text in an array, in characters
_WHITESPACE = b" \t\r\n\f\v"
_PLAIN_BASE64 = bytes.maketrans(b"-_", b"+/")
_PERCENT = tuple(
    (form.encode(), letter.encode())
    for letter in "+/=-_ \t\r\n"
    for form in (f"%{ord(letter):02X}", f"%{ord(letter):02x}")
)


def required_prompts(fields: Fields) -> list[Any]:
    """The prompts of the field `prompt`. An array of strings holds several, and so does an array of arrays.

    An array with any number in it is one prompt of mixed pieces.
    """
    _, value = fields.get("prompt")
    if value is None:
        raise InvalidRequest("Field 'prompt': is required", field="prompt")
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return list(value)
    if isinstance(value, list) and value and all(isinstance(item, list) for item in value):
        return list(value)
    return [value]


def numbered(field: str, count: int) -> list[str]:
    """The names of inputs in errors, such as `prompt.3`. A single input has the name of the field."""
    return [field] if count == 1 else [f"{field}.{place}" for place in range(count)]


def prompt_text(value: str | list[Any], engine: Engine) -> str:
    """A valid prompt as text. Token ids become their text."""
    if isinstance(value, str):
        return value
    piece = engine.vocab.special_piece
    parts = [item.encode("utf-8", "replace") if isinstance(item, str) else piece(item) for item in value]
    return b"".join(parts).decode("utf-8", "replace")


def build_prompt(
    value: Any,
    engine: Engine,
    *,
    system: tuple[int, ...] = (),
    images: "Images | None" = None,
    field: str = "prompt",
) -> Prompt:
    """Tokenize one prompt: a string, or an array of strings and token ids. Raises InvalidRequest.

    As in the document, BOS is inserted if the prompt begins with a string, the model wants BOS, and there is no
    system prompt.
    """
    if isinstance(value, str):
        check_length([value], engine, field)
        if images is not None and images.files and _IMAGE.search(value):
            return _with_images(value, engine, images, system, field)
        tokens = engine.vocab.tokenize(value, add_special=not system, parse_special=True, cancelled=cancelled)
        return after(system, tokens)
    if isinstance(value, list):
        return after(system, _pieces(value, engine, field, bos=not system))
    if isinstance(value, dict) and images is not None:
        return _with_media(Fields(value), engine, system, field)
    raise InvalidRequest(f"Field '{field}': must be a string or an array of strings and token ids", field=field)


def _pieces(value: list[Any], engine: Engine, field: str, *, bos: bool) -> list[int]:
    tokens: list[int] = []
    check_length(value, engine, field)
    for index, item in enumerate(value):
        if isinstance(item, str):
            first = index == 0 and bos
            tokens.extend(engine.vocab.tokenize(item, add_special=first, parse_special=True, cancelled=cancelled))
        else:
            tokens.append(token_id(item, engine.vocab.n_vocab, field))
    return tokens


def check_length(items: list[Any], engine: Engine, field: str) -> None:
    """Refuse texts and ids that no slot can hold, before they are tokenized. Raises ContextExceeded."""
    slot_ctx, length = engine.settings.slot_ctx, _length(items)
    if length > slot_ctx * _CHARACTERS_PER_TOKEN + _SPARE:
        least = length // _CHARACTERS_PER_TOKEN
        raise ContextExceeded.of(length, slot_ctx, field=field, unit="characters or ids", least=least)


def check_text(items: list[Any], engine: Engine, field: str) -> None:
    """Refuse too many texts and ids that are not evaluated. Raises InvalidRequest."""
    most, length = engine.settings.slot_ctx * _CHARACTERS_PER_TOKEN + _SPARE_OF_TEXT, _length(items)
    if length > most:
        raise InvalidRequest(f"Field '{field}': is too long: {length} characters or ids, {most} fit", field=field)


def _length(items: list[Any]) -> int:
    return sum(len(item) + _COST_OF_TEXT if isinstance(item, str) else 1 for item in items)


@dataclass(frozen=True, slots=True)
class Images:
    """The images of a request, by the numbers that its prompts use."""

    files: dict[int, bytes]
    decoded: dict[bytes, Any] = field(default_factory=dict)  # see MediaTokenizer


def read_images(fields: Fields) -> Images:
    """`image_data`: [{"data": base64, "id": number}]."""
    images: dict[int, bytes] = {}
    for place, item in enumerate(fields.array("image_data")):
        if not isinstance(item, dict):
            raise InvalidRequest("Field 'image_data': must be an array of {data, id}", field="image_data")
        one = Fields(item)
        data = decode_base64(one.string("data"), f"image_data.{place}")
        images[one.integer("id", default=len(images), low=0)] = data
    return Images(images)


def decode_base64(text: str, field: str) -> bytes:
    """Decode base64 in every form that encoders write. Raises InvalidRequest.

    It can be a data: URL, have line ends or spaces, lack padding, use the alphabet for URLs, or be percent-encoded.
    """
    payload = text.rpartition(",")[2] if is_data_url(text) else text
    try:
        data = payload.encode("ascii")
        if b"%" in data:
            for code, letter in _PERCENT:
                data = data.replace(code, letter)
        data = data.translate(_PLAIN_BASE64, _WHITESPACE).rstrip(b"=")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except ValueError as error:
        raise InvalidRequest(f"Field '{field}': not valid base64", field=field) from error


def is_data_url(text: str) -> bool:
    """Whether a text is a data: URL."""
    return text[:64].lstrip()[:5].lower() == "data:"


def _with_images(text: str, engine: Engine, images: Images, system: tuple[int, ...], field: str) -> Prompt:
    parts: list[str | bytes] = []
    at = 0
    for match in _IMAGE.finditer(text):
        number = int(match[1])
        if number not in images.files:
            raise InvalidRequest(f"Field '{field}': [img-{number}] is not in image_data", field="image_data")
        parts += [text[at : match.start()], images.files[number]]
        at = match.end()
    parts.append(text[at:])
    return prepend(system, media_prompt(parts, engine, add_special=not system, decoded=images.decoded))


def _with_media(value: Fields, engine: Engine, system: tuple[int, ...], field: str) -> Prompt:
    """{"prompt_string": text with markers, "multimodal_data": [base64]}."""
    text, data = value.string("prompt_string"), value.strings("multimodal_data")
    check_length([text], engine, field)
    texts = text.split(MEDIA_MARKER)
    if len(texts) != len(data) + 1:
        message = (
            f"Field '{field}': has {len(texts) - 1} markers {MEDIA_MARKER}, and multimodal_data has {len(data)} entries"
        )
        raise InvalidRequest(message, field=field)
    if not data:
        return build_prompt(text, engine, system=system, field=field)
    parts: list[str | bytes] = [texts[0]]
    for place, one in enumerate(data):
        parts += [decode_base64(one, f"{field}.multimodal_data.{place}"), texts[place + 1]]
    return prepend(system, media_prompt(parts, engine, add_special=not system))


def media_prompt(
    parts: list[str | bytes], engine: Engine, *, add_special: bool, decoded: dict[bytes, Any] | None = None
) -> Prompt:
    """A prompt of texts and images through the projector."""
    if engine.media is None:
        raise NotSupported("This server does not support images: it was started without --mmproj")
    return engine.media.build(parts, add_special=add_special, decoded=decoded, cancelled=cancelled)


def after(system: tuple[int, ...], tokens: list[int]) -> Prompt:
    """The prompt of the system prompt and the tokens of a request."""
    return prepend(system, Prompt(array("q", tokens)))


def prepend(system: tuple[int, ...], prompt: Prompt) -> Prompt:
    """Put the tokens of the system prompt before a prompt, which can have images."""
    if not system:
        return prompt
    moved = tuple(replace(media, start=media.start + len(system)) for media in prompt.media)
    return Prompt(array("q", system) + prompt.keys, moved, len(system))
