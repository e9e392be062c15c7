"""One request from first token to last: limits, ends, what a defect costs, and the caches of idle slots."""

from dataclasses import replace

import pytest
from llamaserver.engine.slot_states import SlotState
from llamaserver.errors import EngineFailure, InvalidRequest, Unavailable
from llamaserver.interfaces.backend import Status
from llamaserver.interfaces.output import Delta, Failed
from llamaserver.interfaces.params import Media
from llamaserver.scheduling.request import Phase

from tests.support.engine.driver import GREEDY, Driver, make, same_as_alone, tokens
from tests.support.engine.toy import VOCAB, Failure, ScriptedSampler, picture_keys
from tests.support.engine.vocab import ListVocab


def ids(*pieces: bytes) -> list[int]:
    """Token ids of these pieces."""
    known = {VOCAB.special_piece(i): i for i in range(VOCAB.n_vocab)}
    return [known[piece] for piece in pieces]


# ---- limits


def test_n_predict_0_evaluates_the_prompt_and_says_nothing() -> None:
    driver = make()
    end = driver.answer(tokens(20), n_predict=0)
    assert (end.content, end.reason, end.n_decoded, end.n_prompt) == ("", "limit", 0, 20)
    assert driver.backend.evaluated == 20
    assert driver.answer(tokens(20), n_predict=1).n_cached == 18


@pytest.mark.parametrize("count", [1, 2, 7])
def test_n_predict_is_the_number_of_tokens(count: int) -> None:
    driver = make()
    end = driver.answer(tokens(20), n_predict=count)
    assert (end.reason, end.n_decoded) == ("limit", count)
    assert driver.backend.evaluated == 20 + count - 1  # the last token is not evaluated


def test_without_n_predict_only_the_model_ends_the_text() -> None:
    driver = make(slot_ctx=48)
    said = ids(b"a", b"bx") * 100
    end = driver.answer(tokens(20), n_predict=-1, sampler=ScriptedSampler(said))
    assert (end.reason, end.n_decoded) == ("eos", 201)
    assert driver.text(next(iter(driver.events))) == "abx" * 100


def test_an_end_of_text_token_shows_nothing_and_is_counted() -> None:
    driver = make()
    end = driver.answer(tokens(5), n_predict=9, sampler=ScriptedSampler(ids(b"a")), return_tokens=True)
    assert (end.reason, end.content, end.n_decoded, end.tokens) == ("eos", "", 2, (0,))


def test_ignoring_the_end_of_text_goes_on_to_the_limit() -> None:
    ended = make(slot_ctx=512).answer(tokens(9), n_predict=400, sampling=replace(GREEDY, ignore_eos=False))
    ignored = make(slot_ctx=512).answer(tokens(9), n_predict=400)
    assert ended.reason == "eos"
    assert ended.n_decoded < ignored.n_decoded == 400


def test_after_max_predict_ms_the_answer_ends_with_its_line() -> None:
    driver = make(slot_ctx=256)
    said = ScriptedSampler(ids(b"a", b"\n", b"b", b"a", b"\n", b"b"))
    request = driver.submit(tokens(5), n_predict=200, max_predict_ms=5000, sampler=said)
    driver.steps(3)
    assert request.phase is Phase.DECODE
    driver.clock.now += 6
    driver.run()
    end = driver.finish(request)
    assert (driver.text(request), end.reason, end.n_decoded, end.has_new_line) == ("a\nba\n", "limit", 5, True)


@pytest.mark.parametrize(
    ("said", "n_indent", "text"),
    [
        ("a\n  b\n ab", 2, "a\n  b\n "),
        ("a\n\n b", 1, "a\n"),  # an empty line has no indentation
        (" b\n ", 1, " b\n "),
        ("a\nb", 0, "a\nb"),
    ],
)
def test_an_answer_ends_where_its_indentation_ends(said: str, n_indent: int, text: str) -> None:
    driver, letters = make(), "ab\n "
    driver.backend.vocab = ListVocab([b"<end>", *(letter.encode() for letter in letters)], eog=[0])
    sampler = ScriptedSampler([1 + letters.index(letter) for letter in said])
    end = driver.answer(tokens(5), n_predict=50, n_indent=n_indent, stop=("bab",), sampler=sampler)
    assert driver.text(next(iter(driver.events))) == text
    assert end.has_new_line


