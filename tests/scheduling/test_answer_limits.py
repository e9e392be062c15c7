"""Where an answer ends that asks for no limit, or for a large one."""

from dataclasses import replace

import pytest
from llamaserver.config import Config
from llamaserver.engine_options import engine_settings
from llamaserver.errors import ContextExceeded
from llamaserver.interfaces.params import GenerationParams, Prompt
from llamaserver.scheduling.intake import Request, make_task

from tests.support.engine.toy import ToyBackend

SLOT = 64
SETTINGS = engine_settings(Config(ctx_size=SLOT, parallel=1, kv_unified=False))
BOUNDED = replace(SETTINGS, unlimited_answers=False)


def limit(settings=SETTINGS, *, prompt=10, wanted=-1, **fields) -> int:
    backend = ToyBackend()
    request = Request(Prompt.of([1] * prompt), GenerationParams(n_predict=wanted), **fields)
    return make_task(request, 1, settings, backend.info, backend.vocab, scales=()).n_predict


def test_the_document_has_no_limit() -> None:
    assert limit() == -1
    assert limit(wanted=100_000) == 100_000
    assert limit(replace(SETTINGS, n_predict=20)) == 20


@pytest.mark.parametrize("fields", [{"settings": BOUNDED}, {"ends_with_slot": True}])
def test_an_answer_without_a_limit_ends_with_its_slot(fields) -> None:
    assert limit(**fields) == SLOT - 10
    assert limit(wanted=5, **fields) == 5


def test_a_prompt_that_was_cut_leaves_room_for_a_quarter_of_the_slot() -> None:
    assert limit(BOUNDED, prompt=3 * SLOT) == SLOT // 4


def test_a_prompt_that_may_not_be_cut_is_refused() -> None:
    with pytest.raises(ContextExceeded) as caught:
        limit(prompt=SLOT, ends_with_slot=True)
    assert caught.value.body()["error"] == {
        "code": "context_length_exceeded",
        "message": "request (64 tokens) exceeds the available context size (64 tokens), try increasing it",
        "type": "exceed_context_size_error",
        "param": "prompt",
        "n_prompt_tokens": SLOT,
        "n_ctx": SLOT,
    }


def test_no_answer_is_longer_than_its_slot_if_answers_are_bounded() -> None:
    assert limit(BOUNDED, wanted=100_000) == SLOT
    assert limit(wanted=100_000, ends_with_slot=True) == SLOT - 10


def test_answers_in_one_piece_end_at_some_time() -> None:
    assert limit(most_tokens=500) == 500
    assert limit(most_tokens=500, wanted=100) == 100
    assert limit(BOUNDED, most_tokens=500) == SLOT - 10
    assert limit(wanted=0, most_tokens=500) == 0
