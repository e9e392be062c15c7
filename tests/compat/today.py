"""The items of today's document of llama-server that the document of April 2024 does not have.

`python -m tests.compat.today >tests/compat/today.txt` writes the list that docs/reference/compatibility.md is held
against. The items are the endpoints, and the fields of their requests and answers. What routes several models and
what runs tools on the server is left out: this server does neither.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.vendored import vendored_readme

SECTION = re.compile(r"^### \**(GET|POST|DELETE)\** `([^`]+)`")
REQUEST = re.compile(r"^(?:[-*] )?`([a-z_.]+)`(?: \(.*?\))?: ")
RESULT = re.compile(r"^[-*] `([a-z_.]+)`")
METRIC = re.compile(r"^\| `(llamacpp:[a-z_]+)` \|")
KEY = re.compile(r'^( +)"([a-z_]+)":')
KNOWN = Path(__file__).parent / "items.txt"
END = "\n## Server tools\n"


def items(text: str) -> Iterator[str]:
    """The items in the order of the document. Of an answer in JSON, these are the fields of its outermost object."""
    endpoint, answer, depth = "", False, ""
    for line in text.partition(END)[0].splitlines():
        if line.startswith("##"):
            found = SECTION.match(line)
            endpoint, answer = (f"{found[1]} {found[2]}" if found else ""), False
            if endpoint:
                yield f"endpoint {endpoint}"
        elif line.startswith("**Response"):
            answer, depth = True, ""
        elif found := METRIC.match(line):
            yield f"metric {found[1]}"
        elif answer and (found := KEY.match(line)):
            depth = depth or found[1]
            if found[1] == depth:
                yield f"answer {endpoint} {found[2]}"
        elif answer and (found := RESULT.match(line)):
            yield f"answer {endpoint} {found[1]}"
        elif endpoint and not answer and (found := REQUEST.match(line)):
            yield f"field {endpoint} {found[1]}"


def new_items() -> list[str]:
    """The items that the document of April 2024 does not have."""
    known = set(KNOWN.read_text().splitlines())
    return [item for item in dict.fromkeys(items(vendored_readme())) if item not in known]


if __name__ == "__main__":
    print("\n".join(new_items()))
