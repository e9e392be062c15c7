"""kubectl against one kubeconfig, with objects as dictionaries."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import binaries

Object = dict[str, Any]


class KubectlError(RuntimeError):
    """kubectl failed. The text is its error message."""


@dataclass(frozen=True)
class Kubectl:
    """All requests go through the real client, like those of a user."""

    kubeconfig: Path

    def command(self, *arguments: str) -> list[str]:
        """The command line. The kubeconfig of the machine's user is never read."""
        return [str(binaries.kubectl()), f"--kubeconfig={self.kubeconfig}", *arguments]

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl. Returns its standard output."""
        command = self.command(*arguments)
        done = subprocess.run(command, input=stdin or "", capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def get(self, kind: str, name: str, namespace: str = "") -> Object:
        """One object. It is an empty dictionary when it does not exist."""
        return self._read(kind, namespace, name)

    def items(self, kinds: str, namespace: str = "", selector: str = "") -> list[Object]:
        """The objects of one or several kinds (`pods,services`)."""
        found = self._read(kinds, namespace, *([f"--selector={selector}"] if selector else []))
        return [*found.get("items", [])]  # kubectl prints nothing for an empty list

    def _read(self, kinds: str, namespace: str, *which: str) -> Object:
        where = [f"--namespace={namespace}"] if namespace else []
        found: Object = json.loads(self("get", kinds, *which, *where, "--output=json", "--ignore-not-found") or "{}")
        return found

    def apply(self, *objects: Object) -> None:
        """Apply objects on the server's side."""
        self("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=_list(objects))

    def create(self, *objects: Object) -> None:
        """Create objects. It fails when one exists."""
        self("create", "--filename=-", stdin=_list(objects))

    def patch(self, kind: str, name: str, change: Object, *, namespace: str = "", subresource: str = "") -> None:
        """A merge patch."""
        where = [f"--namespace={namespace}"] if namespace else []
        part = [f"--subresource={subresource}"] if subresource else []
        self("patch", kind, name, *where, *part, "--type=merge", f"--patch={json.dumps(change)}")

    def delete(self, kind: str, name: str, namespace: str = "", *, wait: bool = True) -> None:
        """Delete an object. It is no error when there is none."""
        where = [f"--namespace={namespace}"] if namespace else []
        self("delete", kind, name, *where, "--ignore-not-found", f"--wait={str(wait).lower()}", timeout=180)


def _list(objects: Sequence[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
