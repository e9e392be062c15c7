"""The items of today's document of llama-server that the document of April 2024 does not have.

`python -m tests.compat.today >tests/compat/today.txt` writes the list that docs/reference/compatibility.md is held
against. The items are the fields of requests and answers of the endpoints that both documents have.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.vendored import vendored_readme

SECTION = re.compile(r"^### (POST) `(/completion|/infill)`")
REQUEST = re.compile(r"^(?:- )?`([a-z_]+)`: ")
RESULT = re.compile(r"^- `([a-z_]+)`")
KNOWN = Path(__file__).parent / "items.txt"


def items(text: str) -> Iterator[str]:
    """The items in the order of the document."""
    endpoint, answer = "", False
    for line in text.splitlines():
        if line.startswith("##"):
            found = SECTION.match(line)
            endpoint, answer = (f"{found[1]} {found[2]}" if found else ""), False
        elif line.startswith("**Response format**"):
            answer = True
        elif endpoint and (found := (RESULT if answer else REQUEST).match(line)):
            yield f"{'answer' if answer else 'field'} {endpoint} {found[1]}"


def new_items() -> list[str]:
    """The items that the document of April 2024 does not have."""
    known = set(KNOWN.read_text().splitlines())
    return [item for item in dict.fromkeys(items(vendored_readme())) if item not in known]


if __name__ == "__main__":
    print("\n".join(new_items()))
