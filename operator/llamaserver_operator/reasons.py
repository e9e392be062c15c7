"""What the reason of a condition means for whoever waits. docs/reference/conditions.md lists all reasons."""

# Only a change by the user, or by an administrator, can help: the condition Stalled is True, and tools stop to wait.
# A reason belongs here only when waiting is in vain for certain. The following do not:
# - SecretNotFound, ConfigMapNotFound and missing keys: the same release, or another controller, may make them soon.
# - Unschedulable, ClaimPending, FailedCreate, Evicted, FailedMount and FailedAttachVolume: nodes, quotas and volumes
#   become free.
# - ImagePullFailed and DownloadFailed: registries and mirrors come back.
# - DiskFull: models that nobody uses any more are removed from a shared volume after some minutes.
# - Forbidden and WebhookFailed: rights and webhooks often come up beside the object.
# - Crashed and OOMKilled: the container is started again. Stalled waits until it has crashed again and again.
# All of them stall when the rollout's deadline is over (spec.rollout.progressDeadlineSeconds).
STALLING = frozenset({
    "InvalidSpec", "Invalid", "NeedsReadWriteMany", "ClaimConflict", "NameConflict",
    "ModelNotFound", "Unauthorized", "NotGGUF", "ChecksumMismatch", "BadSpec", "ModelLoadFailed",
    "BadArguments", "TemplateInvalid", "ImageVolumesUnsupported", "RunningOnCPU", "Paused",
})  # fmt: skip

# The model is on its way, however late: a deadline that is over does not stall these.
MOVING = frozenset({"Downloading", "WaitingForDownload", "Loading"})

# No news to worry about: an Event of these is Normal.
ON_THE_WAY = MOVING | {"RollingOut", "ScaledToZero", "Empty", "NotWanted", "WaitingForDeletion", "Deleting"}

# A container that ends again and again is told by one of these.
LOOPING = frozenset({"CrashLoopBackOff", "CrashedNatively", "OOMKilled"})
