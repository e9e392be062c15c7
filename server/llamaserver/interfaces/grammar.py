"""What restricts an answer: a grammar that a sampler follows. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constraint:
    """A language that restricts an answer, as a Lark grammar that llguidance reads.

    The rule `start` is the whole answer. The text may use all that llguidance documents in docs/syntax.md: `%json
    {...}` for a JSON value, `<|name|>` and `<[id]>` for whole tokens, `[lazy]` and `[suffix=...]` for text up to a
    trigger. Only its line `%llguidance` is not for the text. Text matches by bytes, never by a control token.
    `field` is the field of the request that errors name. `weakened` names keywords of JSON schemas that it does not
    enforce.
    """

    lark: str
    field: str = "grammar"
    weakened: tuple[str, ...] = ()
