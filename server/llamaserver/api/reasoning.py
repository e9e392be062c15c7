"""The fields of a request for thoughts: whether and how much the model thinks, and where its thoughts go."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import Config
from ..errors import InvalidRequest
from ..interfaces.backend import Vocab
from ..interfaces.thinking import Mark, Thinking
from ..toolformat.form import Format
from .fields import Fields
from .thoughts import Place

_PLACES: dict[str, Place] = {"auto": "apart", "deepseek": "apart", "deepseek-legacy": "both", "none": "content"}
_LONGEST_EFFORT = 64  # characters
_LONGEST_MESSAGE = 4096


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What a request asks for. `budget` is in tokens, -1 is no limit. `message` ends a thought that has used it up.

    Without thinking, the budget is 0.
    """

    variables: dict[str, Any]  # of the chat template
    place: Place
    budget: int
    message: str


def read_reasoning(config: Config, fields: Fields, form: Format) -> Reasoning:
    """Read the fields. Those that a request does not have are the server's options. Raises InvalidRequest."""
    name = fields.string("reasoning_format", default=config.reasoning_format)
    if name not in _PLACES:
        raise InvalidRequest(f"Field 'reasoning_format': must be one of {', '.join(_PLACES)}", field="reasoning_format")
    budget = fields.integer("reasoning_budget_tokens", "thinking_budget_tokens", default=-1, low=-1)
    message = fields.string("reasoning_budget_message", default=config.reasoning_budget_message)
    if len(message) > _LONGEST_MESSAGE:
        raise InvalidRequest(
            f"Field 'reasoning_budget_message': must have at most {_LONGEST_MESSAGE} characters",
            field="reasoning_budget_message",
        )
    variables = _variables(config, fields, form)
    if budget < 0:  # some templates cannot switch thinking off
        budget = 0 if variables.get("enable_thinking") is False else config.reasoning_budget
    return Reasoning(variables, _PLACES[name], budget, message)


def reasoning_defaults(config: Config, form: Format) -> dict[str, Any]:
    """What a chat gets that leaves out the fields, by their names. llama-server shows the first two."""
    found = read_reasoning(config, Fields({}), form)
    names = {place: name for name, place in _PLACES.items() if name != "auto"}
    return {
        "reasoning_format": names[found.place],
        "reasoning_in_content": found.place == "both",
        "reasoning_budget_tokens": found.budget,
        "reasoning_budget_message": found.message,
        "reasoning_effort": found.variables.get("reasoning_effort"),
        "enable_thinking": found.variables.get("enable_thinking"),
    }


def thinking(
    reasoning: Reasoning, form: Format, begun: str, vocab: Vocab, *, grammar: str = "", calls: bool = False
) -> Thinking | None:
    """How the sampler follows the thoughts of an answer, None if it has none.

    `begun` is what the template has begun the answer with. `grammar` is GBNF of the request: one that has the mark at
    the end of a thought in it restricts the thought too, and so there is no budget. With `calls`, the answer can have
    calls of functions, which can begin with the same token as a mark of several tokens.
    """
    begin, end = (mark.strip() for mark in form.thought)
    if not begin or has_ended(form, begun):
        return None
    first = _mark(begin, vocab)
    begins = begin in begun
    in_grammar = end in grammar or (calls and not begins and len(first.tokens) > 1)
    return Thinking(
        first,
        _mark(end, vocab),
        begun=begins,
        budget=-1 if in_grammar else reasoning.budget,
        message=tuple(vocab.tokenize(reasoning.message, add_special=False, parse_special=False)),
        answer=() if calls else _mark(form.answer, vocab).tokens,
        in_grammar=in_grammar,
    )


def has_ended(form: Format, begun: str) -> bool:
    """Whether a template has begun an answer with the end of a thought."""
    begin, end = (mark.strip() for mark in form.thought)
    return begun.rfind(end) > begun.rfind(begin)


def _mark(text: str, vocab: Vocab) -> Mark:
    return Mark(text.encode(), tuple(vocab.tokenize(text, add_special=False, parse_special=True)))


def _variables(config: Config, fields: Fields, form: Format) -> dict[str, Any]:
    """The variables that a template gets. Those that the client names win."""
    given = dict(config.chat_template_kwargs) | (fields.object("chat_template_kwargs") or {})
    preserve = given.pop("preserve_reasoning", config.reasoning_preserve)
    values = _preserving(preserve is not False)
    if form.thought[0]:
        values["enable_thinking"] = config.reasoning != "off"
    if config.reasoning_effort:
        values |= _effort(config.reasoning_effort)
    values |= given
    effort = fields.string("reasoning_effort")
    if len(effort) > _LONGEST_EFFORT:
        raise InvalidRequest(
            f"Field 'reasoning_effort': must have at most {_LONGEST_EFFORT} characters", field="reasoning_effort"
        )
    if fields.get("enable_thinking")[1] is not None:
        values["enable_thinking"] = fields.boolean("enable_thinking", default=True)
    elif isinstance(values.get("enable_thinking"), str):
        raise InvalidRequest(
            'invalid type for "enable_thinking" (expected boolean, got string)', field="chat_template_kwargs"
        )
    if effort == "none":
        return _without_effort(values) | {"enable_thinking": False}
    return values | (_effort(effort) if effort else {})


def _preserving(wanted: bool) -> dict[str, Any]:
    """Whether the thoughts of earlier answers are shown, by the names that templates have for it."""
    names = ("clear_thinking", "truncate_history_thinking", "drop_thinking")
    return {"preserve_thinking": wanted, **dict.fromkeys(names, not wanted)}


_EFFORT = ("reasoning_effort", "reasoning_strength")


def _effort(level: str) -> dict[str, Any]:
    return dict.fromkeys(_EFFORT, level)


def _without_effort(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _EFFORT}
