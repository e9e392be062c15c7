"""The grammars of all requests: GBNF texts and constraints, compiled."""

from functools import partial

from ..errors import InvalidRequest
from ..grammar import gbnf
from ..grammar.compiler import Compiler
from ..grammar.matcher import Matcher
from ..grammar.tokens import token_named
from ..interfaces.backend import Vocab
from ..interfaces.params import SamplingParams


class Grammars:
    """Makes the matchers of requests. Requests with the same text share the compiled grammar. Thread-safe."""

    def __init__(self, vocab: Vocab) -> None:
        self._compile = Compiler(vocab)
        self._named = partial(token_named, vocab)

    def __call__(self, params: SamplingParams) -> Matcher | None:
        """The matcher at the start of an answer, to be copied; None without a grammar.

        Raises InvalidRequest, and Unavailable while the grammars of others take too much memory.
        """
        constraint = params.constraint
        try:
            if constraint is not None:
                return self._compile(constraint.lark)
            if params.grammar:
                return self._compile(params.grammar, lambda text: gbnf.to_lark(text, self._named))
        except gbnf.GrammarError as error:
            field = constraint.field if constraint is not None else "grammar"
            raise InvalidRequest("Failed to parse grammar", field=field, reason=str(error)) from error
        return None
