"""Cache domains: what a request costs and is told depends on no prompt of another domain, but the system prompt."""

from array import array
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.interfaces.keys import common_prefix
from llamaserver.interfaces.tenant import Scope, Tenant
from llamaserver.scheduling.admission import WORTH_WAITING

from tests.support.engine.driver import make, tokens

LAYOUTS = pytest.mark.parametrize("unified", [False, True], ids=["split", "unified"])
SYSTEM, SECRET = tokens(20, 5), tokens(30, 1)
ALICE, MALLORY = Tenant("alice", b"alice"), Tenant("mallory", b"mallory")


@dataclass(frozen=True)
class Ask:
    """A request of one domain: the system prompt, the first `known` tokens of Alice's secret, and others."""

    tenant: Tenant
    known: int
    more: int
    system: bool
    id_slot: int
    n_predict: int


ASKS = st.lists(
    st.builds(
        Ask,
        tenant=st.sampled_from([ALICE, MALLORY]),
        known=st.integers(0, 30),
        more=st.integers(1, 12),
        system=st.booleans(),
        id_slot=st.integers(-1, 1),
        n_predict=st.sampled_from([1, 3, 40]),
    ),
    min_size=2,
    max_size=8,
)


@LAYOUTS
@settings(deadline=None, max_examples=50)
@given(asks=ASKS)
def test_a_domain_reuses_its_own_prompts_and_the_system_prompt_alone(unified: bool, asks: list[Ask]) -> None:
    """Though all prompts begin with the same tokens, and though answers shift the context."""
    driver = make(unified=unified, n_ctx=192)
    for number, ask in enumerate(asks):
        begin = SYSTEM if ask.system else []
        prompt = [*begin, *SECRET[: ask.known], *tokens(ask.more, 6 + number % 3)]
        own = [array("q", one.keys) for one in driver.core.residents if one.scope.domain == ask.tenant.domain]
        fields = {"id_slot": ask.id_slot, "n_predict": ask.n_predict}
        request = driver.submit(prompt, tenant=ask.tenant, system=begin, **fields)
        driver.run()
        limit = max((common_prefix(keys, request.task.keys) for keys in own), default=0)
        assert request.n_cached <= max(limit, len(begin))


@LAYOUTS
def test_the_own_prompt_is_reused_and_the_system_prompt_is_reused_by_all(unified: bool) -> None:
    driver = make(n_slots=3, n_ctx=512, unified=unified)
    prompt = [*SYSTEM, *tokens(20, 1)]
    assert driver.answer(prompt, tenant=ALICE, system=SYSTEM, n_predict=1).n_cached == 0
    assert driver.answer(prompt, tenant=MALLORY, system=SYSTEM, n_predict=1).n_cached == len(SYSTEM)
    assert driver.answer(prompt, tenant=ALICE, system=SYSTEM, n_predict=1).n_cached == len(prompt) - 2
    assert driver.answer(prompt, tenant=MALLORY, system=SYSTEM, n_predict=1).n_cached == len(prompt) - 2


@LAYOUTS
@pytest.mark.parametrize("id_slot", [-1, 0, 1])
def test_naming_a_slot_gives_nothing_of_its_prompt(unified: bool, id_slot: int) -> None:
    driver = make(n_ctx=256, unified=unified)
    prompt = tokens(40, 1)
    assert driver.answer(prompt, tenant=ALICE, id_slot=0, n_predict=1).n_cached == 0
    assert driver.answer(prompt, tenant=MALLORY, id_slot=id_slot, n_predict=1).n_cached == 0


@LAYOUTS
def test_nobody_waits_for_the_prompt_of_another_domain(unified: bool) -> None:
    driver = make(n_slots=2, slot_ctx=256, n_ctx=512, unified=unified, prompt_budget=8)
    prompt = tokens(100 + WORTH_WAITING, 1)
    driver.submit(tokens(9, 3), tenant=Tenant("third", b"third"), n_predict=60)
    driver.step()
    same = [driver.submit(prompt, tenant=tenant, n_predict=1) for tenant in (ALICE, MALLORY)]
    driver.run()
    assert [request.n_cached for request in same] == [0, 0]


def test_a_prompt_that_lost_a_part_of_the_system_prompt_gives_others_what_is_left_of_it() -> None:
    """A context shift puts other tokens into its place."""
    driver = make(n_slots=2)
    alice = driver.submit([*SYSTEM, *tokens(30, 1)], tenant=ALICE, system=SYSTEM, n_predict=30, n_keep=8)
    driver.run()
    assert driver.finish(alice).truncated
    resident = next(resident for resident in driver.core.residents if resident.keys)
    for prompt in ([*SYSTEM, *tokens(30, 1)], list(resident.keys)):
        finish = driver.answer(prompt, tenant=MALLORY, system=SYSTEM, n_predict=1, id_slot=1, cache_prompt=True)
        assert finish.n_cached <= common_prefix(resident.keys, driver.core.residents.slots[1].resident.keys)
        assert finish.n_cached <= 8


@given(st.binary(max_size=2), st.integers(0, 9), st.binary(max_size=2), st.integers(0, 9))
def test_two_domains_share_the_shorter_of_their_common_parts(one: bytes, left: int, two: bytes, right: int) -> None:
    shared = Scope(one, left).shared(Scope(two, right))
    assert shared == Scope(two, right).shared(Scope(one, left))
    assert shared == min(left, right) if one != two else shared > 1 << 32
