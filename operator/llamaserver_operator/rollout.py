"""How pods are replaced: what the volumes allow, and what a scarce accelerator asks for. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .files import model_files
from .observed import Observed
from .pods import lacks_accelerator
from .spec import Spec


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason for Accepted=False; a blocking one leaves everything as it is."""

    reason: str
    message: str
    blocking: bool = True


@dataclass(frozen=True, slots=True)
class _Use:
    field: str
    modes: frozenset[str]

    @property
    def shared(self) -> bool:
        return bool(self.modes & {"ReadWriteMany", "ReadOnlyMany"})


def _claims_in_use(spec: Spec, observed: Observed) -> Iterable[_Use]:
    """Every claim that the pods mount, with its access modes."""

    def existing(name: str, field: str) -> Iterable[_Use]:
        # One that does not exist says nothing; the scheduler will tell that it is missing.
        if claim := observed.claims.get(name):
            yield _Use(field, frozenset(claim.get("spec", {}).get("accessModes", ())))

    places: list[tuple[str, Any]] = []
    if spec.model.cache and model_files(spec).downloads:
        places.append(("spec.model.cache", spec.model.cache))
    if spec.kv_cache and spec.kv_cache.volume:
        places.append(("spec.kvCache.volume", spec.kv_cache.volume))
    for field, volume in places:
        if volume.claim_template:
            yield _Use(f"{field}.claimTemplate.accessModes", frozenset(volume.claim_template.access_modes))
        elif volume.claim_name:
            yield from existing(volume.claim_name, f"{field}.claimName")
    for file in model_files(spec):
        if part := file.source.persistent_volume_claim:
            yield from existing(part.claim_name, f"the source on claim {part.claim_name!r}")


def claims_named(spec: Spec) -> set[str]:
    """Existing claims that the spec names."""
    found = {file.source.persistent_volume_claim for file in model_files(spec)}
    names_ = {part.claim_name for part in found if part}
    if spec.model.cache and spec.model.cache.claim_name:
        names_.add(spec.model.cache.claim_name)
    if spec.kv_cache and spec.kv_cache.volume and spec.kv_cache.volume.claim_name:
        names_.add(spec.kv_cache.volume.claim_name)
    return names_


def shared_claim_problem(spec: Spec, observed: Observed) -> Iterable[Problem]:
    """More than one pod on a claim that one node, or one pod, may mount."""
    for use in _claims_in_use(spec, observed):
        shared_store = spec.kv_cache and spec.kv_cache.scope == "Shared" and use.field.startswith("spec.kvCache")
        if not use.shared and (spec.replicas > 1 or shared_store):
            modes = ", ".join(sorted(use.modes)) or "none"
            why = f"{spec.replicas} replicas share it" if spec.replicas > 1 else "kvCache.scope is Shared"
            yield Problem("NeedsReadWriteMany", f"{use.field}: needs ReadWriteMany ({why}), has {modes}")


def surges(spec: Spec, observed: Observed) -> bool:
    """Whether a new pod may start before an old one ends."""
    uses = list(_claims_in_use(spec, observed))
    if spec.rollout.strategy == "Replace" or any(use.modes == {"ReadWriteOncePod"} for use in uses):
        return False
    if spec.rollout.strategy == "Surge":
        return True
    if not all(use.shared for use in uses):
        return False  # on another node, the new pod would wait for the volume forever
    # Once over to replacing, a rollout stays there to its end.
    return not (lacks_accelerator(spec, observed) or (_replaces(observed) and not is_complete(spec, observed)))


def _replaces(observed: Observed) -> bool:
    strategy = (observed.deployment or {}).get("spec", {}).get("strategy", {})
    return bool(strategy.get("rollingUpdate", {}).get("maxSurge") == 0)


def is_complete(spec: Spec, observed: Observed) -> bool:
    """Whether all pods are of the newest template, and available."""
    deployment = observed.deployment
    if deployment is None:
        return False
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    return seen and wanted == spec.replicas and all(count == wanted for count in counts)
