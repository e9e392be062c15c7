"""The Deployment of the pods."""

from collections.abc import Mapping
from typing import Any

from .. import names
from ..manifests import Manifest
from ..spec import Spec
from .metadata import metadata
from .template import Template


def deployment(owner: Mapping[str, Any], spec: Spec, template: Template, *, surge: bool) -> Manifest:
    """The Deployment. With `surge`, a new pod starts before an old pod ends. Otherwise the old pod ends first.

    `type: Recreate` is never used, because server-side apply refuses it beside a defaulted rollingUpdate.
    """
    name = owner["metadata"]["name"]
    about = metadata(owner)
    about["annotations"] = {names.TEMPLATE_ANNOTATION: template.record()}
    update = {"maxSurge": 1, "maxUnavailable": 0} if surge else {"maxSurge": 0, "maxUnavailable": 1}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": about,
        "spec": {
            "replicas": spec.replicas,
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": spec.rollout.progress_deadline_seconds,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": update},
            "selector": {"matchLabels": names.selector(name)},
            "template": template.template,
        },
    }