@pytest.mark.parametrize(
    ("pieces", "limit", "text"),
    [
        ([b"a", b"\xc3", b"\xa9", b"b"], 2, "a\xe9"),
        ([b"\xf0\x9f", b"\x98\x80", b"b"], 1, "\U0001f600"),
        ([b"a", b"b"], 1, "a"),
        ([b"\xc3"] * 20, 2, "\ufffd" * 10),  # a character that never ends is not waited for
    ],
)
def test_a_character_is_finished_beyond_the_limit(pieces: list[bytes], limit: int, text: str) -> None:
    driver = make()
    end = driver.answer(tokens(5), n_predict=limit, sampler=ScriptedSampler(ids(*pieces)))
    assert end.reason == "limit"
    assert driver.text(next(iter(driver.events))) == text


# ---- text and tokens


def test_a_stop_string_over_several_tokens_ends_the_text_before_it() -> None:
    driver = make()
    said = ScriptedSampler(ids(b"a ", b"ast", b"op", b"b"))
    request = driver.submit(tokens(5), n_predict=50, stop=("astop",), sampler=said)
    driver.run()
    end = driver.finish(request)
    assert (driver.text(request), end.reason, end.stopping_word, end.n_decoded) == ("a ", "word", "astop", 3)


def test_a_control_token_has_text_only_where_it_is_shown() -> None:
    marks = ids(b"a", b"stop")
    for shown, text in (((), "bb"), (marks, "bstopb"), ((0, *marks), "bstopb")):
        driver = make()
        pieces = [VOCAB.special_piece(token) for token in range(VOCAB.n_vocab)]
        driver.backend.vocab = ListVocab(pieces, eog=[0], special=marks)
        request = driver.submit(
            tokens(5), sampler=ScriptedSampler(ids(b"b", b"stop", b"b")), shown=frozenset(shown), stop=("sto!",)
        )
        driver.run()
        assert (driver.text(request), driver.finish(request).reason) == (text, "eos")


def test_held_back_text_comes_with_the_finish() -> None:
    driver = make()
    said = ScriptedSampler(ids(b"a ", b"ast", b"op"))
    request = driver.submit(tokens(5), n_predict=2, stop=("astop",), sampler=said)
    driver.run()
    assert [event.content for event in driver.events[request]] == ["a ", "ast"]
    assert driver.finish(request).reason == "limit"


def test_every_token_is_reported_once_with_the_text_it_made() -> None:
    driver = make()
    pieces = [b"a", b"\xc3", b"\xa9", b"bst", b"op", b"b ", b"bst"]
    sampler = ScriptedSampler(ids(*pieces))
    request = driver.submit(tokens(5), n_predict=7, stop=("bstxx",), sampler=sampler, return_tokens=True)
    driver.run()
    made = [(event.content, list(event.tokens)) for event in driver.events[request]]
    a, c, t, st, op, b, _ = ids(*pieces)
    assert made == [("a", [a]), ("\xe9", [c, t]), ("bstop", [st, op]), ("b ", [b]), ("bst", [st])]
    assert all(isinstance(event, Delta) for event in driver.events[request][:-1])


def test_probabilities_come_with_their_tokens() -> None:
    driver = make()
    request = driver.submit(tokens(5), n_predict=6, sampling=replace(GREEDY, n_probs=3), return_tokens=True)
    driver.run()
    for event in driver.events[request]:
        assert [probs.chosen.id for probs in event.probs] == list(event.tokens)
        assert all(len(probs.top) == 3 for probs in event.probs)


def test_the_sampler_hears_the_prompt_without_pictures_and_is_closed() -> None:
    driver = make()
    sampler = ScriptedSampler(ids(b"a"))
    keys = [5, *picture_keys(b"cat"), 6, 7]
    driver.answer(keys, media=(Media(1, 3, 3, b"cat"),), sampler=sampler)
    assert sampler.primed == [5, 6, 7]
    assert sampler.closed


