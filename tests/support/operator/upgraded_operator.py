"""A later version of the operator: `python -m tests.support.operator.upgraded_operator FLAGS`.

It renders pods otherwise (a label, a variable, a longer grace period); all else is the real operator.
"""

from typing import Any
from unittest import mock

from llamaserver_operator import __main__
from llamaserver_operator.config import Config
from llamaserver_operator.resources import pod, template
from llamaserver_operator.spec import Spec

LABEL = "example.com/renderer"


def _rendered(spec: Spec, namespace: str, name: str, image: str, config: Config) -> dict[str, Any]:
    made = pod.pod_template(spec, namespace, name, image, config)
    made["metadata"]["labels"][LABEL] = "later"
    made["spec"]["terminationGracePeriodSeconds"] += 1
    made["spec"]["containers"][0].setdefault("env", []).append({"name": "RENDERER", "value": "later"})
    return made


if __name__ == "__main__":
    with mock.patch.object(template, "pod_template", _rendered):
        __main__.main()
