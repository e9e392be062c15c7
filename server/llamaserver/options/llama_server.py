"""Arguments of today's llama-server that are no options here.

An ignored argument cannot change an answer: what it asks for is always so, or there is nothing to tune. It is
accepted with a warning. A refused argument is an error with a reason of its own. All other arguments are unknown.
"""

IGNORED = (
    *("--jinja", "--no-jinja", "--ui", "--webui", "--no-ui", "--no-webui", "--perf", "--no-perf", "--props"),
    *("-kvo", "--kv-offload", "--mmproj-auto", "--no-mmproj-auto", "--no-mmproj", "--mmproj-offload", "--swa-full"),
    *("--cache-prompt", "--cache-idle-slots", "--no-cache-idle-slots", "--repack", "--op-offload", "--check-tensors"),
    *("-e", "--escape", "--no-escape", "--log-jsonl", "--log-prefix", "--no-log-prefix"),
    *("--log-timestamps", "--no-log-timestamps"),
)
IGNORED_WITH_VALUE = (
    *("-fit", "--fit", "-fitt", "--fit-target", "-fitc", "--fit-ctx", "-ctxcp", "--ctx-checkpoints"),
    *("--swa-checkpoints", "-cms", "--checkpoint-min-step", "-dt", "--defrag-thold", "--cache-reuse", "-lzm"),
    *("--lazy-mode", "-sps", "--slot-prompt-similarity", "--prio", "--prio-batch", "--poll", "--poll-batch"),
    *("--sse-ping-interval", "--log-colors"),
)
REFUSED = {
    "--lora-base": "the library applies adapters to the loaded model as it runs and cannot use another base. "
    "Merge the adapter into that base offline instead",
}
