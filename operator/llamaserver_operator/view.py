"""View: the spec, the cluster as observed, and what follows from both. Conditions and status are made from it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from .crashes import End, last_end
from .manifests import ObjectCondition, Pod
from .observed import Observed, is_ready
from .pods import Trouble, trouble
from .problems import Problem
from .remedies import ended, explained
from .reports import AcceleratorReport, KvStore, Report
from .rollout import is_complete
from .spec import Spec

_REFUSALS = ("Forbidden", "WebhookFailed", "Invalid")
_DOWNLOAD_FAILURES = ("DownloadFailed", "ModelNotFound", "Unauthorized")


@dataclass(frozen=True)
class View:
    """Made once per reconcile. Each property is computed once."""

    spec: Spec
    observed: Observed
    problems: tuple[Problem, ...]
    now: datetime

    @cached_property
    def troubles(self) -> list[Trouble]:
        """Troubles of the pods of the newest template."""
        pods = self.observed.new_pods()
        if any(is_ready(pod) for pod in pods):  # an evicted pod stays in the list for long after it was replaced
            pods = [pod for pod in pods if pod.get("status", {}).get("phase") != "Failed"]
        return [found for pod in pods if (found := self._trouble_of(pod))]

    def _trouble_of(self, pod: Pod) -> Trouble | None:
        found = explained(trouble(pod, self.observed.warnings), pod, self.spec, self.observed)
        report = self.observed.reports.get(pod["metadata"]["name"], Report())
        downloads = report.get("state") == "downloading" and (report.get("download") or {}).get("bytes")
        # The status of a container keeps its last failure, also while the next attempt receives data.
        return None if found and found.reason in _DOWNLOAD_FAILURES and downloads else found

    def trouble(self, condition: str) -> Trouble | None:
        """The first trouble that belongs to a condition."""
        return next((item for item in self.troubles if item.condition == condition), None)

    @cached_property
    def reports(self) -> list[Report]:
        """The reports of the pods of the newest template."""
        names = [pod["metadata"]["name"] for pod in self.observed.new_pods()]
        return [self.observed.reports[name] for name in names if name in self.observed.reports]

    @cached_property
    def serving(self) -> list[Report]:
        """Reports of pods that have loaded their model."""
        return [report for report in self.reports if report.get("state") in ("ready", "draining")]

    @cached_property
    def worst_accelerator(self) -> AcceleratorReport | None:
        """The report of the serving pod that has the fewest layers on its device."""
        found = [part for report in self.serving if (part := report.get("accelerator")) is not None]
        return min(found, key=lambda item: item.get("layers_offloaded", 0), default=None)

    @cached_property
    def stores(self) -> list[KvStore]:
        """The KV stores of the serving pods. None unless the spec stores conversations on a volume."""
        if not (self.spec.kv_cache and self.spec.kv_cache.stores):
            return []
        return [part for report in self.serving if (part := report.get("kv_store")) is not None]

    @cached_property
    def complete(self) -> bool:
        """Whether every pod is of this spec, and available."""
        return self.refused is None and is_complete(self.spec, self.observed)

    @cached_property
    def unreported(self) -> bool:
        """Whether all pods are ready and none has sent a report. Busy pods may answer too late."""
        return self.spec.replicas > 0 and self.complete and not self.reports

    @cached_property
    def _ends(self) -> list[End]:
        return [end for pod in self.observed.new_pods() if (end := last_end(pod))]

    def ended(self, end: End) -> Trouble:
        """The trouble that an end of a server means."""
        (pod,) = (pod for pod in self.observed.new_pods() if pod["metadata"]["name"] == end.pod)
        return ended(pod, end, self.observed)

    @cached_property
    def crashed(self) -> End | None:
        """The latest end of a server that is not ready again and that left no reason of its own."""
        return max((end for end in self._ends if not (end.past or end.stated)), key=_finished, default=None)

    @cached_property
    def looping(self) -> End | None:
        """The latest end among servers that crash again and again, also while they serve for a moment."""
        found = [end for end in self._ends if end.again_and_again and (not end.past or end.calm_in(self.now))]
        return max(found, key=_finished, default=None)

    @cached_property
    def calm_in(self) -> float:
        """Seconds until a server that crashed again and again counts as ready. 0 when there is no such server."""
        end = self.looping
        return end.calm_in(self.now).total_seconds() if end else 0.0

    @cached_property
    def deployment_conditions(self) -> Mapping[str, ObjectCondition]:
        """The Deployment's own conditions by type. None while they are about an earlier generation of it."""
        deployment = self.observed.deployment or {}
        status = deployment.get("status", {})
        if status.get("observedGeneration", 0) < deployment.get("metadata", {}).get("generation", 0):
            return {}
        return {item["type"]: item for item in status.get("conditions", [])}

    @cached_property
    def refused(self) -> Problem | None:
        """What the API server refused. Then the pods, if there are any, are of an earlier spec."""
        return next((item for item in self.problems if item.reason in _REFUSALS), None)

    @cached_property
    def blocked(self) -> bool:
        """Whether a problem keeps the operator from acting on the spec."""
        return any(problem.blocking for problem in self.problems)


def _finished(end: End) -> float:
    return end.finished.timestamp() if end.finished else 0.0
