"""What the reason of a condition means for a tool that waits. docs/reference/conditions.md lists all reasons."""

# Only a change by the user, or by an administrator, can help. The condition Stalled is True, and tools stop waiting.
# A reason belongs here only if waiting certainly does not help. These reasons do not belong here:
# - SecretNotFound, ConfigMapNotFound and missing keys: the same release or another controller may create them soon.
# - Unschedulable, ClaimPending, FailedCreate, Evicted, FailedMount and FailedAttachVolume: nodes, quotas and volumes
#   become free.
# - ImagePullFailed and DownloadFailed: registries and mirrors may answer again.
# - DiskFull: models that no object uses are deleted from a shared volume after some minutes.
# - Forbidden and WebhookFailed: permissions and webhooks are often created at the same time as the object.
# - Crashed and OOMKilled: the container is started again. Stalled waits until it has crashed again and again.
# All of them set Stalled when the rollout has passed its deadline (spec.rollout.progressDeadlineSeconds).
STALLING = frozenset({
    "InvalidSpec", "Invalid", "NeedsReadWriteMany", "ClaimConflict", "NameConflict",
    "ModelNotFound", "Unauthorized", "SourceNotAllowed", "NotGGUF", "ChecksumMismatch", "BadSpec", "ModelLoadFailed",
    "BadArguments", "TemplateInvalid", "ImageVolumesUnsupported", "RunningOnCPU", "Paused",
})  # fmt: skip

# The model is being downloaded or loaded. A passed deadline does not set Stalled for these.
MOVING = frozenset({"Downloading", "WaitingForDownload", "Loading"})

# Nothing is wrong: an Event with one of these reasons is Normal.
ON_THE_WAY = MOVING | {"RollingOut", "ScaledToZero", "Empty", "NotWanted", "WaitingForDeletion", "Deleting"}

# The reasons of a container that ends again and again.
LOOPING = frozenset({"CrashLoopBackOff", "CrashedNatively", "EngineFailed", "OOMKilled"})
