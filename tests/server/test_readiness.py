"""The one decision whether the server can take requests."""

import pytest
from llamaserver.errors import Unavailable
from llamaserver.readiness import Phase, readiness


@pytest.mark.parametrize(
    ("state", "flags", "phase", "reason"),
    [
        ("loading", {}, Phase.LOADING, "loading"),
        ("ready", {"preparing": True}, Phase.LOADING, "loading"),
        ("ready", {}, Phase.READY, ""),
        ("ready", {"lacks_gpu": True}, Phase.READY, "no layer is on a GPU (--require-offload)"),
        ("ready", {"hang": "it hangs"}, Phase.READY, "it hangs"),
        ("ready", {"draining": True}, Phase.DRAINING, "shutting down"),
        ("ready", {"draining": True, "lacks_gpu": True}, Phase.DRAINING, "shutting down"),
        ("loading", {"draining": True}, Phase.LOADING, "shutting down"),
        ("failed", {"error": "no such file"}, Phase.FAILED, "no such file"),
        ("failed", {"error": "no such file", "draining": True}, Phase.FAILED, "shutting down"),
        ("stopped", {}, Phase.STOPPED, "stopped"),
    ],
)
def test_phase_and_reason(state, flags, phase, reason):
    found = readiness(state, **flags)
    assert (found.phase, found.reason) == (phase, reason)


@pytest.mark.parametrize("flags", [{}, {"draining": True}, {"lacks_gpu": True}])
def test_a_loaded_model_answers_requests(flags):
    readiness("ready", **flags).require()


@pytest.mark.parametrize(("state", "retry_after"), [("loading", 1), ("failed", None), ("stopped", None)])
def test_requests_are_refused_without_a_model(state, retry_after):
    with pytest.raises(Unavailable) as refusal:
        readiness(state).require()
    assert refusal.value.retry_after == retry_after
