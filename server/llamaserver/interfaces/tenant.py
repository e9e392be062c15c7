"""Whose request it is, as the scheduler and the KV store see it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    """The API key of a request, by its name, and the domain in which cached prompts may be reused."""

    key: str = ""  # "" on a server without keys
    domain: bytes = b""  # b"": the domain that all requests share
    most_running: int = 0  # requests of the key that may have a slot at the same time. 0: no limit


COMMON = Tenant()
