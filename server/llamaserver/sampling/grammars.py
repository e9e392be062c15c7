"""The grammars of all requests: compiled texts, and the automata in use."""

from functools import partial
from threading import Lock
from weakref import WeakValueDictionary

from ..errors import EngineFailure, InvalidRequest, Unavailable
from ..grammar import gbnf
from ..grammar.automaton import Automaton
from ..grammar.compiler import Compiler
from ..grammar.kept import Kept
from ..grammar.matcher import Matcher
from ..grammar.vocabulary import PieceIndex, token_named
from ..interfaces.backend import Vocab
from ..interfaces.params import SamplingParams

MOST_IN_USE = 1_000_000  # items and stacks of all automata in use, about 130 MB


class Grammars:
    """Makes the automata of requests. Requests with the same grammar share one while any of them lives. Thread-safe."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._constraints = Compiler(vocab)
        self._compile = Kept(partial(gbnf.parse, token_id=partial(token_named, vocab)))
        self._in_use: WeakValueDictionary[str, Automaton] = WeakValueDictionary()
        self._index: PieceIndex | None = None
        self._lock = Lock()

    def __call__(self, params: SamplingParams) -> Automaton | Matcher | None:
        """The automaton of a request, with its first state; None without a grammar.

        Raises InvalidRequest for a wrong grammar, and Unavailable while the others take too much memory.
        """
        if params.constraint is not None:
            try:
                return self._constraints(params.constraint)
            except gbnf.GrammarError as error:
                field = params.constraint.field
                raise InvalidRequest("Failed to parse grammar", field=field, reason=str(error)) from error
        text = params.grammar
        if not text:
            return None
        with self._lock:
            shared = self._in_use.get(text)
            if shared is not None:
                return shared
            if sum(one.weight for one in self._in_use.values()) > MOST_IN_USE:
                raise Unavailable("the grammars of other requests take too much memory", retry_after=1)
        try:
            made = Automaton(params.rules or self._compile(text), self._pieces())
            made.start()
        except gbnf.GrammarError as error:
            raise InvalidRequest("Failed to parse grammar", field="grammar", reason=str(error)) from error
        except EngineFailure as error:
            raise InvalidRequest("Failed to parse grammar", field="grammar", reason=error.message) from error
        with self._lock:
            return self._in_use.setdefault(text, made)

    def _pieces(self) -> PieceIndex:
        with self._lock:
            if self._index is None:
                self._index = PieceIndex(self._vocab)
            return self._index
