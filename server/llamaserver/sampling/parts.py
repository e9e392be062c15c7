"""The parts of a sampler, made from the parameters of a request. Checks what build.py does not check."""

import math
from collections import OrderedDict
from threading import Lock

from ..errors import InvalidRequest
from ..interfaces.backend import Vocab
from ..interfaces.params import SamplingParams
from .adaptive import Adaptive
from .build import build_steps, window
from .chain import COLDEST, temperature
from .dry import Breakers, Dry, DryParams, find_breakers, merged
from .mersenne import Twister
from .mirostat import MirostatOne, MirostatTwo
from .penalties import Penalties
from .pickers import Bias, Chain, Greedy, MirostatPicker, Picker

_MOST_BREAKERS = 64
_BREAKER = 40  # characters
_MOST_TOKENS = 500_000  # of all remembered breakers together. A token takes up to 100 bytes


def make_picker(params: SamplingParams, vocab: Vocab, dry: Dry | None) -> Picker:
    """The last step of sampling. Raises InvalidRequest for samplers that do not exist."""
    if params.temperature <= COLDEST:
        return Greedy()
    random = Twister(params.seed)
    if not params.mirostat:
        steps, enough = build_steps(params, vocab, dry)
        if "adaptive_p" in params.samplers:
            return Adaptive(steps, enough, random, target=params.adaptive_target, decay=params.adaptive_decay)
        return Chain(steps, enough, random)
    tau, eta = params.mirostat_tau, params.mirostat_eta
    mirostat = MirostatOne(tau, eta, random, vocab.n_vocab) if params.mirostat == 1 else MirostatTwo(tau, eta, random)
    return MirostatPicker(temperature(params.temperature), mirostat)


def make_bias(params: SamplingParams, vocab: Vocab, suppressed: frozenset[int]) -> Bias | None:
    """The addends of `logit_bias`, and the tokens that must not be chosen. Raises InvalidRequest."""
    addends: dict[int, float] = {}
    banned = set(suppressed)
    if params.ignore_eos:
        banned |= vocab.eog
    for token, value in params.logit_bias:
        if not 0 <= token < vocab.n_vocab:
            raise InvalidRequest(f"logit_bias: token {token} is not in the vocabulary", field="logit_bias")
        if value == -math.inf:
            banned.add(token)
        else:
            addends[token] = addends.get(token, 0.0) + value
    return Bias(addends, banned) if addends or banned else None


def make_penalties(params: SamplingParams, n_vocab: int, n_ctx: int) -> Penalties | None:
    """The penalties for tokens that are in the text already, None if they have no effect."""
    last_n = window(params.repeat_last_n, n_ctx)
    repeat, frequency, presence = params.repeat_penalty, params.frequency_penalty, params.presence_penalty
    if last_n == 0 or (repeat == 1.0 and frequency == 0.0 and presence == 0.0):
        return None
    return Penalties(n_vocab, last_n, repeat, frequency, presence)


def wants_dry(params: SamplingParams, n_ctx: int) -> bool:
    """Whether the DRY penalty has an effect."""
    on = "dry" in params.samplers and params.dry_multiplier != 0.0 and params.dry_base >= 1.0
    return on and window(params.dry_penalty_last_n, n_ctx) > 0


def make_dry(params: SamplingParams, breakers: Breakers, n_ctx: int) -> Dry | None:
    """The DRY penalty, None if it has no effect."""
    if not wants_dry(params, n_ctx):
        return None
    last_n = window(params.dry_penalty_last_n, n_ctx)
    return Dry(DryParams(params.dry_multiplier, params.dry_base, params.dry_allowed_length, last_n), breakers)


class KeptBreakers:
    """The tokens of sequence breakers: those that were used last. Thread-safe."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._found: OrderedDict[tuple[str, ...], Breakers] = OrderedDict()
        self._lock = Lock()

    def __call__(self, texts: tuple[str, ...]) -> Breakers:
        """The breakers of these texts together. Nobody may change them. Raises InvalidRequest for too many."""
        if len(texts) > _MOST_BREAKERS:
            raise InvalidRequest(f"at most {_MOST_BREAKERS} sequence breakers", field="dry_sequence_breakers")
        key = tuple(text[:_BREAKER] for text in texts)
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        breakers = merged(find_breakers(self._vocab, text) for text in key)  # not under the lock: it takes long
        with self._lock:
            self._found[key] = breakers
            while len(self._found) > 1 and sum(map(len, self._found.values())) > _MOST_TOKENS:
                self._found.popitem(last=False)
        return breakers
