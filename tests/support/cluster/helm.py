"""The chart, rendered by the real helm."""

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from dev.localcluster import binaries

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "llamaserver-operator"
Object = dict[str, Any]


class HelmError(RuntimeError):
    """helm failed; the text is what it said."""


class Helm:
    """One helm; with a kubeconfig, against that cluster."""

    def __init__(self, major: int = 4, kubeconfig: Path | None = None) -> None:
        self._start = [str(binaries.helm(major)), *([f"--kubeconfig={kubeconfig}"] if kubeconfig else [])]

    def __call__(self, *arguments: str, values: Object | None = None, timeout: float = 120) -> str:
        """Run helm; its standard output."""
        given = ["--values=-"] if values is not None else []
        done = subprocess.run(
            [*self._start, *arguments, *given],
            input=json.dumps(values or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise HelmError(f"helm {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def template(self, values: Object | None = None, *arguments: str, chart: Path = CHART) -> str:
        """The manifests of a release `demo` in the namespace `serving`."""
        return self("template", "demo", str(chart), "--namespace=serving", *arguments, values=values or {})

    def objects(self, values: Object | None = None, *arguments: str) -> list[Object]:
        """The rendered objects."""
        return [each for each in yaml.safe_load_all(self.template(values, *arguments)) if each]
