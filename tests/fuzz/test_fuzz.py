"""The short form of `make fuzz`: no request of a few hundred gets another answer than allowed, or much memory.

Times and lags have no bounds here: other tests may run at the same time.
"""

from pathlib import Path
from random import Random

import pytest

from tests.fuzz.draw import GENERATING, draw
from tests.fuzz.run import Outcome, fuzz, table
from tests.fuzz.values import PARAMETERS
from tests.support.models import Models

REQUESTS = 300
GROWTH = 300 << 20  # bytes


def test_every_field_of_the_table_is_drawn_at_its_bounds_and_beyond() -> None:
    bodies = [draw(Random(f"1/{number}"), GENERATING).body for number in range(REQUESTS)]
    for item in PARAMETERS:
        values = [body[item.names[-1]] for body in bodies if item.names[-1] in body]
        assert len(values) >= 5, item.names
        if item.budget is None and item.kind is not bool:
            assert {item.low, item.high} - {None} <= set(values) | {-1}, item.names


@pytest.mark.slow
def test_products_of_maxima_cost_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome: Outcome = fuzz("generating", Models(tmp_path).fim(), range(REQUESTS), seed=1)
    with capsys.disabled():
        print(f"\n{table(outcome)}")
    assert sum(outcome.statuses.values()) == REQUESTS
    assert {kind for _, kind in outcome.statuses} <= {"200", "400", "413", "501", "503", "left"}
    assert not [
        line for line in outcome.wrong if "after" not in line or not line.partition(": ")[2].startswith(("2", "4"))
    ]
    assert outcome.grown < GROWTH
