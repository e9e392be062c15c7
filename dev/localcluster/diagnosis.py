"""Why a LlamaServer does not serve, as text for the user.

It has the facts that `kubectl describe`, `kubectl logs --previous` and `kubectl get events` show, the most useful ones
first.
"""

import json
import signal
import time
from collections.abc import Iterator

from .kubectl import Kubectl, KubectlError, Object

_SETTLING = 10.0  # seconds that the kubelet gets to tell that a container has ended
_LOG_LINES = 12
_EVENTS = 6
_OUT_OF_MEMORY = (
    "The machine, or the container's limit, has too little memory. Close other programs, or use a larger one."
)
_NATIVE = (
    "The server's native code crashed. Run `llamaserver selftest -m MODEL` on this machine, and report its output."
)
_NATIVE_SIGNALS = {signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV}


def diagnosis(kubectl: Kubectl, name: str, namespace: str) -> str:
    """Conditions, ended containers with their last log lines, Warning Events and what to try; "" without an object."""
    try:
        found = kubectl.get("llamaserver", name, namespace)
        if not found:
            return ""
        pods = _pods(kubectl, namespace, found.get("status", {}).get("selector", ""))
        found = kubectl.get("llamaserver", name, namespace)
        parts = (_conditions(found), _containers(kubectl, pods), _events(kubectl, namespace), _advice(pods))
        return "\n".join(line for part in parts for line in part)
    except KubectlError as error:
        return f"the cluster cannot be asked: {error}"


def _pods(kubectl: Kubectl, namespace: str, selector: str) -> list[Object]:
    """The pods, as soon as one of their containers has ended with an error, or after a while."""
    deadline = time.monotonic() + _SETTLING
    while True:
        pods: list[Object] = kubectl.items("pods", namespace=namespace, selector=selector)
        if any(True for _ in _ended(pods)) or time.monotonic() > deadline:
            return pods
        time.sleep(0.5)


def _conditions(found: Object) -> Iterator[str]:
    conditions = found.get("status", {}).get("conditions", [])
    yield "conditions:" if conditions else "conditions: none; the operator has not looked at the object"
    for item in conditions:
        yield f"  {item['type']:<15} {item['status']:<8} {item['reason']} {item.get('message', '')}".rstrip()


def _ended(pods: list[Object]) -> Iterator[tuple[Object, Object, Object]]:
    """Each container that ended with an error: its pod, its status and how it ended."""
    for pod in pods:
        status = pod.get("status", {})
        for each in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            ended = each.get("state", {}).get("terminated") or each.get("lastState", {}).get("terminated")
            if ended and ended.get("exitCode"):
                yield pod, each, ended


def _containers(kubectl: Kubectl, pods: list[Object]) -> Iterator[str]:
    if not pods:
        yield "pods: none"
    for pod, container, ended in _ended(pods):
        name, where = pod["metadata"]["name"], container["name"]
        yield f"pod {name}, container {where}: {_how(ended)}, restarts: {container.get('restartCount', 0)}"
        if ended.get("message"):
            yield f"  its last word: {' '.join(ended['message'].split())}"
        yield "  the end of its log:"
        yield from (f"    {_log_line(line)}" for line in _log(kubectl, pod, container).splitlines())


def _log(kubectl: Kubectl, pod: Object, container: Object) -> str:
    """The end of the log of the container that ended. It may be running again by now, or begin while this reads."""
    about = pod["metadata"]
    where = [about["name"], f"--namespace={about['namespace']}", f"--container={container['name']}"]
    try:
        if "terminated" in container.get("state", {}):
            text = kubectl("logs", *where, f"--tail={_LOG_LINES}")
            if not _began_again(kubectl, about, container):
                return text
        return kubectl("logs", *where, "--previous", f"--tail={_LOG_LINES}")
    except KubectlError as error:
        return str(error)


def _began_again(kubectl: Kubectl, about: Object, container: Object) -> bool:
    status = kubectl.get("pod", about["name"], about["namespace"]).get("status", {})
    return any(
        each["name"] == container["name"] and each.get("restartCount", 0) > container.get("restartCount", 0)
        for each in status.get("containerStatuses", [])
    )


def _log_line(line: str) -> str:
    """The message of one of our JSON lines, else the line."""
    try:
        return str(json.loads(line)["msg"])
    except (ValueError, KeyError, TypeError):
        return line


def _how(ended: Object) -> str:
    code = int(ended.get("exitCode", 0))
    text = f"ended with exit code {code}"
    if code > 128:
        text += f" ({_signal_name(code - 128)})"
    return f"{text}, {ended['reason']}" if ended.get("reason") else text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _events(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    items = kubectl.items("events", namespace=namespace)
    warnings = [item for item in items if item.get("type") == "Warning"]
    if warnings:
        yield "warnings:"
    for item in sorted(warnings, key=lambda item: str(item.get("lastTimestamp") or item.get("eventTime")))[-_EVENTS:]:
        about = item["involvedObject"]
        yield f"  {about['kind']} {about['name']}: {item['reason']} {' '.join(str(item.get('message')).split())}"


def _advice(pods: list[Object]) -> Iterator[str]:
    ended = [each for _, _, each in _ended(pods)]
    yield "what to try:"
    if any(each.get("reason") == "OOMKilled" for each in ended):
        yield f"  {_OUT_OF_MEMORY}"
    if any(int(each["exitCode"]) - 128 in _NATIVE_SIGNALS for each in ended):
        yield f"  {_NATIVE}"
    yield "  Run `make demo` again. If it ends in the same way, report all of the text above."
