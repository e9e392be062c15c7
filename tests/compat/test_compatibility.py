"""docs/reference/compatibility.md has a row for every item of the document, and the tests it names pass."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.compat.extract import items
from tests.compat.today import new_items
from tests.conftest import OUTCOMES

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(.+?)` \| (.*?) \| (.*) \|$", re.M)
TABLE = (ROOT / "docs/reference/compatibility.md").read_text()
ROWS = [(item, re.findall(r"`([^`]+)`", tests), note) for item, tests, note in ROW.findall(TABLE)]
DIFFERENCES = re.findall(r"`(tests/[^`]+)`", TABLE.partition("\n## What this server decides otherwise\n")[2])
ITEMS = (ROOT / "tests/compat/items.txt").read_text().splitlines()
TODAY = (ROOT / "tests/compat/today.txt").read_text().splitlines()


def test_every_item_has_one_row() -> None:
    assert Counter(item for item, _, _ in ROWS) == Counter([*ITEMS, *TODAY])


def test_the_items_of_today_are_those_of_the_vendored_document() -> None:
    assert new_items() == TODAY


def test_every_row_names_its_tests() -> None:
    assert [item for item, tests, _ in ROWS if not tests] == []


def test_every_difference_names_its_tests() -> None:
    lines = TABLE.partition("\n## What this server decides otherwise\n")[2].splitlines()
    assert [line for line in lines if line.startswith("| ") and "`tests/" not in line] == [
        "| here | elsewhere | tests |"
    ]


def test_only_two_items_are_refused() -> None:
    refused = [item for item, _, note in ROWS if "refused" in note.lower()]
    assert refused == ["option --lora-base", "field POST /embedding image_data"]


@pytest.mark.model
@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_named_tests_pass(request: pytest.FixtureRequest) -> None:
    """Those that have run are looked up; those that have not (a part of the suite was asked for) run now."""
    named = dict.fromkeys([*(test for _, tests, _ in ROWS for test in tests), *DIFFERENCES])
    outcomes = request.config.stash[OUTCOMES]
    assert [test for test in named if not outcomes.get(test, True)] == []
    missing = [test for test in named if test not in outcomes]
    if missing:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *missing]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout[-4000:]


DOCUMENT = """
Command line options:

  • --threads N, -t N: Set the number of threads.
  • -spf FNAME, --system-prompt-file FNAME Set a file. See more
  • --numa distribute: Spread execution
  • -mg i, --main-gpu i: When using multiple GPUs
Build
API Endpoints
  • GET /health: Returns the current state:
    • 503 -> {"status": "loading model"} if the model is still being loaded.
    • 503 -> {"status": "busy"} if the query parameter fail_on_no_slot is provided
  • POST /completion: Given a prompt
    Options:

    prompt: Provide the prompt
Result JSON
  • content: Completion result
  • POST /slots/{id_slot}?action=erase: Erase
Result JSON
{ "id_slot": 0 }
  • llamacpp:kv_cache_tokens: KV-cache tokens.
More examples
Change system prompt on runtime
anti_prompt: Specify the word
Interactive mode
node chat.mjs
{"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}
"""


def test_items_are_read_out_of_the_text() -> None:
    assert items(DOCUMENT) == [
        "option --threads",
        "option -t",
        "option -spf",
        "option --system-prompt-file",
        "option --numa distribute",
        "option -mg",
        "option --main-gpu",
        "endpoint GET /health",
        'answer GET /health 503 {"status": "loading model"}',
        'answer GET /health 503 {"status": "busy"} with fail_on_no_slot',
        "query GET /health fail_on_no_slot",
        "endpoint POST /completion",
        "field POST /completion prompt",
        "answer POST /completion content",
        "endpoint POST /slots/{id_slot}?action=erase",
        "answer POST /slots/{id_slot}?action=erase id_slot",
        "metric llamacpp:kv_cache_tokens",
        "field POST /completion system_prompt.anti_prompt",
        "example node chat.mjs",
        "error 401 authentication_error: Invalid API Key",
    ]
