"""What is known of each request after its end, for the access log, and the sums for the metrics."""

from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web

_MOST_NAMES = 100  # of API keys in the metrics; the others are counted together
OTHERS = "(others)"
NOBODY = "(none)"  # a request without a valid key


@dataclass(slots=True)
class Record:
    """One request."""

    id: str  # of X-Request-Id
    prompt: int = 0  # tokens of its prompts
    evaluated: int = 0  # tokens of its prompts that were not in the cache
    generated: int = 0  # tokens of its answers
    first_token: float | None = None  # seconds from its arrival


RECORD = web.RequestKey("record", Record)  # set by the middleware `access_log`


@dataclass(slots=True)
class Traffic:
    """Sums over all requests since the start. The keys are names of API keys, and status classes such as 2xx."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    evaluated: Counter[tuple[str]] = field(default_factory=Counter)
    generated: Counter[tuple[str]] = field(default_factory=Counter)
    weakened: Counter[tuple[str]] = field(default_factory=Counter)  # by keyword of JSON schemas
    unauthorized: int = 0  # requests with no key, or a wrong one, where one is needed
    _names: set[str] = field(default_factory=set)

    def add(self, name: str, status: int, record: Record) -> None:
        """A request of the API key of this name has ended."""
        name = self._label(name)
        self.requests[name, f"{status // 100}xx"] += 1
        if record.prompt:
            self.evaluated[(name,)] += record.evaluated
            self.generated[(name,)] += record.generated

    def _label(self, name: str) -> str:
        if len(self._names) < _MOST_NAMES:
            self._names.add(name)
        return (name or NOBODY) if name in self._names else OTHERS
