"""The sampling of one request: from a row of logits to a token. Holds the state between tokens.

The logit bias comes first, then the penalties. Then a temperature <= 0 chooses the best token, or mirostat
replaces the chain, or the requested samplers run in their order. Pure numpy.

A worker thread makes and checks the sampler. Its state is made when the engine begins with the request, so a
request that waits takes little memory. All samplers of one request share what does not change.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from ..errors import EngineFailure
from ..grammar.matcher import DeadEndError, Matcher
from ..interfaces.backend import AnswerCompleteError, FloatArray, Vocab
from ..interfaces.output import TokenProb, TokenProbs
from ..interfaces.params import SamplingParams
from .build import check_finite
from .chain import Candidates, NothingLeftError, best, token_at, weights
from .dry import Breakers
from .grammars import Grammars
from .parts import KeptBreakers, make_bias, make_dry, make_penalties, make_picker, wants_dry
from .pickers import Bias
from .score import score
from .thought import Thought

_FEW = 256  # candidates that are tested one by one against a grammar, before the whole vocabulary is tested


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the samplers of one request have in common. It never changes. Each sampler copies the matcher."""

    vocab: Vocab
    n_ctx: int
    bias: Bias | None
    breakers: Breakers
    matcher: Matcher | None


class ChainSampler:
    """One request's sampler (protocol: interfaces/backend.py)."""

    def __init__(self, params: SamplingParams, shared: _Shared) -> None:
        self._params = params
        self._shared = shared
        self._vocab = shared.vocab
        self._bias = shared.bias
        self._thought: Thought | None = None
        self._begun = False

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of thoughts so far."""
        return self._thought.n_tokens if self._thought is not None else 0

    def end_thought(self) -> bool:
        """End the thought with the next token, if one lasts."""
        thought = self._thought
        if thought is None or not thought.lasts:
            return False
        thought.to_end = True
        return True

    def fresh(self, seed: int) -> "ChainSampler":
        """Another sampler with the same parameters, except for the seed."""
        return ChainSampler(replace(self._params, seed=seed), self._shared)

    def _begin(self) -> None:
        """Make the state."""
        params, shared = self._params, self._shared
        n_vocab = shared.vocab.n_vocab
        self._penalties = make_penalties(params, n_vocab, shared.n_ctx)
        self._spared = shared.vocab.nl if self._penalties is not None and not params.penalize_nl else -1
        self._dry = make_dry(params, shared.breakers, shared.n_ctx)
        self._picker = make_picker(params, shared.vocab, self._dry)
        field = params.constraint.field if params.constraint is not None else "grammar"
        self._matcher = shared.matcher.copy(field) if shared.matcher is not None else None
        if params.thinking is not None:
            constrained = self._matcher is not None and not params.thinking.in_grammar
            self._thought = Thought(params.thinking, shared.vocab, constrained=constrained)
        self._begun = True

    def prime(self, prompt: Sequence[int]) -> None:
        """Fill the penalty windows with the prompt, or with `penalty_prompt`."""
        if not self._begun:
            self._begin()
        if self._penalties is not None:
            stand_in = self._params.penalty_prompt
            self._penalties.extend(prompt if stand_in is None else stand_in)
        if self._dry is not None:
            self._dry.extend(prompt)

    def sample(self, logits: FloatArray) -> tuple[int, TokenProbs | None]:
        """Choose a token and add it to the state. Raises AnswerCompleteError, or EngineFailure when none is allowed."""
        if not self._begun:
            self._begin()
        n_probs = self._params.n_probs
        raw = logits.copy() if n_probs and not self._params.post_sampling_probs else None
        self._adjust(logits)
        kept, place = self._next(logits)
        token = token_at(kept, place)
        self._accept(token)
        if not n_probs:
            return token, None
        if raw is not None:
            kept, place = Candidates(None, raw, False), token
        return token, self._report(kept, place, logits)

    def score(self, logits: FloatArray, token: int) -> TokenProbs:
        """How likely a token of the prompt is."""
        return score(self._vocab, logits, token, self._params.n_probs)

    def close(self) -> None:
        """Do nothing: the sampler holds no native memory."""

    def _adjust(self, logits: FloatArray) -> None:
        if self._bias is not None:
            self._bias.apply(logits)
        if self._penalties is None:
            return
        if self._spared >= 0:
            spared = logits[self._spared]
            self._penalties.apply(logits)
            logits[self._spared] = spared
        else:
            self._penalties.apply(logits)

    def _accept(self, token: int) -> None:
        if self._penalties is not None:
            self._penalties.add(token)
        if self._dry is not None:
            self._dry.add(token)
        thinks = self._thought is not None and self._thought.accept(token)
        if self._matcher is not None and not thinks:
            self._matcher.accept(token)

    # ---- choosing

    def _next(self, logits: FloatArray) -> tuple[Candidates, int]:
        """The token that must come next, or the choice."""
        thought = self._thought
        if thought is None:
            return self._choose(logits)
        if thought.to_end:
            thought.end()
        if thought.forced < 0:
            kept, place = self._choose(logits)
            token = token_at(kept, place)
            if token not in self._vocab.eog or not thought.free(token):
                return kept, place
            thought.end()  # the answer must not end before it has what its grammar demands
        return Candidates(None, logits, False), thought.forced

    def _choose(self, logits: FloatArray) -> tuple[Candidates, int]:
        try:
            return self._choose_allowed(logits)
        except NothingLeftError:
            # Replace NaN and infinities by numbers of the same order, and try once more.
            np.nan_to_num(logits, copy=False, nan=-math.inf, posinf=1e30, neginf=-math.inf)
        try:
            return self._choose_allowed(logits)
        except NothingLeftError:
            raise EngineFailure("no token can follow: all are forbidden or their logits are no numbers") from None

    def _choose_allowed(self, logits: FloatArray) -> tuple[Candidates, int]:
        """Choose without the grammar first. Mostly the grammar allows the token, and a test of one token is cheap."""
        matcher, thought = self._matcher, self._thought
        if matcher is None:
            return self._picker.choose(Candidates(None, logits, False))
        kept, place = self._picker.choose(Candidates(None, logits, False))
        token = token_at(kept, place)
        if (thought is not None and thought.free(token)) or matcher.allows(token):
            return kept, place
        return self._picker.choose(self._allowed(matcher, logits))

    def _allowed(self, matcher: Matcher, logits: FloatArray) -> Candidates:
        enough = self._picker.enough
        ranked = best(logits, _FEW)
        places = matcher.first_allowed(ranked.tolist(), enough or _FEW)
        likely = ranked[places]
        if 0 < enough == len(places):
            return Candidates(likely, logits[likely].astype(np.float64), True)
        ids = matcher.allowed()
        ids = ids[logits[ids] > -math.inf]
        if ids.shape[0] == 0 and matcher.complete:
            raise AnswerCompleteError
        if ids.shape[0] == 0:
            raise DeadEndError("the grammar allows no token here", field=matcher.field)
        return Candidates(ids, logits[ids], False)

    # ---- probabilities

    def _report(self, kept: Candidates, place: int, logits: FloatArray) -> TokenProbs:
        """The report of `n_probs` candidates. If fewer were kept, the most likely others follow with probability 0."""
        count = min(self._params.n_probs, logits.shape[0])
        try:
            shares = weights(kept)
        except NothingLeftError:  # raw logits with NaN or infinity among them
            kept = kept._replace(logits=np.nan_to_num(kept.logits, nan=-math.inf, posinf=1e30, neginf=-math.inf))
            shares = weights(kept)
        total = float(shares.sum(dtype=np.float64))

        def prob(at: int) -> TokenProb:
            token = token_at(kept, at)
            return TokenProb(token, self._vocab.special_piece(token), float(shares[at]) / total)

        top = [one for at in best(kept.logits, count).tolist() if (one := prob(at)).prob > 0]
        if len(top) < count:
            known = {one.id for one in top}
            others = (token for token in best(logits, count + len(top)).tolist() if token not in known)
            top += [
                TokenProb(token, self._vocab.special_piece(token), 0.0) for token in islice(others, count - len(top))
            ]
        return TokenProbs(prob(place), tuple(top))


class ChainSamplerFactory:
    """Builds samplers for one vocabulary (protocol: SamplerFactory). Thread-safe."""

    def __init__(self, vocab: Vocab, suppressed: Iterable[int] = ()) -> None:
        """Prepare the factory. `suppressed` are tokens that must never be chosen."""
        self._vocab = vocab
        self._suppressed = frozenset(suppressed)
        self._grammars = Grammars(vocab)
        self._breakers = KeptBreakers(vocab)

    def __call__(self, params: SamplingParams, n_ctx: int) -> ChainSampler:
        """Build a sampler. Raises InvalidRequest for values that are out of bounds, Unavailable as Grammars does."""
        check_finite(params)
        bias = make_bias(params, self._vocab, self._suppressed)
        breakers = self._breakers(params.dry_sequence_breakers) if wants_dry(params, n_ctx) else {}
        make_picker(params, self._vocab, make_dry(params, breakers, n_ctx))  # checks the samplers
        return ChainSampler(params, _Shared(self._vocab, n_ctx, bias, breakers, self._grammars(params)))
