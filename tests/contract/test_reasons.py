"""The words that a container of ours leaves behind when it fails: those of the server are those of the operator."""

import ast
from collections.abc import Iterator
from pathlib import Path

import llamaserver
import pytest
from llamaserver import http_client, termination
from llamaserver_operator import pods

from tests.support.worlds import pod

MODULES = sorted(Path(llamaserver.__file__).parent.glob("*.py"))


def written() -> set[str]:
    """Reasons in the server's code: what DownloadError and termination.write are given."""
    found = set(http_client._REASONS.values()) | {"DownloadFailed"}  # the default of DownloadError
    for module in MODULES:
        tree = ast.parse(module.read_text())
        local = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id == "reason"
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found |= {word for value in _reasons(node, local) for word in _words(value)}
    return found


def _reasons(call: ast.Call, local: dict[str, ast.expr]) -> Iterator[ast.expr]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    place = {"DownloadError": 1, "write": 1}.get(name)
    ours = name == "DownloadError" or (isinstance(call.func, ast.Attribute) and _is_termination(call.func.value))
    if place is not None and ours and len(call.args) > place:
        value = call.args[place]
        yield local.get(value.id, value) if isinstance(value, ast.Name) else value


def _is_termination(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "termination"


def _words(value: ast.expr) -> list[str]:
    if isinstance(value, ast.IfExp):
        return [*_words(value.body), *_words(value.orelse)]
    return [value.value] if isinstance(value, ast.Constant) and isinstance(value.value, str) else []


def test_the_operator_knows_the_servers_reasons():
    assert written() == pods._MODEL | {"BadArguments"}


@pytest.mark.parametrize("reason", sorted(pods._MODEL))
def test_reasons_about_the_model_are_told_by_model_available(reason: str, tmp_path: Path):
    log = tmp_path / "log"
    termination.write(str(log), reason, 'what "happened"\nthere ' + "x" * 3000)
    ended = {"exitCode": 1, "reason": "Error", "message": log.read_text()[:4096]}
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    container = {"name": "fetch", "state": state, "lastState": {"terminated": ended}}
    found = pods.trouble(pod(initContainerStatuses=[container]))
    assert found
    assert (found.condition, found.reason) == ("ModelAvailable", reason)
    assert found.message.startswith('what "happened" there xxx')
