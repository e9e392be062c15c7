"""Whose request it is, and whom cached prompts may serve, as the scheduler and the KV store see it."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    """The API key of a request, by its name, and the domain in which cached prompts may be reused."""

    key: str = ""  # "" on a server without keys
    domain: bytes = b""  # b"": the domain that all requests share
    most_running: int = 0  # requests of the key that may have a slot at the same time. 0: no limit


COMMON = Tenant()


@dataclass(frozen=True, slots=True)
class Scope:
    """Whom the keys of a sequence serve: requests of one domain. The first `common` keys serve all domains.

    These are keys of the server's own system prompt. So a request learns nothing about the prompts of other
    domains from the number of its cached tokens.
    """

    domain: bytes = b""
    common: int = 0

    def shared(self, other: "Scope") -> int:
        """The most leading keys that sequences of these two scopes may have from each other."""
        return sys.maxsize if self.domain == other.domain else min(self.common, other.common)


ALL = Scope()
