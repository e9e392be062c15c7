"""The items of the April 2024 document: every option, endpoint, field, metric, error and example in its text.

`python -m tests.compat.extract README.txt > tests/compat/items.txt` writes the list that
docs/reference/compatibility.md is held against. The text is the page of llama.cpp's examples/server/README.md
as a browser copies it.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

FLAG = re.compile(r"(?:^|[\s,])(--?[a-z][a-z-]*)(?: ([a-z]{2,}))?")
ENDPOINT = re.compile(r"^\s*• (GET|POST) (/[^\s:]+):")
REQUEST = re.compile(r"^    ([a-z_]+): \S")
RESULT = re.compile(r"^\s*• ([a-z_]+)(?::| -) ")
KEY = re.compile(r'"([a-z_]+)":')
METRIC = re.compile(r"^\s*• (llamacpp:[a-z_]+): ")
HEALTH = re.compile(r"^\s*• (\d{3}) -> (\{.*?\}) (if .*)")
QUERY = re.compile(r"query parameter ([a-z_]+)")
EXAMPLE = re.compile(r"^\s*((?:\./server|server\.exe|docker run|curl|node|bash|import openai|<html>)(?: .*)?)$")
IMAGE = re.compile(r" [\w.]+/\S+:server(-cuda)? ")  # of a container
ERROR = re.compile(r'"code": (\d+),\s*"message": "([^"]*)",\s*"type": "([^"]*)"')


def between(text: str, start: str, end: str) -> str:
    """The lines from the one that is `start` to the one that is `end`."""
    lines = text.splitlines()
    first = lines.index(start)
    return "\n".join(lines[first : lines.index(end, first)])


def options(text: str) -> Iterator[str]:
    for bullet in re.findall(r"^\s*• (-.*)$", between(text, "Command line options:", "Build"), re.M):
        head = re.split(r":| Set ", bullet)[0]
        for flag, value in FLAG.findall(head):
            yield f"option {flag} {value}".rstrip()


def endpoints(text: str) -> Iterator[str]:
    """Endpoints with the fields of their requests and results."""
    endpoint, result = "", False
    for line in between(text, "API Endpoints", "More examples").splitlines():
        if found := ENDPOINT.match(line):
            endpoint, result = f"{found[1]} {found[2]}", False
            yield f"endpoint {endpoint}"
        elif line.strip() == "Result JSON":
            result = True
        elif found := HEALTH.match(line):
            provided = " with fail_on_no_slot" if "fail_on_no_slot" in found[3] else ""
            yield f"answer GET /health {found[1]} {found[2]}{provided}"
        elif found := METRIC.match(line):
            yield f"metric {found[1]}"
        elif result:
            names = [found[1]] if (found := RESULT.match(line)) else KEY.findall(line)
            yield from (f"answer {endpoint} {name}" for name in names)
        elif found := REQUEST.match(line):
            yield f"field {endpoint} {found[1]}"
        yield from (f"query {endpoint} {name}" for name in QUERY.findall(line))


def system_prompt(text: str) -> Iterator[str]:
    part = between(text, "Change system prompt on runtime", "Interactive mode")
    yield from (f"field POST /completion system_prompt.{name}" for name in re.findall(r"^([a-z_]+): ", part, re.M))


def examples(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if found := EXAMPLE.match(line):
            yield f"example {IMAGE.sub(' IMAGE ', found[1])}".rstrip(" \\")


def errors(text: str) -> Iterator[str]:
    yield from (f"error {code} {kind}: {message}" for code, message, kind in ERROR.findall(text))


def items(text: str) -> list[str]:
    """Every item once, in the document's order."""
    found = [*options(text), *endpoints(text), *system_prompt(text), *examples(text), *errors(text)]
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    print("\n".join(items(Path(sys.argv[1]).read_text(encoding="utf-8"))))
