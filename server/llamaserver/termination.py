"""Why a container ended, as one JSON object where Kubernetes looks for it: {reason, message}."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

FLAG = "--termination-log"
VARIABLE = "LLAMA_ARG_TERMINATION_LOG"
DEFAULT = "/dev/termination-log"
_LONGEST = 1000  # letters of a message; the kubelet reads 4,096 bytes


def write(path: str, reason: str, message: str) -> None:
    """Write it if that is possible. The default path counts only where something has put it."""
    plain = "".join(letter if letter.isprintable() else " " for letter in message)
    value = {"reason": reason, "message": " ".join(plain.split())[:_LONGEST]}
    try:
        if path != DEFAULT or Path(path).exists():
            Path(path).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8", errors="replace")
    except OSError:
        return  # the log has the reason, too


def path_in(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Where a command line that cannot be parsed wants it."""
    found = environ.get(VARIABLE, DEFAULT)
    for place, word in enumerate(argv):
        if word == FLAG and place + 1 < len(argv):
            found = argv[place + 1]
        elif word.startswith(f"{FLAG}="):
            found = word.partition("=")[2]
    return found