def test_an_answer_may_begin_right_after_a_picture() -> None:
    driver = make()
    keys = [5, 6, *picture_keys(b"cat")]
    assert driver.answer(keys, media=(Media(2, 3, 3, b"cat"),), n_predict=9).n_decoded >= 9


def test_timings_count_what_was_evaluated_and_what_was_reused() -> None:
    driver = make()
    driver.answer(tokens(30), n_predict=1)
    timings = driver.answer([*tokens(30), 5, 6], n_predict=4).timings
    assert (timings.prompt_n, timings.cache_n, timings.predicted_n) == (2, 30, 4)
    assert timings.prompt_ms > 0
    assert timings.predicted_ms > 0


# ---- failures


@pytest.mark.parametrize("error", [EngineFailure("no token can follow"), ValueError("a defect")])
def test_a_sampler_that_fails_ends_only_its_own_request(error: Exception) -> None:
    driver = make(n_slots=3)
    bad = ScriptedSampler(ids(b"a", b"b"), error)
    requests = [driver.submit(tokens(9, seed), n_predict=10) for seed in (1, 2)]
    doomed = driver.submit(tokens(9), n_predict=10, sampler=bad)
    driver.run()
    assert isinstance(driver.error(doomed), EngineFailure)
    assert bad.closed
    for seed, request in enumerate(requests, 1):
        assert same_as_alone(driver, request, tokens(9, seed))
    assert driver.answer(tokens(9), n_predict=3).n_decoded == 3


def test_after_a_defect_each_request_fails_once_and_the_cache_is_cleared() -> None:
    driver = make(n_slots=2, n_ctx=128, unified=True)
    requests = [driver.submit(tokens(9, seed), n_predict=10) for seed in range(4)]
    driver.steps(3)
    driver.core.scheduler.failed(driver.works[-1])  # what the defect interrupted
    driver.core.fail_all(EngineFailure("defect"))
    driver.step()
    for request in requests:
        assert [type(event) for event in driver.events[request] if not isinstance(event, Delta)] == [Failed]
    assert driver.backend.cells_used == 0
    driver.check_idle()
    assert driver.answer(tokens(9), n_predict=3).n_cached == 0


# ---- the caches of idle slots


def saved(driver: Driver, index: int = 0) -> tuple[tuple[int, ...], bytes]:
    state = driver.core.slot_states.save(driver.core.residents.slots[index])
    return state.tokens, state.data


def restore(driver: Driver, index: int, state: tuple[tuple[int, ...], bytes]) -> int:
    return driver.core.slot_states.restore(driver.core.residents.slots[index], SlotState(*state, ()))


@pytest.mark.parametrize("unified", [False, True])
def test_a_saved_cache_is_as_good_in_another_slot_and_server(unified: bool) -> None:
    driver = make(n_slots=2, n_ctx=128, unified=unified)
    driver.answer(tokens(40), n_predict=3, id_slot=0)
    state = saved(driver)
    assert state[0][:40] == tuple(tokens(40))
    assert len(state[0]) == 42
    other = make(n_slots=2, n_ctx=128, unified=unified)
    assert restore(other, 1, state) == 42
    other.check()
    request = other.submit(tokens(40), n_predict=8)
    other.run()
    assert (other.finish(request).n_cached, other.finish(request).id_slot) == (38, 1)
    assert same_as_alone(other, request, tokens(40))


def test_an_erased_slot_holds_nothing() -> None:
    driver = make()
    driver.answer(tokens(40), n_predict=3)
    slot = driver.core.residents.slots[0]
    assert driver.core.slot_states.erase(slot) == 42
    assert driver.core.slot_states.erase(slot) == 0
    assert driver.core.slot_states.erase(driver.core.residents.slots[1]) == 0
    assert driver.backend.cells_used == 0
    assert driver.answer(tokens(40), n_predict=3).n_cached == 0
    driver.check()


def test_an_empty_slot_is_saved_and_restored_as_nothing() -> None:
    driver = make()
    assert saved(driver) == ((), b"")
    driver.answer(tokens(10))
    assert restore(driver, 0, ((), b"")) == 0
    assert driver.backend.cells_used == 0


