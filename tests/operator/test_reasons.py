"""docs/reference/conditions.md has every condition type, reason and Event, with cause, remedy and effect on Stalled."""

import ast
import re
from pathlib import Path

import llamaserver_operator
import pytest
from llamaserver_operator import crashes, errors, reasons, status

from tests.support.operator.schema import ROOT

CODE = Path(llamaserver_operator.__file__).parent
DECIDING = ("conditions", "crashes", "plan", "pods", "reasons", "reconcile", "remedies", "rollout", "status", "view")
TEXT = (ROOT / "docs" / "reference" / "conditions.md").read_text()
CAMEL = re.compile(r"[A-Z][a-z]+(?:[A-Z]+[a-z]*)*|[A-Z]{2,}[a-z]+(?:[A-Z]+[a-z]*)*")
TYPES = {
    "Ready", "Available", "Stalled", "Accepted", "ModelAvailable", "Scheduled", "Progressing", "Accelerated",
    "CacheRestored",
}  # fmt: skip
# What the code names in the same way: values of conditions, fields and kinds, and words of Kubernetes.
OTHERS = {
    "True", "False", "Unknown", "Normal", "Warning",
    "Always", "Never", "Managed", "Fail", "Replace", "Surge", "Shared",
    "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod",
    "Failed", "Succeeded", "Completed", "Error", "PodScheduled", "ReplicaFailure",
    "FailedBinding", "WaitForFirstConsumer", "WaitForPodScheduled",
    "ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "RegistryUnavailable",
}  # fmt: skip


def in_code() -> set[str]:
    """Reasons in the code: constants in camel case that are nothing else."""
    words = set()
    for name in DECIDING:
        for node in ast.walk(ast.parse((CODE / f"{name}.py").read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and CAMEL.fullmatch(node.value):
                words.add(node.value)
    words -= {"KeyNotFound"} | OTHERS
    refusals = {"Forbidden", "WebhookFailed", "Invalid", "InvalidSpec"}
    assert all(hasattr(errors, name) for name in refusals), "an error's name is its reason"
    return words | refusals | {"SecretKeyNotFound", "ConfigMapKeyNotFound"}


def rows() -> dict[str, list[str]]:
    """Cells of the table of reasons, by reason."""
    part = TEXT.partition("## Reasons")[2]
    found = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| `")
    ]
    assert all(len(row) == 5 for row in found)
    return {row[0].strip("`"): row[1:] for row in found}


def test_every_reason_of_the_code_has_a_row_and_no_other():
    both = {"Available", "Scheduled"}  # reasons that are called like a type
    assert set(rows()) == in_code() - (TYPES - both)


def test_every_type_has_a_row():
    table = TEXT.partition("## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == TYPES


def test_the_column_stalls_is_that_of_the_code():
    stalls = {reason: cells[1] for reason, cells in rows().items()}
    assert set(stalls.values()) == {"at once", "again", "deadline", "-"}
    assert {reason for reason, when in stalls.items() if when == "at once"} == reasons.STALLING | {
        "ProgressDeadlineExceeded"
    }
    assert {reason for reason, when in stalls.items() if when == "again"} == reasons.LOOPING
    assert {reason for reason in reasons.MOVING if stalls[reason] != "-"} == set()


@pytest.mark.parametrize("row", rows())
def test_every_reason_has_a_cause_and_a_remedy(row: str):
    _, stalls, cause, remedy = rows()[row]
    assert cause.endswith(".")
    assert remedy.endswith((".", "`"))
    assert stalls == "-" or remedy != "None needed."


def event_reasons() -> set[str]:
    """Reasons of Events that are not, or not only, those of conditions."""
    found = set(status._ENDS)
    for file in CODE.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        made = [call for call in calls if getattr(call.func, "attr", "") == "create_event"]
        assert not made or file.name == "reconcile.py", "another module writes Events: add it to DECIDING"
        found |= {call.args[3].value for call in made if isinstance(call.args[3], ast.Constant)}
    return found


def test_every_event_has_a_row():
    assert {reason for reason, cells in rows().items() if "Event" in cells[0]} == event_reasons()
    table = TEXT.partition("## Events")[2].partition("## ")[0]
    assert event_reasons() <= set(re.findall(r"`(\w+)`", table))


def test_the_figures_of_the_page_are_those_of_the_code():
    minutes = crashes.EARLY.total_seconds() / 60
    assert f"ran for {minutes:.0f} minutes" in TEXT
    assert crashes.AGAIN == 3
    assert "crashed three times or more" in TEXT


def test_no_reason_both_stalls_and_is_on_its_way():
    assert not reasons.STALLING & reasons.ON_THE_WAY
    assert not reasons.STALLING & reasons.LOOPING
