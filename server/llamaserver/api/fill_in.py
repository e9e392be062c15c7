"""The prompt for filling in the middle, with the same tokens as llama-server's (`format_prompt_infill`).

    [FIM_REP]myproject
    [FIM_SEP]first file
    text of the first file ...
    [FIM_SEP]filename
    [BOS][FIM_PRE]prefix, middle[FIM_SUF]suffix[FIM_MID]

Models without FIM_SEP get a line between the files instead. Runs on a worker thread.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import InvalidRequest, NotSupported
from ..interfaces.backend import Vocab
from .context import Context
from .fields import Fields
from .lanes import cancelled
from .prompt import check_length

_PROJECT = "myproject\n"
_SNIPPET = "\n\n--- snippet ---\n\n"
_UNNAMED = "tmp"


class Chunk(NamedTuple):
    """A part of another file."""

    text: str
    filename: str


class Gap(NamedTuple):
    """The token ids around a gap. `middle` is what it begins with."""

    prefix: list[int]
    suffix: list[int]
    middle: list[int]


def check_fill_in(vocab: Vocab) -> None:
    """Raise NotSupported for a model that has no tokens for it."""
    markers = {"prefix": vocab.fim_pre, "suffix": vocab.fim_suf, "middle": vocab.fim_mid}
    missing = "".join(f"{name} token is missing. " for name, token in markers.items() if token < 0)
    if missing:
        raise NotSupported(f"Infill is not supported by this model: {missing}".rstrip())


def read_chunks(fields: Fields) -> list[Chunk]:
    """The field `input_extra`. Raises InvalidRequest with llama-server's words."""
    _, value = fields.get("input_extra")
    if value is not None and not isinstance(value, list):
        raise _wrong('"input_extra" must be an array of {"filename": string, "text": string}')
    chunks = []
    for item in value or ():
        text, filename = (item.get("text"), item.get("filename", _UNNAMED)) if isinstance(item, dict) else (None, "")
        if not isinstance(text, str):
            raise _wrong('extra_context chunk must contain a "text" field with a string value')
        if not isinstance(filename, str):
            raise _wrong('extra_context chunk\'s "filename" field must be a string')
        chunks.append(Chunk(text, filename))
    return chunks


def _wrong(message: str) -> InvalidRequest:
    return InvalidRequest(message, field="input_extra")


def fill_in_prompt(
    context: Context, prefix: str, suffix: str, *, middle: str = "", chunks: Sequence[Chunk] = ()
) -> list[int]:
    """The token ids of a prompt. Raises InvalidRequest.

    The prefix keeps its end, and the suffix its begin: together they fit a batch. The last of the chunks fill what
    the batch leaves of the slot. Where llama-server would find the prompt too long, less is kept: three quarters of
    the slot.
    """
    engine, batch = context.engine, context.config.batch_size
    check_length([prefix, suffix, middle], engine, "input_prefix")
    vocab, slot_ctx = engine.vocab, engine.settings.slot_ctx
    gap = Gap(
        _tokens(vocab, prefix), _tokens(vocab, suffix), vocab.tokenize(middle, add_special=False, parse_special=True)
    )
    around = _around(vocab, gap, batch, suffix_first=context.config.spm_infill)
    extra = _extra(context, chunks, slot_ctx - batch - 2 * engine.settings.n_predict)
    if len(extra) + len(around) < slot_ctx:
        return extra + around
    room = slot_ctx * 3 // 4
    around = _around(vocab, gap, min(batch, room), suffix_first=context.config.spm_infill)
    return _last(extra, room - len(around)) + around


def _around(vocab: Vocab, gap: Gap, batch: int, *, suffix_first: bool) -> list[int]:
    """The tokens around the gap, after BOS."""
    before = [vocab.fim_pre, *_last(gap.prefix, 3 * (batch // 4)), *gap.middle]
    after = [vocab.fim_suf, *gap.suffix[: max(0, batch // 4 - 2 - len(gap.middle))]]
    first, second = (after, before) if suffix_first else (before, after)
    begin = [vocab.bos] if vocab.add_bos and vocab.bos >= 0 else []
    return [*begin, *first, *second, vocab.fim_mid]


def _extra(context: Context, chunks: Sequence[Chunk], most: int) -> list[int]:
    """The last `most` tokens of what comes before. They are made from the end, so that no more are made."""
    if most <= 0:
        return []
    vocab = context.engine.vocab
    parts = [_separator(vocab, "filename")] if vocab.fim_sep >= 0 else []
    count = sum(map(len, parts))
    for chunk in reversed(chunks):
        if count >= most:
            break
        check_length([chunk.text, chunk.filename], context.engine, "input_extra")
        parts += [_tokens(vocab, chunk.text), _separator(vocab, chunk.filename)]
        count += len(parts[-1]) + len(parts[-2])
    else:
        parts += [[vocab.fim_rep, *_tokens(vocab, _PROJECT)]] if vocab.fim_rep >= 0 else []
    return _last([token for part in reversed(parts) for token in part], most)


def _separator(vocab: Vocab, filename: str) -> list[int]:
    """What comes before a file."""
    return _tokens(vocab, _SNIPPET) if vocab.fim_sep < 0 else [vocab.fim_sep, *_tokens(vocab, f"{filename}\n")]


def _tokens(vocab: Vocab, text: str) -> list[int]:
    """Markers in the text are text."""
    return vocab.tokenize(text, add_special=False, parse_special=False, cancelled=cancelled)


def _last(tokens: list[int], count: int) -> list[int]:
    return tokens[max(0, len(tokens) - max(0, count)) :]


def required_text(fields: Fields, name: str) -> str:
    """A text that has to be there, even if it is empty. Raises InvalidRequest with llama-server's words."""
    if fields.get(name)[1] is None:
        raise InvalidRequest(f'"{name}" is required', field=name)
    return fields.string(name)


def optional_text(fields: Fields, name: str) -> str:
    """A text, "" if it is absent. Raises InvalidRequest with llama-server's words."""
    value: Any = fields.get(name)[1]
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f'"{name}" must be a string', field=name)
    return value or ""
