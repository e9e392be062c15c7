"""The limits of API keys: how many answers they may wait for, and how many tokens a minute may cost.

The tokens of a key are a token bucket that holds what one minute may cost, and fills at that rate. A request costs
the tokens of its prompt that are not in the cache, and the tokens of its answer. The prompt is paid at the start, the
rest at the end, so that a bucket can be overdrawn: the key then waits until it has tokens again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from ..errors import InvalidRequest, RateLimited
from .key_file import Key

_MINUTE = 60.0


@dataclass(slots=True)
class _Account:
    """What one tenant uses."""

    answers: int = 0  # that are computed or wait
    spent: float = 0.0  # tokens that the bucket lacks. More than it holds: overdrawn
    at: float = 0.0  # when `spent` was true


class Limits:
    """The accounts of all tenants. Their limits come with each request, so that they can change at any time."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._accounts: dict[str, _Account] = {}
        self._clock = clock

    def check(self, key: Key, n_slots: int, answers: int = 1) -> None:
        """Raise RateLimited if the key may not send a request with so many answers now, InvalidRequest if never."""
        account, queued = self._account(key), key.limits.queued
        if queued is not None:
            running = min(n_slots, key.limits.requests or n_slots)
            if answers > running + queued:
                text = f"{answers} answers to one request: this API key may have {running} running and {queued} queued"
                raise InvalidRequest(text)
            if account.answers + answers > running + queued:
                text = (
                    f"this API key has {account.answers} answers running or waiting already, "
                    f"and may have {running + queued}"
                )
                raise RateLimited(text, retry_after=1)
        rate = key.limits.tokens_per_minute
        if rate is not None and account.spent >= rate:
            wait = math.ceil((account.spent - rate + 1) / rate * _MINUTE)
            raise RateLimited(f"this API key has used its {rate} tokens per minute", retry_after=wait)

    def begin(self, key: Key, n_prompt: int) -> None:
        """Count an answer to a prompt of `n_prompt` tokens. The request has been checked."""
        account = self._account(key)
        account.answers += 1
        account.spent += n_prompt
        self._accounts[key.identity] = account

    def end(self, key: Key, n_prompt: int, used: int) -> None:
        """The answer that began with `n_prompt` tokens has ended and has used this many."""
        account = self._account(key)
        account.answers -= 1
        account.spent = max(0.0, account.spent + used - n_prompt)
        if not account.answers and not account.spent:
            del self._accounts[key.identity]

    def _account(self, key: Key) -> _Account:
        """The account as it is now."""
        now = self._clock()
        account = self._accounts.get(key.identity) or _Account(at=now)
        rate = key.limits.tokens_per_minute
        filled = math.inf if rate is None else (now - account.at) * rate / _MINUTE
        account.spent, account.at = max(0.0, account.spent - filled), now
        return account
