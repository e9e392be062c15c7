"""The price of a request, before anything is done for it: the sizes of its fields times the number of its answers.

Each field has its own bound. The fields of a generation have theirs in the table of interfaces/params.py. So no
product of allowed values can take much memory or time.
"""

from typing import Any

from ..errors import InvalidRequest
from ..interfaces.declare import Budget, size
from ..interfaces.params import GENERATION_PARAMETERS, SAMPLING_PARAMETERS
from .fields import Fields

_COUNTED = 1 << 20  # units that are counted beyond a bound
MAX_PROBABILITIES = 1 << 18  # candidates that answers may carry that come in one piece, or prompts: about 50 MB
MAX_ECHO = 1 << 22  # characters of prompts that one answer repeats
_OTHERS = (  # fields that the engine does not see
    (("json_schema",), Budget(1 << 20, "characters")),
    (("response_fields",), Budget(1 << 16, "characters")),
)
_BUDGETS = (
    *((item.names, item.budget) for item in (*SAMPLING_PARAMETERS, *GENERATION_PARAMETERS) if item.budget),
    *_OTHERS,
)


def check_price(fields: Fields, *, prompts: int, choices: int = 1) -> None:
    """Refuse a request that costs too much. Raises InvalidRequest that names the product."""
    answers = prompts * choices
    for names, budget in _BUDGETS:
        name, value = fields.get(*names)
        if value is None:
            continue
        most = budget.most // answers
        if _size(value, most) > most:
            raise _refused(name, budget, f"{_known(value, most)} {budget.unit}", prompts, choices)


def check_product(name: str, length: int, count: int, what: str) -> None:
    """Refuse a text that is evaluated with each of many others. Raises InvalidRequest."""
    if length * count > MAX_ECHO:
        message = f"Field '{name}': {length} characters x {count} {what} is more than {MAX_ECHO}"
        raise InvalidRequest(message, field=name)


def check_echo(texts: list[str], choices: int) -> None:
    """Refuse to repeat long prompts in many choices. Raises InvalidRequest."""
    length = sum(map(len, texts))
    if length * choices > MAX_ECHO:
        budget = Budget(MAX_ECHO, "characters")
        raise _refused("echo", budget, f"{length} characters of all prompts", 1, choices)


def check_scores(tokens: int, choices: int, candidates: int) -> None:
    """Refuse the probabilities of too many tokens of prompts. Raises InvalidRequest."""
    if tokens * choices * candidates > MAX_PROBABILITIES:
        budget = Budget(MAX_PROBABILITIES, "probabilities")
        raise _refused("echo", budget, f"{tokens} tokens of all prompts x {candidates} probabilities", 1, choices)


def _refused(name: str, budget: Budget, value: str, prompts: int, choices: int) -> InvalidRequest:
    factors = [value]
    factors += [f"{prompts} prompts"] if prompts > 1 else []
    factors += [f"{choices} choices"] if choices > 1 else []
    return InvalidRequest(f"Field '{name}': {' x '.join(factors)} is more than {budget.most}", field=name)


def _known(value: Any, most: int) -> str:
    """The size of a value for an error. It is not counted to the end where that takes long."""
    found = _size(value, most + _COUNTED)
    return f"more than {found}" if found > most + _COUNTED and not isinstance(value, str | int) else str(found)


def _size(value: Any, most: int) -> int:
    """The size of a value. A number counts as itself."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return max(value, 0) if is_number else size(value, most)
