"""Each request has a price, which is known before any work is done for it."""

import gc
import tracemalloc

import pytest
from llamaserver.api.fields import Fields
from llamaserver.api.pricing import check_echo, check_price
from llamaserver.errors import InvalidRequest, Unavailable
from llamaserver.grammar import compiler
from llamaserver.interfaces.declare import size
from llamaserver.interfaces.params import GENERATION_PARAMETERS, SAMPLING_PARAMETERS, SamplingParams
from llamaserver.sampling.sampler import ChainSamplerFactory

from tests.support.engine.vocab import numbered

PRICED = [item for item in (*GENERATION_PARAMETERS, *SAMPLING_PARAMETERS) if item.budget]
AMBIGUOUS = 'root ::= [ab]{0,2000} [abc]{0,2000} "x"'


def value_of_size(item, count):
    """A value of a field that costs exactly this much."""
    return count if item.kind is int else "x" * count


@pytest.mark.parametrize("item", PRICED, ids=lambda item: item.attribute)
def test_a_product_over_the_bound_is_named_with_its_factors(item):
    value = value_of_size(item, item.budget.most // 4)
    fields = Fields({item.names[-1]: value})
    check_price(fields, prompts=4)
    check_price(fields, prompts=2, choices=2)
    with pytest.raises(InvalidRequest) as refusal:
        check_price(fields, prompts=5)
    assert refusal.value.field == item.names[-1]
    assert f"{item.budget.most // 4} {item.budget.unit} x 5 prompts is more than {item.budget.most}" in str(
        refusal.value
    )
    with pytest.raises(InvalidRequest, match="x 2 prompts x 3 choices is more than"):
        check_price(fields, prompts=2, choices=3)


def test_every_field_that_holds_a_list_or_a_text_has_a_bound():
    unbounded = {item.attribute for item in (*GENERATION_PARAMETERS, *SAMPLING_PARAMETERS) if not item.budget}
    scalars = {
        item.attribute for item in (*GENERATION_PARAMETERS, *SAMPLING_PARAMETERS) if item.kind in (int, float, bool)
    }
    assert unbounded <= scalars


@pytest.mark.parametrize("name", ["json_schema", "response_fields"])
def test_fields_that_the_engine_does_not_see_have_a_price_too(name):
    value = {"enum": ["x" * 10_000] * 7} if name == "json_schema" else ["x" * 10_000] * 6
    check_price(Fields({name: value}), prompts=1)
    with pytest.raises(InvalidRequest, match="x 256 prompts is more than"):
        check_price(Fields({name: value}), prompts=256)


def test_counting_ends_soon_after_the_bound():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert size(deep, 50) == 51
    assert size(["x" * 10, {"name": [1, 2.5, None]}], 1000) == 1 + 11 + 1 + 4 + 1 + 3


def test_repeated_prompts_are_bounded():
    check_echo(["x" * 1000] * 10, 128)
    with pytest.raises(InvalidRequest, match="1000000 characters of all prompts x 128 choices is more than 4194304"):
        check_echo(["x" * 1_000_000], 128)


def test_what_waits_takes_little_memory():
    """The samplers of 256 answers: one grammar, and no state before the first token."""
    factory = ChainSamplerFactory(numbered(1000))
    params = SamplingParams(grammar=AMBIGUOUS, logit_bias=tuple((token, 1.0) for token in range(1000)))
    one = factory(params, 4096)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        waiting = [one.fresh(seed) for seed in range(256)]
        other = factory(params, 4096)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(waiting) == 256
    assert other._shared.matcher is one._shared.matcher
    assert grown < 1 << 20


def test_grammars_in_use_are_bounded(monkeypatch):
    monkeypatch.setattr(compiler, "MOST_IN_USE", 40_000)
    monkeypatch.setattr(compiler, "_MOST_KEPT", 0)
    factory = ChainSamplerFactory(numbered(64))

    def start(number):
        return factory(SamplingParams(grammar=f'{AMBIGUOUS} "{number}"'), 512)

    used = []
    with pytest.raises(Unavailable) as refusal:
        used.extend(start(number) for number in range(10))
    while len(used) < 10:
        try:
            used.append(start(len(used)))
        except Unavailable:
            break
    assert refusal.value.retry_after == 1
    del used
    assert start(11) is not None
