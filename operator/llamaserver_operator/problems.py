"""Problem: a reason why the spec, or a part of it, cannot be carried out."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason for Accepted=False. With a blocking problem, the operator changes nothing in the cluster."""

    reason: str
    message: str
    blocking: bool = True
