"""Seeds of any size, in the 32 bits that there are."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamaserver.api.body import parse
from llamaserver.api.fields import Fields
from llamaserver.api.schema import RANDOM_SEED, _seed
from llamaserver.errors import InvalidRequest


def seed(value):
    """As it comes out of a body."""
    return _seed(Fields(parse(json.dumps({"seed": value}).encode())))


@pytest.mark.parametrize("value", [0, 1, 42, 2**31 - 1, 2**31, 2**32 - 2, 42.0])
def test_thirty_two_bits_are_themselves(value):
    assert seed(value) == value


@pytest.mark.parametrize("value", [-1, RANDOM_SEED, None])
def test_one_is_drawn(value):
    drawn = {seed(value) for _ in range(20)}
    assert len(drawn) > 15
    assert all(0 <= one < RANDOM_SEED for one in drawn)


@pytest.mark.parametrize(
    ("value", "folded"),
    [
        (2**32, 1), (2**32 + 5, 4), (-2, 1), (-(2**31), 0x7FFFFFFF), (2**63 - 1, 0x80000000), (-(2**63), 0x80000000),
        (2**64 - 1, 0), (0x123456789ABCDEF0, 0x12345678 ^ 0x9ABCDEF0), (0x1_FFFF_FFFE, 0),
        (10**30, 1182072832), (1e300, 0),  # beyond 64 bits the parser makes floats
    ],
)  # fmt: skip
def test_the_halves_of_all_others_are_joined(value, folded):
    assert seed(value) == folded


@given(st.integers(-(2**63), 2**64 - 1))
def test_each_is_the_same_each_time_and_none_is_drawn(value):
    if value in (-1, RANDOM_SEED):
        return
    assert seed(value) == seed(value)
    assert 0 <= seed(value) < RANDOM_SEED


def test_seeds_that_differ_in_one_half_stay_different():
    assert len({seed(number << 32) for number in range(1000)}) == 1000
    assert len({seed(-number) for number in range(2, 1000)}) == 998


@pytest.mark.parametrize("value", ["7", 1.5, True, [1], {}])
def test_a_seed_must_be_a_whole_number(value):
    with pytest.raises(InvalidRequest, match="seed"):
        seed(value)
