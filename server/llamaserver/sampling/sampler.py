"""The sampling of one request: from a row of logits to a token. Holds the state between tokens.

The logit bias comes first, then the penalties. Then a temperature <= 0 chooses the best token, or mirostat
replaces the chain, or the requested samplers run in their order. Pure numpy. Another thread makes the sampler.
Then only the engine thread uses it.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from itertools import islice
from threading import Lock

import numpy as np

from ..errors import EngineFailure, InvalidRequest
from ..grammar import gbnf
from ..grammar.matcher import GrammarMatcher, TooCostlyError
from ..grammar.vocabulary import PieceIndex, token_named
from ..interfaces.backend import FloatArray, Vocab
from ..interfaces.output import TokenProb, TokenProbs
from ..interfaces.params import SamplingParams
from .build import build_steps, check_finite, window
from .chain import COLDEST, Candidates, NothingLeftError, best, temperature, token_at, weights
from .dry import Breakers, Dry, DryParams, find_breakers
from .mersenne import Twister
from .mirostat import MirostatOne, MirostatTwo
from .penalties import Penalties
from .pickers import Bias, Chain, Greedy, MirostatPicker, Picker

_FEW = 256  # candidates that are tested one by one against a grammar, before the whole vocabulary is tested
_MOST_BREAKERS = 64
_BREAKER = 40  # characters
_MOST_GRAMMARS = 16  # texts of grammars that are kept compiled
_MOST_REMEMBERED = 256  # breakers whose tokens are kept in memory


class ChainSampler:
    """One request's sampler (protocol: interfaces/backend.py)."""

    def __init__(
        self,
        params: SamplingParams,
        vocab: Vocab,
        picker: Picker,
        *,
        bias: Bias | None = None,
        penalties: Penalties | None = None,
        dry: Dry | None = None,
        matcher: GrammarMatcher | None = None,
    ) -> None:
        self._params = params
        self._vocab = vocab
        self._picker = picker
        self._bias = bias
        self._penalties = penalties
        self._spared = vocab.nl if penalties is not None and not params.penalize_nl else -1
        self._dry = dry
        self._matcher = matcher

    def prime(self, prompt: Sequence[int]) -> None:
        """Fill the penalty windows with the prompt, or with `penalty_prompt`."""
        if self._penalties is not None:
            stand_in = self._params.penalty_prompt
            self._penalties.extend(prompt if stand_in is None else stand_in)
        if self._dry is not None:
            self._dry.extend(prompt)

    def sample(self, logits: FloatArray) -> tuple[int, TokenProbs | None]:
        """Choose a token and add it to the state. Raises EngineFailure when none is allowed."""
        n_probs = self._params.n_probs
        raw = logits.copy() if n_probs and not self._params.post_sampling_probs else None
        self._adjust(logits)
        kept, place = self._choose(logits)
        token = token_at(kept, place)
        self._accept(token)
        if not n_probs:
            return token, None
        if raw is not None:
            kept, place = Candidates(None, raw, False), token
        return token, self._report(kept, place, logits)

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
        if self._matcher is not None:
            self._matcher.accept(token)

    # ---- choosing

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
        matcher = self._matcher
        if matcher is None:
            return self._picker.choose(Candidates(None, logits, False))
        matcher.begin()
        kept, place = self._picker.choose(Candidates(None, logits, False))
        if matcher.allows(token_at(kept, place)):
            return kept, place
        return self._picker.choose(self._allowed(matcher, logits))

    def _allowed(self, matcher: GrammarMatcher, logits: FloatArray) -> Candidates:
        enough = self._picker.enough
        ranked = best(logits, _FEW)
        places = matcher.first_allowed(ranked.tolist(), enough or _FEW)
        likely = ranked[places]
        if 0 < enough == len(places):
            return Candidates(likely, logits[likely].astype(np.float64), True)
        try:
            ids = matcher.allowed()
        except TooCostlyError:
            if not places:
                raise
            ids = likely  # only the most likely of the allowed tokens
        ids = ids[logits[ids] > -math.inf]
        if ids.shape[0] == 0:
            raise EngineFailure("the grammar allows no token here", field="grammar")
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
        self._lock = Lock()
        self._index: PieceIndex | None = None
        self._breakers: dict[str, Breakers] = {}
        self._compile = lru_cache(_MOST_GRAMMARS)(partial(gbnf.parse, token_id=partial(token_named, vocab)))

    def __call__(self, params: SamplingParams, n_ctx: int) -> ChainSampler:
        """Build a sampler. Raises InvalidRequest for values that are out of bounds."""
        check_finite(params)
        dry = self._dry(params, n_ctx)
        return ChainSampler(
            params,
            self._vocab,
            self._picker(params, dry),
            bias=self._bias(params),
            penalties=self._penalties(params, n_ctx),
            dry=dry,
            matcher=self._matcher(params),
        )

    def _picker(self, params: SamplingParams, dry: Dry | None) -> Picker:
        if params.temperature <= COLDEST:
            return Greedy()
        random = Twister(params.seed)
        if not params.mirostat:
            steps, enough = build_steps(params, self._vocab.n_vocab, dry)
            return Chain(steps, enough, random)
        tau, eta = params.mirostat_tau, params.mirostat_eta
        one = params.mirostat == 1
        mirostat = MirostatOne(tau, eta, random, self._vocab.n_vocab) if one else MirostatTwo(tau, eta, random)
        return MirostatPicker(temperature(params.temperature), mirostat)

    def _bias(self, params: SamplingParams) -> Bias | None:
        addends: dict[int, float] = {}
        banned = set(self._suppressed)
        if params.ignore_eos:
            banned |= self._vocab.eog
        for token, value in params.logit_bias:
            if not 0 <= token < self._vocab.n_vocab:
                raise InvalidRequest(f"logit_bias: token {token} is not in the vocabulary", field="logit_bias")
            if value == -math.inf:
                banned.add(token)
            else:
                addends[token] = addends.get(token, 0.0) + value
        return Bias(addends, banned) if addends or banned else None

    def _penalties(self, params: SamplingParams, n_ctx: int) -> Penalties | None:
        last_n = window(params.repeat_last_n, n_ctx)
        repeat, frequency, presence = params.repeat_penalty, params.frequency_penalty, params.presence_penalty
        if last_n == 0 or (repeat == 1.0 and frequency == 0.0 and presence == 0.0):
            return None
        return Penalties(self._vocab.n_vocab, last_n, repeat, frequency, presence)

    def _dry(self, params: SamplingParams, n_ctx: int) -> Dry | None:
        last_n = window(params.dry_penalty_last_n, n_ctx)
        if "dry" not in params.samplers or params.dry_multiplier == 0.0 or params.dry_base < 1.0 or last_n == 0:
            return None
        texts = params.dry_sequence_breakers
        if len(texts) > _MOST_BREAKERS:
            raise InvalidRequest(f"at most {_MOST_BREAKERS} sequence breakers", field="dry_sequence_breakers")
        values = DryParams(params.dry_multiplier, params.dry_base, params.dry_allowed_length, last_n)
        return Dry(values, [self._find_breakers(text) for text in texts])

    def _find_breakers(self, text: str) -> Breakers:
        text = text[:_BREAKER]  # this text is the key of the cache
        found = self._breakers.get(text)
        if found is None:
            found = find_breakers(self._vocab, text)
            with self._lock:
                if len(self._breakers) >= _MOST_REMEMBERED:
                    self._breakers.clear()
                self._breakers[text] = found
        return found

    def _matcher(self, params: SamplingParams) -> GrammarMatcher | None:
        if not params.grammar:
            return None
        try:
            return GrammarMatcher(params.rules or self._compile(params.grammar), self._pieces())
        except gbnf.GrammarError as error:
            reason = str(error)
        except EngineFailure as error:
            reason = error.message
        raise InvalidRequest("Failed to parse grammar", field="grammar", reason=reason)

    def _pieces(self) -> PieceIndex:
        with self._lock:
            if self._index is None:
                self._index = PieceIndex(self._vocab)
            return self._index
