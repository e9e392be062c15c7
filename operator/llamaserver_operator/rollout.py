"""How a rollout replaces pods: the volumes and the free accelerators decide. Pure."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from . import names
from .files import model_files
from .manifests import ClaimSpec, Pod
from .observed import Observed, ending, owner_uid
from .pods import lacks_accelerator
from .problems import Problem
from .spec import ClaimTemplate, KvVolume, ModelCache, Spec


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
        # If the claim does not exist, the scheduler reports it.
        if claim := observed.claims.get(name):
            yield _Use(field, frozenset(claim.get("spec", {}).get("accessModes", ())))

    for field, volume, _ in _volumes(spec):
        if volume.claim_template:
            yield _Use(f"{field}.claimTemplate.accessModes", frozenset(volume.claim_template.access_modes))
        elif volume.claim_name:
            yield from existing(volume.claim_name, f"{field}.claimName")
    for file in model_files(spec):
        if part := file.source.persistent_volume_claim:
            yield from existing(part.claim_name, f"{file.field}.persistentVolumeClaim.claimName")


def _volumes(spec: Spec) -> Iterator[tuple[str, ModelCache | KvVolume, Callable[[str], str]]]:
    """The volumes that may be claims: field, value, and the function that names the claim made for an object."""
    if spec.model.cache and model_files(spec).downloads:
        yield "spec.model.cache", spec.model.cache, names.model_claim
    if spec.kv_cache and spec.kv_cache.volume:
        yield "spec.kvCache.volume", spec.kv_cache.volume, names.kv_claim


def claims_named(spec: Spec) -> set[str]:
    """Names of existing claims in the spec."""
    found = {file.source.persistent_volume_claim for file in model_files(spec)}
    names_ = {part.claim_name for part in found if part}
    if spec.model.cache and spec.model.cache.claim_name:
        names_.add(spec.model.cache.claim_name)
    if spec.kv_cache and spec.kv_cache.volume and spec.kv_cache.volume.claim_name:
        names_.add(spec.kv_cache.volume.claim_name)
    return names_


def claims_of(pod: Pod) -> set[str]:
    """Names of the claims that a pod mounts, also of those made for this pod only."""
    found = set()
    for volume in pod["spec"].get("volumes", ()):
        if claim := volume.get("persistentVolumeClaim"):
            found.add(str(claim["claimName"]))
        elif "ephemeral" in volume:
            found.add(f"{pod['metadata']['name']}-{volume['name']}")
    return found


def claim_field(spec: Spec, owner: str, claim: str) -> str:
    """The field that makes pods mount a claim."""
    for field, volume, made in _volumes(spec):
        if volume.claim_template and claim == made(owner):
            return f"{field}.claimTemplate"
        if volume.claim_name == claim:
            return f"{field}.claimName"
    for file in model_files(spec):
        if (part := file.source.persistent_volume_claim) and part.claim_name == claim:
            return f"{file.field}.persistentVolumeClaim.claimName"
    return "spec.podTemplate.volumes"


def shared_claim_problem(spec: Spec, observed: Observed) -> Iterable[Problem]:
    """A problem for each claim that several pods would share, but only one node or one pod can mount."""
    for use in _claims_in_use(spec, observed):
        shared_store = spec.kv_cache and spec.kv_cache.scope == "Shared" and use.field.startswith("spec.kvCache")
        if not use.shared and (spec.replicas > 1 or shared_store):
            modes = ", ".join(sorted(use.modes)) or "none"
            why = f"{spec.replicas} replicas share it" if spec.replicas > 1 else "kvCache.scope is Shared"
            yield Problem("NeedsReadWriteMany", f"{use.field}: needs ReadWriteMany ({why}), has {modes}")


def claim_conflicts(spec: Spec, observed: Observed) -> Iterable[Problem]:
    """A problem for each claim of an earlier object or spec that has other properties than the spec asks for."""
    owner = observed.owner["metadata"]
    have = {claim["metadata"]["name"]: claim for claim in observed.own_claims}
    for field, volume, made in _volumes(spec):
        template, live = volume.claim_template, have.get(name := made(owner["name"]))
        if template is None or live is None or owner_uid(live) not in ("", observed.uid):
            continue
        lost = "the model is downloaded again" if field == "spec.model.cache" else "the conversations in it are lost"
        delete = f"kubectl delete pvc {name} --namespace={owner['namespace']}"
        for part, wanted, found in _differences(template, live["spec"]):
            has, asks = f"of an earlier object or spec has {part} {found}", f"{field}.claimTemplate asks for {wanted}"
            text = f"claim {name} {has}, but {asks}"
            if ending(live):
                yield Problem("WaitingForDeletion", f"{text}. It is being deleted and waits for the pods that mount it")
            else:
                yield Problem("ClaimConflict", f"{text}. Ask for {found}, or delete the claim ({lost}): {delete}")


def _differences(wanted: ClaimTemplate, live: ClaimSpec) -> Iterator[tuple[str, str, str]]:
    """Properties of a claim that cannot change and that differ: name, wanted value, present value."""
    modes, have = wanted.access_modes, live.get("accessModes", ())
    if set(modes) != set(have):
        yield "accessModes", ", ".join(sorted(modes)), ", ".join(sorted(have))
    storage, used = wanted.storage_class_name, live.get("storageClassName", "")
    if storage is not None and storage != used:
        yield "storageClassName", storage or '""', used or '""'


def surges(spec: Spec, observed: Observed) -> bool:
    """Whether a new pod may start before an old pod ends."""
    uses = list(_claims_in_use(spec, observed))
    if spec.rollout.strategy == "Replace" or any(use.modes == {"ReadWriteOncePod"} for use in uses):
        return False
    if spec.rollout.strategy == "Surge":
        return True
    if not all(use.shared for use in uses):
        return False  # a new pod on another node would wait forever for the volume
    # A rollout that has begun to replace pods in place does so until its end.
    return not (lacks_accelerator(spec, observed) or (_replaces(observed) and not is_complete(spec, observed)))


def _replaces(observed: Observed) -> bool:
    strategy = (observed.deployment or {}).get("spec", {}).get("strategy", {})
    return bool(strategy.get("rollingUpdate", {}).get("maxSurge") == 0)


def is_complete(spec: Spec, observed: Observed) -> bool:
    """Whether all pods run the newest template and are available."""
    deployment = observed.deployment
    if deployment is None:
        return False
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    return seen and wanted == spec.replicas and all(count == wanted for count in counts)