def test_a_state_that_does_not_fit_is_refused_and_leaves_the_slot_empty() -> None:
    driver = make(slot_ctx=64)
    driver.answer(tokens(20), n_predict=1)
    tokens_, data = saved(driver)
    for bad in ((tuple(tokens(65)), data), (tokens_, b"junk"), (tokens_[:-1], data), (tokens_, data[:-24])):
        with pytest.raises(InvalidRequest):
            restore(driver, 1, bad)
        driver.check()
    assert restore(driver, 1, (tokens_, data)) == 20


def test_a_picture_cannot_be_saved() -> None:
    driver = make()
    driver.answer([*picture_keys(b"cat"), 5, 6], media=(Media(0, 3, 3, b"cat"),))
    with pytest.raises(InvalidRequest):
        saved(driver)


def test_restoring_drops_cached_sequences_from_a_full_cache() -> None:
    driver = make(n_slots=2, slot_ctx=64, unified=True, spare=4)
    driver.answer(tokens(50), n_predict=1, id_slot=0)
    state = saved(driver)
    driver.answer(tokens(40, 1), n_predict=1, id_slot=0)
    assert restore(driver, 1, state) == 50
    driver.check()
    assert driver.answer(tokens(50), n_predict=1).n_cached == 48


def test_a_restore_without_free_cells_is_refused() -> None:
    driver = make(n_slots=2, slot_ctx=64, unified=True, spare=4)
    driver.answer(tokens(50), n_predict=1, id_slot=0)
    state = saved(driver)
    running = driver.submit(tokens(30, 1), n_predict=10, id_slot=0)
    driver.steps(4)
    with pytest.raises(Unavailable):
        restore(driver, 1, state)
    driver.run()
    assert same_as_alone(driver, running, tokens(30, 1))


def with_pending_copy(recurrent: bool = False, slots: int = 2) -> tuple[Driver, list[int]]:
    """A split cache where slot 1 is a copy of slot 0 that no decode has carried out yet."""
    driver = make(n_slots=slots, slot_ctx=64, backend={"partial_reuse": not recurrent})
    driver.answer(tokens(40), n_predict=1, id_slot=0)
    prompt = [*tokens(40), *tokens(4, 1)]
    copy = driver.submit(prompt, n_predict=1, id_slot=1)
    driver.backend.failures[len(driver.backend.history)] = Failure(Status.ABORTED)
    driver.step()
    driver.core.cancel(copy)
    assert driver.core.residents.unsettled
    return driver, prompt


def test_a_pending_copy_is_carried_out_before_a_state_is_read() -> None:
    driver, prompt = with_pending_copy()
    state = saved(driver, 1)  # the backend asserts that nothing is pending
    driver.check()
    other = make()
    restore(other, 0, state)
    request = other.submit(prompt)
    other.run()
    assert request.n_cached == 40
    assert same_as_alone(other, request, prompt)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("recurrent", [False, True])
def test_a_pending_copy_is_carried_out_before_a_state_is_written(index: int, recurrent: bool) -> None:
    driver, prompt = with_pending_copy(recurrent)
    source = make()
    source.answer(tokens(20, 2), n_predict=1)
    assert restore(driver, index, saved(source)) == 20
    driver.check()
    for keys in (prompt, [*tokens(20, 2), 3, 4]):
        request = driver.submit(keys)
        driver.run()
        assert same_as_alone(driver, request, keys)


def test_a_recurrent_state_is_not_spoiled_to_carry_out_a_copy() -> None:
    """A row cannot be taken back from a recurrent state: an empty slot has to serve, or the call fails."""
    driver, prompt = with_pending_copy(recurrent=True, slots=3)
    assert saved(driver, 0)[0] == tuple(tokens(40))
    driver.check()
    request = driver.submit(prompt)
    driver.run()
    assert same_as_alone(driver, request, prompt)
    driver, _ = with_pending_copy(recurrent=True)
    driver.check()
    driver.submit(tokens(9, 2), n_predict=1, id_slot=1)
    driver.backend.failures[len(driver.backend.history)] = Failure(Status.ABORTED)
    driver.step()
    with pytest.raises(Unavailable):
        saved(driver, 0)
    driver.run()
    driver.check_idle()
