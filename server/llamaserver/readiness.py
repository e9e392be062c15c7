"""Whether the server can take requests. The API, the probes and the engine all ask this one function."""

from dataclasses import dataclass
from enum import StrEnum

from .errors import Unavailable


class Phase(StrEnum):
    """Where the server is in its life. The engine's snapshot uses the same words, DRAINING excepted."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Readiness:
    """The phase, and what follows from it.

    `state` is the word of /status: the engine's, or DRAINING. `reason` says why clients should use another server,
    "" when this one is ready. `error` is that of a failure.
    """

    phase: Phase
    state: str
    reason: str
    error: str

    def require(self) -> None:
        """Raise Unavailable unless a request that arrives now gets an answer. A drain still answers requests."""
        if self.phase is Phase.LOADING:
            raise Unavailable("Loading model", retry_after=1)
        if self.phase not in (Phase.READY, Phase.DRAINING):
            raise Unavailable("The model is not available")


def readiness(
    state: str,
    error: str = "",
    *,
    preparing: bool = False,
    draining: bool = False,
    lacks_gpu: bool = False,
    hang: str = "",
) -> Readiness:
    """Decide from the engine's `state` and `error`, and from what the server knows beyond the engine.

    `preparing`: the model is loaded, but its template and system prompt are not checked yet.
    `lacks_gpu`: --require-offload was given and no layer is on a GPU.
    `hang`: what hangs, "" when nothing does.
    """
    phase = Phase(state)
    if phase is Phase.READY and preparing:
        phase = Phase.LOADING
    if draining:
        phase = Phase.DRAINING if phase is Phase.READY else phase
        return Readiness(phase, Phase.DRAINING, "shutting down", error)
    if phase is not Phase.READY:
        return Readiness(phase, state, error or phase.value, error)
    if hang:
        return Readiness(phase, state, hang, error)
    if lacks_gpu:
        return Readiness(phase, state, "no layer is on a GPU (--require-offload)", error)
    return Readiness(phase, state, "", error)
